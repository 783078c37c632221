"""The network on a device: prompts and slices in, predictions out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from napari_biomedparse.errors import DeviceError
from napari_biomedparse.model.boltzmann import RandomField, SeededField
from napari_biomedparse.tokenizer import tokenize

if TYPE_CHECKING:
    from napari_biomedparse.model.biomedparse import BiomedParse

REMEMBERED_PROMPTS = 256


class SlicePrediction(NamedTuple):
    """What the network says of a batch of slices.

    Attributes
    ----------
    mask_logits, edge_logits : float32 Tensor [B, P, h, w]
        At a quarter of the network's image size.
    existence : float32 Tensor [B, P]
        Logit that the prompt's target occurs in the slice.
    """

    mask_logits: Tensor
    edge_logits: Tensor
    existence: Tensor


class Engine:
    """A network on a device, with the prompts it has already encoded.

    Parameters
    ----------
    model : BiomedParse
        In evaluation mode.
    device : str
        "auto" (the fastest there is), "cpu", "cuda", "cuda:1", "mps", ...
    seed : int
        Fixes the attention masks' random field.
    field : RandomField, optional
        Used in place of the seeded one.

    Raises
    ------
    DeviceError
        If this machine has no such device.
    """

    def __init__(
        self,
        model: BiomedParse,
        device: str = "cpu",
        *,
        seed: int = 0,
        field: RandomField | None = None,
    ) -> None:
        self.device = find_device(device)
        self.model = model.to(self.device)
        config = model.config
        self._field = field or SeededField(
            seed, config.heads, config.queries, self.device
        )
        self._encode = lru_cache(maxsize=REMEMBERED_PROMPTS)(self._encode_prompt)

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
    def predict(self, slices: Tensor, tokens: Tensor) -> SlicePrediction:
        """Run the network.

        On a CPU slices and prompts go through one at a time, which costs nothing
        there and makes the numbers of each independent of its company: matrix
        products of other sizes round differently.

        Parameters
        ----------
        slices : Tensor [B, 3, S, S]
            Grey levels of each slice, the one before and the one after it.
        tokens : Tensor [P, T, C]
            From `encode_prompts`.

        Returns
        -------
        SlicePrediction
        """
        slices = slices.to(self.device, non_blocking=True)
        if self.device.type != "cpu":
            image = self.model.encode_image(slices)
            return SlicePrediction(*self.model.decode(image, tokens, self._field))
        rows = []
        for one in torch.split(slices, 1):
            image = self.model.encode_image(one)
            columns = [
                self.model.decode(image, prompt, self._field)
                for prompt in torch.split(tokens, 1)
            ]
            rows.append([torch.cat(x, dim=1) for x in zip(*columns, strict=True)])
        return SlicePrediction(*(torch.cat(x) for x in zip(*rows, strict=True)))

    def _encode_prompt(self, text: str) -> Tensor:
        """[T, C], without padding: later tokens would not change earlier ones."""
        found = tokenize(text)
        ids = torch.from_numpy(found.ids[: found.length]).to(self.device)
        return self.model.encode_prompts(ids[None])[0]


def find_device(name: str) -> torch.device:
    """Turn a device's name into a device that is really there.

    Parameters
    ----------
    name : str
        "auto" chooses CUDA, then Apple's MPS, then the CPU.

    Returns
    -------
    torch.device

    Raises
    ------
    DeviceError
        If the name is unknown or the device is missing.
    """
    available = available_devices()
    if name == "auto":
        return torch.device(available[0])
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in {torch.device(a).type for a in available}:
        raise DeviceError(
            f"There is no device {name!r} on this machine; choose auto or one of "
            f"{', '.join(available)}."
        )
    if device.index is not None and str(device) not in (*available, "cpu:0", "mps:0"):
        raise DeviceError(
            f"There is no device {name!r} on this machine; choose one of "
            f"{', '.join(available)}."
        )
    return device


def available_devices() -> list[str]:
    """Return the compute devices of this machine, fastest first."""
    cuda = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    mps = ["mps"] if torch.backends.mps.is_available() else []
    return [*cuda, *mps, "cpu"]
