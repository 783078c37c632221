"""A network whose masks were corrected for some prompts: the base, and small heads.

A mask is linear in the mask features, so a correction is a linear function of them, of
classical filters of the slice and of the text's own logits: docs/teach.md has the
mathematics. The base network is not changed, and prompts without a head get its masks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from napari_biomedparse.networks.blocks.filters import (
    CONTEXT,
    FILTERS,
    filter_logits,
    filter_slice,
)
from napari_biomedparse.networks.blocks.tokenizer import tokenize
from napari_biomedparse.networks.network import Network, SlicePrediction

if TYPE_CHECKING:
    from napari_biomedparse.networks.blocks.decoder import ImageFeatures, RandomField

PRESENT = 16
"""Pixels that say whether there is anything."""


class TaughtFeatures(NamedTuple):
    """Features of slices, and their classical filters float32 [B, FILTERS, S, S]."""

    image: ImageFeatures
    filters: Tensor

    @property
    def nbytes(self) -> int:
        """Memory that the features take up."""
        return self.image.nbytes + self.filters.nbytes


class TaughtNetwork(Network):
    """A base network with heads for some prompts.

    Parameters
    ----------
    base : Network
        With mask features, as all of this package have.
    texts : sequence of str
        The prompts that have a head.
    heads : Tensor [P, stages, 2 + C + FILTERS + CONTEXT]
        For each, rows for `refine`.
    gates : Tensor [P]
        What is added to the logit of each prompt's existence.

    Raises
    ------
    ValueError
        If heads or gates have another shape, or values that are not finite.
    """

    def __init__(
        self, base: Network, texts: Sequence[str], heads: Tensor, gates: Tensor
    ) -> None:
        super().__init__(base.config)
        size = 2 + base.config.dim + FILTERS + CONTEXT
        fits = heads.ndim == 3 and heads.shape[::2] == (len(texts), size)
        if texts and not (fits and gates.shape == (len(texts),)):
            raise ValueError(f"it needs {size} numbers for each prompt and stage")
        if not (heads.isfinite().all() and gates.isfinite().all()):
            raise ValueError("some of its numbers are not finite")
        self.channels = base.channels  # type: ignore[misc]
        self.parts_prompts = base.parts_prompts  # type: ignore[misc]
        self.base = base
        self.texts = tuple(texts)
        self.register_buffer("heads", heads)
        self.register_buffer("gates", gates)
        tokens = [tokenize(text) for text in texts]
        self._ids = [torch.from_numpy(one.ids[: one.length]) for one in tokens]

    heads: Tensor
    gates: Tensor

    @property
    def largest_map(self) -> int:
        """Bytes of the base's largest map of a slice."""
        return self.base.largest_map

    def low_precision_weights(self) -> Iterator[Tensor]:
        """Yield those of the base."""
        return self.base.low_precision_weights()

    def encode_image(self, slices: Tensor) -> TaughtFeatures:
        """Compute what all prompts share, for slices [B, 3, S, S] of 0 to 255."""
        image: Any = self.base.encode_image(slices)
        return TaughtFeatures(image, torch.stack([filter_slice(one) for one in slices]))

    def join_features(self, each: Sequence[TaughtFeatures]) -> TaughtFeatures:
        """Combine the features of slices into those of one batch, as a copy."""
        image: Any = self.base.join_features([one.image for one in each])
        return TaughtFeatures(image, torch.cat([one.filters for one in each]))

    def encode_prompts(self, ids: Tensor) -> Tensor:
        """Encode ids [P, L] as [P, L, C + 1], last the number of a head, or 0."""
        tokens = self.base.encode_prompts(ids)
        heads = tokens.new_zeros(*ids.shape, 1)
        for one, head in zip(ids.cpu(), heads, strict=True):
            for number, known in enumerate(self._ids, start=1):
                if torch.equal(one[: len(known)], known):
                    head[:] = number
        return torch.cat([tokens, heads], dim=-1)

    def decode(
        self, image: TaughtFeatures, tokens: Tensor, field: RandomField
    ) -> SlicePrediction:
        """Find each prompt in each slice; see `Network.decode`.

        With a taught prompt among them, all masks have the network's image size.
        """
        numbers = [round(number) - 1 for number in tokens[:, 0, -1].tolist()]
        found = self.base.decode(image.image, tokens[..., :-1].contiguous(), field)
        if all(number < 0 for number in numbers):
            return found
        size = image.filters.shape[-2:]
        masks, edges = (F.interpolate(x, size, mode="bilinear") for x in found[:2])
        existence = found.existence.clone()
        for prompt, number in enumerate(numbers):
            if number < 0:
                continue
            for one in range(len(masks)):
                refined = refine(
                    self.heads[number],
                    found.mask_logits[one, prompt],
                    image.image.mask_features[one].float(),
                    image.filters[one],
                )
                masks[one, prompt] = refined
                existence[one, prompt] = presence(refined) + self.gates[number]
        return SlicePrediction(masks, edges, existence)


def refine(head: Tensor, logits: Tensor, features: Tensor, filters: Tensor) -> Tensor:
    """Correct a mask, stage by stage.

    Each row of the `head` [stages, 2 + C + FILTERS + CONTEXT] is a gain of the logits
    before it, a constant, and the weights of the mask `features` [C, h, w], of the
    `filters` [FILTERS, S, S] and of `filter_logits` of the logits before it. The first
    logits [h, w] are those of the text. Returns logits [S, S].
    """
    size = filters.shape[-2:]
    refined = enlarged(logits[None], size)[0]
    for row in head:
        gain, constant, weights = row[0], row[1], row[2:]
        of_features, others = weights.split([len(features), FILTERS + CONTEXT])
        coarse = (of_features @ features.flatten(1)).view_as(logits)
        planes = torch.cat([filters, filter_logits(refined)])
        fine = (others @ planes.flatten(1)).view(size)
        refined = gain * refined + constant + enlarged(coarse[None], size)[0] + fine
    return refined


def presence(logits: Tensor) -> Tensor:
    """Logit that a target is there at all: mean of the highest few of its mask."""
    return logits.flatten().topk(PRESENT).values.mean()


def enlarged(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Resize maps [C, h, w] bilinearly."""
    large: Tensor = F.interpolate(maps[None], tuple(size), mode="bilinear")[0]
    return large
