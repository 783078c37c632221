"""The network on a device: prompts and slices in, predictions out."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TypeVar

import torch
from torch import Tensor, nn

from napari_biomedparse.data.options import USUAL_BATCH
from napari_biomedparse.engine.devices import (
    SingleThreads,
    find_device,
    find_precision,
    free_memory,
    out_of_memory,
    release_memory,
)
from napari_biomedparse.engine.feature_cache import FeatureCache
from napari_biomedparse.errors import DeviceError
from napari_biomedparse.networks.blocks.boltzmann import RandomField, SeededField
from napari_biomedparse.networks.blocks.tokenizer import tokenize
from napari_biomedparse.networks.network import Features, Network, SlicePrediction

__all__ = ["CACHE_BYTES", "Engine", "SlicePrediction"]

T = TypeVar("T")
_LOGGER = logging.getLogger(__name__)

REMEMBERED_PROMPTS = 256
PROMPTS_AT_ONCE = 16
"""Prompts that a CPU decodes together."""
SMALL_MAP, SMALL_SLICES = 2**22, 8
"""Where a slice's largest map has no more bytes than this, a core's caches hold it and
a thread gains little from another's help: slices then go to the CPU's threads, each of
which decodes up to so many together."""
CACHE_BYTES = 2**30
"""Room for the features of recently seen slices: nine of the published network."""
SLICE_BYTES, PROMPT_BYTES = 640, 16
"""What a slice takes on a GPU, a pixel, and each of its prompts besides: from the
sizes of all tensors of the published network in half precision (440 and 14 bytes)."""
MOST_SLICES = 16
"""Slices that a GPU is given at once: with 13 prompts they take 3.6 GB."""
FREE_SHARE = 0.8
"""Of a GPU's free memory, that may be planned for."""


class Engine:
    """A network on a device, with the prompts and slices it has already encoded.

    Parameters
    ----------
    model : Network
        In evaluation mode. It is moved to the device; where another precision is
        used there, it stays as it is and a copy goes.
    device : str
        "auto" (the fastest there is), "cpu", "cuda", "cuda:1", "mps", ...
    seed : int
        Fixes the attention masks' random field.
    field : RandomField, optional
        Used in place of the seeded one.
    precision : str
        Of the image side, which is nearly all of the work: "float32", "bfloat16" or
        "float16". "auto" is the fastest safe one: on CUDA bfloat16 where the device
        computes in it, else float16; float32 elsewhere. Norms' statistics, mask
        logits, attention masks' probabilities and the decoder's queries are always
        float32.
    cache_bytes : int
        Room for the features of slices that came one by one, as a viewer's current
        slice does; those of longer batches are not kept.

    Raises
    ------
    DeviceError
        If this machine has no such device, or there is no such precision.
    """

    def __init__(
        self,
        model: Network,
        device: str = "cpu",
        *,
        seed: int = 0,
        field: RandomField | None = None,
        precision: str = "auto",
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self.device = find_device(device)
        self.dtype = find_precision(precision, self.device)
        self.model = model
        self._network = _place(model, self.device, self.dtype)
        self.cache = FeatureCache(cache_bytes)
        self._field = field or SeededField(seed, *model.field_shape, self.device)
        self._encode = lru_cache(maxsize=REMEMBERED_PROMPTS)(self._encode_prompt)
        on_cpu = self.device.type == "cpu"
        self._small = on_cpu and model.largest_map <= SMALL_MAP
        self._threads: SingleThreads | None = None
        self._most_slices = 2**31
        if on_cpu:
            self._most_slices = SMALL_SLICES if self._small else 1
        self._most_prompts = PROMPTS_AT_ONCE if on_cpu else 2**31
        self._fitting: dict[int, int] = {}

    @property
    def precision(self) -> str:
        """Name of the image side's precision, for the record of a result."""
        return str(self.dtype).removeprefix("torch.")

    @torch.inference_mode()
    def encode_prompts(self, texts: Sequence[str]) -> Tensor:
        """Encode prompts, each once in the engine's life.

        Parameters
        ----------
        texts : sequence of str

        Returns
        -------
        float32 Tensor [P, T, C]
            Padded with zero vectors to the longest prompt of this call.
        """
        return torch.nn.utils.rnn.pad_sequence(
            [self._encode(text) for text in texts], batch_first=True
        )

    @torch.inference_mode()
    def predict(
        self, slices: Tensor, tokens: Tensor, *, remember: bool = True
    ) -> SlicePrediction:
        """Run the network.

        On a CPU slices go through one at a time, which costs nothing there; those of a
        small network are shared among threads of which none helps another. The decoder
        gives each slice and prompt matrix products of their own; so the numbers of each
        do not depend on its company. On a GPU as many go through at once as its free
        memory suits; where it runs out nevertheless, half as many from then on.

        Parameters
        ----------
        slices : Tensor [B, 3, S, S]
            Grey levels of each slice, the one before and the one after it.
        tokens : Tensor [P, T, C]
            From `encode_prompts`.
        remember : bool
            Keep the features of a slice that comes alone, for other prompts.

        Returns
        -------
        SlicePrediction

        Raises
        ------
        DeviceError
            If the device's memory does not suffice for one slice and one prompt.
        """
        remember = remember and len(slices) == 1
        while True:
            try:
                return self._predict(slices, tokens, remember)
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                shortage = str(error)
            # Out of the handler, whose traceback would keep the tensors alive.
            self._make_room(len(slices), len(tokens), shortage)
            remember = False

    def suited_batch(self, prompts: int) -> int:
        """Choose how many slices to hand over at once.

        Parameters
        ----------
        prompts : int

        Returns
        -------
        int
            On a GPU what its free memory suits, else a few, so that results come soon.
        """
        if self.device.type == "cpu":
            return USUAL_BATCH
        return min(self._slices_at_once(prompts), MOST_SLICES)

    @property
    def side_by_side(self) -> int:
        """How many calls of `predict` at a time, with a slice each, keep it busy."""
        return torch.get_num_threads() if self._small else 1

    def _predict(
        self, slices: Tensor, tokens: Tensor, remember: bool
    ) -> SlicePrediction:
        """Predict in parts of as many slices and prompts as fit at once."""
        at_once = self._slices_at_once(len(tokens))
        if self._small:
            at_once = min(at_once, -(-len(slices) // torch.get_num_threads()))
        rows = self._each(
            lambda part: self._predict_part(part, tokens, remember),
            torch.split(slices, at_once),
        )
        return SlicePrediction(*(torch.cat(x) for x in zip(*rows, strict=True)))

    @torch.inference_mode()
    def _predict_part(
        self, slices: Tensor, tokens: Tensor, remember: bool
    ) -> list[Tensor]:
        """Predict slices that go through at once, perhaps in a thread of their own."""
        image = self.cache.get(slices, self._look) if remember else self._look(slices)
        columns = [
            self._network.decode(image, prompts, self._field)
            for prompts in torch.split(tokens, self._most_prompts)
        ]
        return [torch.cat(x, dim=1) for x in zip(*columns, strict=True)]

    def _each(self, work: Callable[[Tensor], T], parts: Sequence[Tensor]) -> list[T]:
        """Do the work of each part, a small network's in its threads."""
        if not self._small:
            return [work(part) for part in parts]
        self._threads = self._threads or SingleThreads(torch.get_num_threads())
        return list(self._threads.map(work, parts))

    def _slices_at_once(self, prompts: int) -> int:
        """Choose by the free memory, once for each number of prompts."""
        if prompts not in self._fitting:
            free = free_memory(self.device)
            pixels = self.model.image_size**2
            self._fitting[prompts] = (
                2**31
                if free is None
                else fitting_slices(free, pixels, prompts, self.dtype.itemsize)
            )
        return min(self._most_slices, self._fitting[prompts])

    def _look(self, slices: Tensor) -> Features:
        """Compute what all prompts share of slices, which may lie on the CPU."""
        encode = self._network.encode_image
        if self._small:
            each = [encode(one) for one in torch.split(slices, 1)]
            return self._network.join_features(each)
        return encode(slices.to(self.device, non_blocking=True))

    def _make_room(self, slices: int, prompts: int, shortage: str) -> None:
        """Forget slices; if there were none, halve what goes through at once."""
        if len(self.cache):
            self.cache.clear()
        elif (at_once := min(slices, self._slices_at_once(prompts))) > 1:
            self._most_slices = at_once // 2
        elif (at_once := min(prompts, self._most_prompts)) > 1:
            self._most_prompts = at_once // 2
        else:
            raise DeviceError(
                f"The memory of {self.device} does not suffice for a single slice and "
                f"prompt ({shortage.splitlines()[0]}). Close other programs that use "
                "it, or choose another device."
            )
        _LOGGER.warning(
            "The memory of %s ran out; going on with %d slices and %d prompts at once",
            self.device,
            min(slices, self._slices_at_once(prompts)),
            min(prompts, self._most_prompts),
        )
        release_memory(self.device)

    def _encode_prompt(self, text: str) -> Tensor:
        """[T, C], without padding: later tokens would not change earlier ones."""
        found = tokenize(text)
        ids = torch.from_numpy(found.ids[: found.length]).to(self.device)
        (tokens,) = self._each(self._read, [ids])
        return tokens

    @torch.inference_mode()
    def _read(self, ids: Tensor) -> Tensor:
        return self._network.encode_prompts(ids[None])[0]


def fitting_slices(free: int, pixels: int, prompts: int, itemsize: int = 2) -> int:
    """Choose how many slices a GPU takes at once.

    Parameters
    ----------
    free : int
        Bytes of memory that are left.
    pixels : int
        Of a slice, as the network sees it.
    prompts : int
    itemsize : int
        Bytes of a number on the image side.

    Returns
    -------
    int
        A power of two, so that a little more or less memory rounds nothing
        differently; at least 1.
    """
    each = pixels * (SLICE_BYTES * itemsize // 2 + prompts * PROMPT_BYTES)
    fitting = max(1, int(FREE_SHARE * free) // each)
    return 1 << (fitting.bit_length() - 1)


def _place(model: Network, device: torch.device, dtype: torch.dtype) -> Network:
    """Move a network to a device, or copy it there in another precision.

    Tensor by tensor, so that weights that are mapped from a file never lie in memory
    a second time.
    """
    if dtype == torch.float32:
        return model.to(device)
    low = set(map(id, model.low_precision_weights()))
    copies: dict[int, Tensor] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        moved = tensor.detach().to(device, dtype if id(tensor) in low else None)
        if moved.dim() == 4 and device.type == "cuda":
            moved = moved.contiguous(memory_format=torch.channels_last)
        copies[id(tensor)] = (
            nn.Parameter(moved, requires_grad=False)
            if isinstance(tensor, nn.Parameter)
            else moved
        )
    return copy.deepcopy(model, copies)
