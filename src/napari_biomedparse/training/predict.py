"""Batches through the network, with a random field drawn anew for every slice."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from napari_biomedparse.networks.v2.biomedparse import BiomedParse
    from napari_biomedparse.networks.v2.mask_decoder import Decoded
    from napari_biomedparse.training.data import Batch


class DrawnField:
    """A random field drawn anew for every slice of every batch.

    Parameters
    ----------
    generator : torch.Generator
        On the CPU.
    slices, heads, queries : int
        Sizes; prompts share the field.
    device : torch.device
        Where it is used.
    """

    def __init__(
        self,
        generator: torch.Generator,
        slices: int,
        heads: int,
        queries: int,
        device: torch.device,
    ) -> None:
        self._generator, self._device = generator, device
        self._shape = (slices, 1, heads, queries)

    def __call__(self, call: int, keys: int) -> Tensor:
        """Draw the field of a head call, float32 [B, 1, heads, queries, keys]."""
        field = torch.rand((*self._shape, keys), generator=self._generator)
        return field.to(self._device)


def predict(
    model: BiomedParse, batch: Batch, generator: torch.Generator, device: torch.device
) -> Decoded:
    """Run the network on a batch, with fields drawn from `generator`."""
    config = model.config
    features = model.encode_image(batch.slices.to(device))
    tokens = model.encode_prompts(batch.ids.to(device))
    tokens = tokens * batch.real.to(device)[..., None]
    field = DrawnField(
        generator, len(batch.slices), config.heads, config.queries, device
    )
    return model.decode(features, tokens, field)
