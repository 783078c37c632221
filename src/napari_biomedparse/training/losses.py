"""What training minimises: masks and edges where the target exists, and existence.

As in BiomedParse's fine-tuning: Dice with squared denominators plus binary
cross-entropy on masks and edges, weighted binary cross-entropy on existence. Plain
functions of tensors; data and steps live elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

EXISTENCE_WEIGHT = 3.0
"""How much more a missed target costs than an invented one, in the original."""
_SMOOTH = 1e-5


class Targets(NamedTuple):
    """The truth of a batch.

    Attributes
    ----------
    masks, edges : float Tensor [B, P, h, w]
        Share of each pixel that is target, or border of one of its objects, 0 to 1.
    exists : float Tensor [B, P]
        1 where the prompt's target occurs in the slice, 0 where it does not.
    counts : float Tensor [B, P]
        0 where nothing is to be learned of existence, as too little of the target is
        in the slice to tell; otherwise 1.
    """

    masks: Tensor
    edges: Tensor
    exists: Tensor
    counts: Tensor


class Losses(NamedTuple):
    """The terms of the loss, each a scalar Tensor."""

    mask_dice: Tensor
    mask_bce: Tensor
    edge_dice: Tensor
    edge_bce: Tensor
    existence: Tensor

    def total(self, coefficients: Sequence[float] = (1.0,) * 5) -> Tensor:
        """Return the weighted sum that is minimised; in the original all weigh 1."""
        terms = torch.stack(tuple(self))
        return (terms * terms.new_tensor(coefficients)).sum()


def segmentation_losses(
    mask_logits: Tensor,
    edge_logits: Tensor,
    existence: Tensor,
    targets: Targets,
    *,
    existence_weight: float = EXISTENCE_WEIGHT,
    absent_weight: float = 0.0,
    edge_weight: float = 1.0,
) -> Losses:
    """Compare predictions with the truth.

    Parameters
    ----------
    mask_logits, edge_logits : float Tensor [B, P, h, w]
        Predicted logits, at the resolution of `targets`.
    existence : float Tensor [B, P]
        Predicted existence logits.
    targets : Targets
        The truth.
    existence_weight : float
        Weight of the pairs whose target exists (``pos_weight``).
    absent_weight : float
        Weight of the masks of absent targets, which should be empty. In the original
        they teach nothing (0); a small network then hardly learns from the image
        what is absent, and answers by modality.
    edge_weight : float
        Weight of the pixels that are edges (``pos_weight``), 1 in the original. A
        missed edge merges two objects, one too wide only shrinks them a little.

    Returns
    -------
    Losses
        Mask and edge terms are means over the pairs whose target exists, 0 if there
        is none, plus the weighted mean over absent ones in `mask_bce`; the existence
        term is a mean over the pairs that count.
    """
    exists = targets.exists
    pairs = exists.sum().clamp(min=1.0)
    counts = targets.counts.sum().clamp(min=1.0)
    absent = (1.0 - exists) * targets.counts
    mask_terms = pixel_bce(mask_logits, targets.masks)
    empty = (mask_terms * absent).sum() / absent.sum().clamp(min=1.0)
    existence_terms = F.binary_cross_entropy_with_logits(
        existence,
        exists,
        pos_weight=existence.new_tensor(existence_weight),
        reduction="none",
    )
    return Losses(
        (dice_loss(mask_logits, targets.masks) * exists).sum() / pairs,
        (mask_terms * exists).sum() / pairs + absent_weight * empty,
        (dice_loss(edge_logits, targets.edges) * exists).sum() / pairs,
        (pixel_bce(edge_logits, targets.edges, edge_weight) * exists).sum() / pairs,
        (existence_terms * targets.counts).sum() / counts,
    )


def dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """One minus the soft Dice coefficient with squared denominators.

    ``1 - (2 sum(p t) + s) / (sum(p^2) + sum(t^2) + s)``, p = sigmoid(logits),
    s = 1e-5 (Milletari et al., 3DV 2016).

    Parameters
    ----------
    logits, target : float Tensor [..., h, w]
        Predicted logits and truth, 0 to 1.

    Returns
    -------
    Tensor [...]
    """
    p = logits.sigmoid()
    overlap = 2.0 * (p * target).sum(dim=(-2, -1))
    size = p.square().sum(dim=(-2, -1)) + target.square().sum(dim=(-2, -1))
    loss: Tensor = 1.0 - (overlap + _SMOOTH) / (size + _SMOOTH)
    return loss


def pixel_bce(logits: Tensor, target: Tensor, weight: float = 1.0) -> Tensor:
    """Binary cross-entropy, averaged over the pixels: [..., h, w] -> [...].

    What is in the target counts `weight` times.
    """
    terms = F.binary_cross_entropy_with_logits(
        logits, target, pos_weight=logits.new_tensor(weight), reduction="none"
    )
    return terms.mean(dim=(-2, -1))


def object_edges(objects: Tensor) -> Tensor:
    """Mark the borders of objects: their 3 x 3 morphological gradient.

    Parameters
    ----------
    objects : Tensor [..., H, W]
        Object numbers, 0 outside; of a mask, 0 and 1.

    Returns
    -------
    bool Tensor [..., H, W]
        True where the 3 x 3 neighbourhood holds more than one value. Touching objects
        are parted; what lies beyond the image does not count.
    """
    values = objects.to(torch.float32)
    highest, lowest = values, values
    for axis in (-2, -1):
        highest = _around(highest, axis, torch.maximum)
        lowest = _around(lowest, axis, torch.minimum)
    return highest != lowest


def object_contacts(objects: Tensor) -> Tensor:
    """Mark where two objects meet, or all but meet, wider than `object_edges` does.

    Masks are predicted at a quarter of the resolution, where a border two pixels wide
    gets lost; what parts touching objects must not.

    Parameters
    ----------
    objects : Tensor [..., H, W]
        Object numbers, 0 outside.

    Returns
    -------
    bool Tensor [..., H, W]
        True where the 7 x 7 neighbourhood holds more than one object.
    """
    highest = objects.to(torch.float32)
    lowest = torch.where(highest > 0, highest, torch.inf)
    for axis in (-2, -1) * 3:
        highest = _around(highest, axis, torch.maximum)
        lowest = _around(lowest, axis, torch.minimum)
    return (highest > lowest) & (highest > 0)


def _around(
    values: Tensor, axis: int, best: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Return the best of each value and its two neighbours along `axis`."""
    n = values.shape[axis]
    pair = best(values.narrow(axis, 0, n - 1), values.narrow(axis, 1, n - 1))
    after = torch.cat([pair, values.narrow(axis, n - 1, 1)], dim=axis)
    before = torch.cat([values.narrow(axis, 0, 1), pair], dim=axis)
    return best(before, after)


def coverage(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the share of each coarser pixel that `mask` covers.

    Parameters
    ----------
    mask : bool Tensor [B, P, H, W]
        At the resolution of the slices.
    size : tuple of int
        Height and width of the network's output.

    Returns
    -------
    float32 Tensor [B, P, h, w]
        0 to 1.
    """
    return F.interpolate(mask.to(torch.float32), size=size, mode="area")
