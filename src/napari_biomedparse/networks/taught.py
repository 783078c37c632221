"""A network whose masks were corrected for some prompts: the base, and small heads.

A mask is linear in the mask features, so a correction is a linear function of them, of
classical filters of the slice and of the text's own logits: docs/teach.md has the
mathematics. The base network is not changed, and prompts without a head get its masks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from napari_biomedparse.networks.blocks.decoder import along
from napari_biomedparse.networks.blocks.filters import (
    CONTEXT,
    FILTERS,
    combine,
    enlarged,
    filter_logits,
    filter_slice,
    refined_size,
)
from napari_biomedparse.networks.blocks.tokenizer import tokenize
from napari_biomedparse.networks.network import (
    KeptPrediction,
    Network,
    SlicePrediction,
)

if TYPE_CHECKING:
    from napari_biomedparse.networks.blocks.decoder import RandomField
    from napari_biomedparse.networks.blocks.filters import Planes
    from napari_biomedparse.networks.network import Features

PRESENT = 16
"""Pixels that say whether there is anything."""


class TaughtNetwork(Network):
    """A base network with heads for some prompts.

    Parameters
    ----------
    base : Network
    texts : sequence of str
        The prompts that have a head.
    heads : Tensor [P, stages, 2 + K + sum(FILTERS) + sum(CONTEXT)]
        For each, rows for `refine`.
    gates : Tensor [P]
        What is added to the logit of each prompt's existence.
    basis : Tensor [C, K]
        Directions of the mask features that the heads are about.

    Raises
    ------
    ValueError
        If a tensor has another shape, or values that are not finite.
    """

    corrects = True

    def __init__(
        self,
        base: Network,
        texts: Sequence[str],
        heads: Tensor,
        gates: Tensor,
        basis: Tensor,
    ) -> None:
        super().__init__(base.config)
        size = 2 + base.basis.shape[1] + sum(FILTERS) + sum(CONTEXT)
        fits = heads.ndim == 3 and heads.shape[::2] == (len(texts), size)
        if texts and not (fits and gates.shape == (len(texts),)):
            raise ValueError(f"it needs {size} numbers for each prompt and stage")
        if basis.shape != base.basis.shape:
            raise ValueError(f"its directions are not {list(base.basis.shape)}")
        if not all(one.isfinite().all() for one in (heads, gates, basis)):
            raise ValueError("some of its numbers are not finite")
        self.channels = base.channels  # type: ignore[misc]
        self.parts_prompts = base.parts_prompts  # type: ignore[misc]
        self.base = base
        self.texts = tuple(texts)
        self.register_buffer("heads", heads)
        self.register_buffer("gates", gates)
        self.basis = basis
        tokens = [tokenize(text) for text in texts]
        self._ids = [torch.from_numpy(one.ids[: one.length]) for one in tokens]

    heads: Tensor
    gates: Tensor

    @property
    def largest_map(self) -> int:
        """Bytes of the base's largest map of a slice."""
        return self.base.largest_map

    def summarize(self, image: Any) -> Tensor:
        """Return the features that the heads are about."""
        return along(self.basis, image)

    @property
    def reads_kept(self) -> bool:
        """Whether its directions are those of the base on this computer."""
        return torch.equal(self.basis, self.base.basis)

    def low_precision_weights(self) -> Iterator[Tensor]:
        """Yield those of the base."""
        return self.base.low_precision_weights()

    def encode_image(self, slices: Tensor) -> Features:
        """Compute what all prompts share, for slices [B, 3, S, S] of 0 to 255."""
        return self.base.encode_image(slices)

    def join_features(self, each: Sequence[Any]) -> Features:
        """Combine the features of slices into those of one batch, as a copy."""
        return self.base.join_features(each)

    def encode_prompts(self, ids: Tensor) -> Tensor:
        """Encode ids [P, L] as [P, L, C + 1], last the number of a head, or 0."""
        tokens = self.base.encode_prompts(ids)
        heads = tokens.new_zeros(*ids.shape, 1)
        for one, head in zip(ids.cpu(), heads, strict=True):
            for number, known in enumerate(self._ids, start=1):
                if torch.equal(one[: len(known)], known):
                    head[:] = number
        return torch.cat([tokens, heads], dim=-1)

    def decode(self, image: Any, tokens: Tensor, field: RandomField) -> SlicePrediction:
        """Find each prompt in each slice by its text; see `Network.decode`."""
        return self.base.decode(image, tokens[..., :-1].contiguous(), field)

    def correct(
        self, slices: Tensor, tokens: Sequence[Tensor], found: KeptPrediction
    ) -> SlicePrediction:
        """Correct the masks of taught prompts; see `Network.correct`.

        With one among them, all masks have the size of the slice's largest filters.
        """
        numbers = [round(one[0, -1].item()) - 1 for one in tokens]
        taught = [prompt for prompt, number in enumerate(numbers) if number >= 0]
        if not taught:
            return SlicePrediction(*found[:3])
        rows = [numbers[prompt] for prompt in taught]
        size = (refined_size(slices),) * 2
        masks, edges = (F.interpolate(x, size, mode="bilinear") for x in found[:2])
        existence = found.existence.clone()
        for at, square in enumerate(slices):
            planes = (found.features[at].float(), *filter_slice(square))
            texts = found.mask_logits[at, taught]
            refined = refine(self.heads[rows], texts, planes, size)
            masks[at, taught] = refined
            existence[at, taught] = presence(refined) + self.gates[rows]
        return SlicePrediction(masks, edges, existence)


def refine(
    heads: Tensor, logits: Tensor, planes: Planes, size: Sequence[int]
) -> Tensor:
    """Correct masks, stage by stage.

    Each row of the `heads` [P, stages, n] is a gain of the logits before it, a
    constant, and the weights of the `planes`, which are the mask features [K, h, w] and
    `filter_slice`, and of `filter_logits` of the logits before it. The first logits
    [P, h, w] are those of the texts. Returns logits [P, *size].
    """
    refined = enlarged(logits, size)
    for row in heads.unbind(1):
        gain, constant, weights = row.tensor_split([1, 2], dim=1)
        every = (*planes, *filter_logits(refined))
        refined = gain[..., None] * refined + constant[..., None]
        refined = refined + combine(weights, every, size)
    return refined


def presence(logits: Tensor) -> Tensor:
    """Logit that targets are there at all, [P]: the mean of each mask's highest few."""
    return logits.flatten(-2).topk(PRESENT).values.mean(-1)
