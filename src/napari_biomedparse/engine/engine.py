"""The network on a device: prompts and slices in, predictions out."""

from __future__ import annotations

import copy
import hashlib
import logging
import os
import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TypeVar

import torch
from cachetools import LRUCache, cached
from torch import Tensor, nn

from napari_biomedparse.data.options import USUAL_BATCH
from napari_biomedparse.engine.devices import (
    SingleThreads,
    check_not_forked,
    find_device,
    find_precision,
    free_memory,
    out_of_memory,
    release_memory,
)
from napari_biomedparse.errors import DeviceError
from napari_biomedparse.networks.blocks.decoder import RandomField, SeededField
from napari_biomedparse.networks.blocks.tokenizer import tokenize
from napari_biomedparse.networks.network import (
    Features,
    KeptPrediction,
    Network,
    SlicePrediction,
)

__all__ = ["CACHE_BYTES", "Engine", "KeptPrediction", "SlicePrediction"]

T = TypeVar("T")
Tokens = Tensor | Sequence[Tensor]
OnPrompt = Callable[[int], object] | None
_LOGGER = logging.getLogger(__name__)

REMEMBERED_PROMPTS = 256
PROMPTS_AT_ONCE = 16  # prompts decoded together on a CPU
SMALL_MAP, SMALL_SLICES = 2**22, 8
"""If a slice's largest map fits in this many bytes, a core's caches hold it and threads
gain little from sharing a slice: each thread then takes slices of its own, at most
`SMALL_SLICES` together."""
CACHE_BYTES = 2**30
"""Default limit of the feature cache: nine slices of the published network."""
SLICE_BYTES, PROMPT_BYTES = 640, 16
"""Bytes per pixel that a slice, and each of its prompts, take on a GPU. Summed over all
tensors of the published network in half precision they are 440 and 14."""
MOST_SLICES = 16  # most slices for a GPU at once: with 13 prompts they take 3.6 GB
FREE_SHARE = 0.8  # share of a GPU's free memory that may be used


class Engine:
    """A network on a device, with a cache of prompts and slices already encoded.

    Parameters
    ----------
    model : Network
        In evaluation mode, for example from `load_model`. It is moved to the device;
        for half precision a copy is moved and the model is left as it is.
    device : str
        "auto" (the fastest available), "cpu", "cuda", "cuda:1", "mps", ...
    seed, field : int, RandomField
        Seed of the attention masks' random field, and a field to use instead.
    precision : str
        Precision of the image side, which is nearly all of the work: "float32",
        "bfloat16" or "float16". "auto" is the fastest safe one: on CUDA bfloat16 if
        the device supports it natively, else float16; on a CPU bfloat16 if it has
        instructions for it and the network is large; float32 elsewhere. Norms'
        statistics, mask logits, attention masks' probabilities and the decoder's
        queries are always float32.
    cache_bytes : int
        Memory on the device for the features of slices predicted one at a time, such
        as the slice in view; features of longer batches are not kept. A slice of the
        published network takes 110 MB in float32; 0 keeps nothing.

    Raises
    ------
    DeviceError
        If the device or precision is not available.
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
        self._process = os.getpid()
        check_not_forked()
        self.device = find_device(device)
        on_cpu = self.device.type == "cpu"
        self._small = on_cpu and model.largest_map <= SMALL_MAP
        self.dtype = find_precision(precision, self.device, small=self._small)
        self.model = model
        self._network = _place(model, self.device, self.dtype)
        self._lock = threading.Lock()  # slices may be predicted in several threads
        self.cache: LRUCache[bytes, Features] = LRUCache(
            cache_bytes, getsizeof=lambda features: features.nbytes
        )
        self._remembered = cached(self.cache, _content, self._lock)(self._encode_image)
        self._field = field or SeededField(seed, *model.field_shape, self.device)
        self._encode = lru_cache(maxsize=REMEMBERED_PROMPTS)(self._encode_prompt)
        self._threads: SingleThreads | None = None
        self._most_slices = 2**31
        if on_cpu:
            self._most_slices = SMALL_SLICES if self._small else 1
        parted = on_cpu and model.parts_prompts
        self._most_prompts = PROMPTS_AT_ONCE if parted else 2**31
        self._fitting: dict[int, int] = {}

    @property
    def precision(self) -> str:
        """Name of the image side's precision, such as "float32"."""
        return str(self.dtype).removeprefix("torch.")

    @torch.inference_mode()
    def encode_prompts(self, texts: Sequence[str]) -> Tensor:
        """Encode prompts; the most recent ones are cached.

        The result, float32 [P, T, C], is padded with zero vectors to the longest prompt
        of this call.
        """
        check_not_forked(self._process)
        return torch.nn.utils.rnn.pad_sequence(
            [self._encode(text) for text in texts], batch_first=True
        )

    @torch.inference_mode()
    def predict(
        self,
        slices: Tensor,
        tokens: Tokens,
        *,
        remember: bool = True,
        on_prompt: OnPrompt = None,
    ) -> SlicePrediction:
        """Run the network.

        On a CPU, slices are computed one at a time, which costs nothing there; for a
        small network each thread computes its own slices. The decoder gives each slice
        and prompt its own matrix products, so results do not depend on what else is in
        the batch. On a GPU, the number computed at once follows from its free memory;
        if that runs out, it is halved from then on.

        Parameters
        ----------
        slices : Tensor [B, 3, S, S]
            Grey levels, 0 to 255, in the network's `channels`.
        tokens : Tensor [P, T, C] or sequence of Tensor [1, T, C]
            From `encode_prompts`, for all prompts, or for each by itself: the results
            for a prompt then do not depend on the others.
        remember : bool
            Cache the features of a single slice, for further prompts.
        on_prompt : callable, optional
            Called after each prompt by itself with the number of slices it was found
            in; may raise an error to stop.

        Raises
        ------
        DeviceError
            If the device has too little memory for one slice and one prompt.
        """
        found = self.predict_by_text(
            slices,
            tokens,
            remember=remember,
            features=self.model.corrects,
            on_prompt=on_prompt,
        )
        return self.correct(slices, tokens, found)

    @torch.inference_mode()
    def predict_by_text(
        self,
        slices: Tensor,
        tokens: Tokens,
        *,
        remember: bool = True,
        features: bool = False,
        on_prompt: OnPrompt = None,
    ) -> KeptPrediction:
        """Run the network without what corrections taught it; see `predict`.

        `features` are for `correct`, at any later time.
        """
        check_not_forked(self._process)
        remember = remember and len(slices) == 1 and self.cache.maxsize > 0
        while True:
            try:
                return self._predict(slices, tokens, remember, features, on_prompt)
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
                shortage = str(error)
            # Outside the handler, whose traceback would keep the tensors alive.
            self._make_room(len(slices), len(tokens), shortage)
            remember = False

    @torch.inference_mode()
    def correct(
        self, slices: Tensor, tokens: Tokens, found: KeptPrediction
    ) -> SlicePrediction:
        """Correct what `predict_by_text` found in slices, by what was taught."""
        if not self.model.corrects:
            return SlicePrediction(*found[:3])
        prompts = [one for part in tokens for one in part.view(-1, *part.shape[-2:])]

        def one(at: Tensor) -> SlicePrediction:
            here = KeptPrediction(*(values[at] for values in found))
            square = slices[at].to(self.device, non_blocking=True)
            return self._network.correct(square, prompts, here)

        rows = self._each(one, torch.split(torch.arange(len(slices)), 1))
        return SlicePrediction(*(torch.cat(x) for x in zip(*rows, strict=True)))

    def suited_batch(self, prompts: int) -> int:
        """Choose the batch size for a number of prompts.

        On a GPU it follows from the free memory; on a CPU it is small, so that results
        come soon.
        """
        if self.device.type == "cpu":
            return USUAL_BATCH
        return min(self._slices_at_once(prompts), MOST_SLICES)

    @property
    def side_by_side(self) -> int:
        """Number of concurrent one-slice calls of `predict` that keep it busy."""
        return torch.get_num_threads() if self._small else 1

    def _predict(
        self,
        slices: Tensor,
        tokens: Tokens,
        remember: bool,
        features: bool,
        on_prompt: OnPrompt,
    ) -> KeptPrediction:
        """Predict in parts, with as many slices and prompts as fit at once."""
        together = len(tokens) if isinstance(tokens, Tensor) else 1
        at_once = self._slices_at_once(together)
        if self._small:
            at_once = min(at_once, -(-len(slices) // torch.get_num_threads()))
        rows = self._each(
            lambda part: self._predict_part(
                part, tokens, remember, features, on_prompt
            ),
            torch.split(slices, at_once),
        )
        return KeptPrediction(*(torch.cat(x) for x in zip(*rows, strict=True)))

    @torch.inference_mode()
    def _predict_part(
        self,
        slices: Tensor,
        tokens: Tokens,
        remember: bool,
        features: bool = False,
        on_prompt: OnPrompt = None,
    ) -> list[Tensor]:
        """Predict slices together, perhaps in a thread of their own."""
        encode = self._remembered if remember else self._encode_image
        image = encode(slices)
        if isinstance(tokens, Tensor):
            tokens = torch.split(tokens, self._most_prompts)
        columns = []
        for prompts in tokens:
            columns.append(self._network.decode(image, prompts, self._field))
            if on_prompt is not None:
                on_prompt(len(slices))
        found = [torch.cat(x, dim=1) for x in zip(*columns, strict=True)]
        return [*found, self._network.summarize(image)] if features else found

    def _each(self, work: Callable[[Tensor], T], parts: Sequence[Tensor]) -> list[T]:
        """Do the work of each part; for a small network, in threads."""
        if not self._small:
            return [work(part) for part in parts]
        self._threads = self._threads or SingleThreads(torch.get_num_threads())
        return list(self._threads.map(work, parts))

    def _slices_at_once(self, prompts: int) -> int:
        """Choose by the free memory, once per number of prompts."""
        if prompts not in self._fitting:
            free, pixels = free_memory(self.device), self.model.image_size**2
            fitting = fitting_slices(free, pixels, prompts, self.dtype.itemsize)
            self._fitting[prompts] = fitting
        return min(self._most_slices, self._fitting[prompts])

    def _encode_image(self, slices: Tensor) -> Features:
        """Compute the features of slices, which may be on the CPU."""
        encode = self._network.encode_image
        if self._small:
            each = [encode(one) for one in torch.split(slices, 1)]
            return self._network.join_features(each)
        return encode(slices.to(self.device, non_blocking=True))

    def _make_room(self, slices: int, prompts: int, shortage: str) -> None:
        """Empty the cache; if it was empty, halve what is computed at once."""
        if len(self.cache):
            with self._lock:
                self.cache.clear()
        elif (at_once := min(slices, self._slices_at_once(prompts))) > 1:
            self._most_slices = at_once // 2
        elif self.model.parts_prompts and (
            (at_once := min(prompts, self._most_prompts)) > 1
        ):
            self._most_prompts = at_once // 2
        else:
            raise DeviceError(
                f"{self.device} has too little memory for a single slice and prompt "
                f"({shortage.splitlines()[0]}). Close other programs that use it, or "
                "choose another device."
            )
        _LOGGER.warning(
            "%s ran out of memory; continuing with %d slices and %d prompts at once",
            self.device,
            min(slices, self._slices_at_once(prompts)),
            min(prompts, self._most_prompts),
        )
        release_memory(self.device)

    def _encode_prompt(self, text: str) -> Tensor:
        """Encode as [T, C], without padding, which would not change the tokens."""
        prompt = tokenize(text)
        ids = torch.from_numpy(prompt.ids[: prompt.length]).to(self.device)
        (tokens,) = self._each(self._encode_ids, [ids])
        return tokens

    @torch.inference_mode()
    def _encode_ids(self, ids: Tensor) -> Tensor:
        return self._network.encode_prompts(ids[None])[0]


def _content(slices: Tensor) -> bytes:
    """Return a checksum of the values of slices [B, 3, S, S]."""
    values = slices.contiguous().cpu().numpy()
    return hashlib.blake2b(values.data, digest_size=16).digest()


def fitting_slices(
    free: int | None, pixels: int, prompts: int, itemsize: int = 2
) -> int:
    """Choose how many slices of `pixels` pixels fit in `free` bytes of a GPU, if known.

    A power of two, at least 1, so that a small change of free memory does not change
    how results round.
    """
    if free is None:
        return 2**31
    each = pixels * (SLICE_BYTES * itemsize // 2 + prompts * PROMPT_BYTES)
    fitting = max(1, int(FREE_SHARE * free) // each)
    return 1 << (fitting.bit_length() - 1)


def _place(model: Network, device: torch.device, dtype: torch.dtype) -> Network:
    """Move a network to a device, or copy it there in another precision.

    Tensor by tensor, so that weights mapped from a file are never in memory twice.
    """
    if dtype == torch.float32:
        return model.to(device)
    low = set(map(id, model.low_precision_weights()))
    copies: dict[int, Tensor] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        # On a CPU depthwise convolutions take as long in float32, and are more exact.
        deep = tensor.dim() != 4 or tensor.shape[1] > 1 or device.type != "cpu"
        halved = id(tensor) in low and deep
        moved = tensor.detach().to(device, dtype if halved else None)
        if moved.dim() == 4:
            moved = moved.contiguous(memory_format=torch.channels_last)
        copies[id(tensor)] = (
            nn.Parameter(moved, requires_grad=False)
            if isinstance(tensor, nn.Parameter)
            else moved
        )
    return copy.deepcopy(model, copies)
