"""The loss: masks and edges where the target exists, and existence.

As in BiomedParse's fine-tuning: Dice with squared denominators plus binary
cross-entropy on masks and edges, weighted binary cross-entropy on existence.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

_SMOOTH = 1e-5


class Targets(NamedTuple):
    """The truth of a batch, float Tensors.

    Masks and edges hold the share of each pixel, 0 to 1, that is target, or border of
    one of its instances. The existence loss does not apply where too little of the
    target is in the slice to tell.
    """

    masks: Tensor  # [B, P, h, w]
    edges: Tensor  # [B, P, h, w]
    exists: Tensor  # [B, P], 1 where the prompt's target occurs in the slice, else 0
    counts: Tensor  # [B, P], 1 where the existence loss applies, else 0


class Losses(NamedTuple):
    """The terms of the loss, each a scalar Tensor."""

    mask_dice: Tensor
    mask_bce: Tensor
    edge_dice: Tensor
    edge_bce: Tensor
    existence: Tensor


def segmentation_losses(
    mask_logits: Tensor,
    edge_logits: Tensor,
    existence: Tensor,
    targets: Targets,
    existence_weight: float,
    *,
    over_all: bool = True,
) -> Losses:
    """Compare predicted logits, at the resolution of `targets`, with the truth.

    Mask and edge terms are means over all pairs, to which those without the target add
    nothing, or unless `over_all` over those with it; the existence term is a mean over
    the pairs that count, in which a pair whose target exists has the weight
    `existence_weight`.
    """
    exists = targets.exists
    pairs = exists.new_tensor(exists.numel()) if over_all else exists.sum().clamp(1.0)
    weight = existence.new_tensor(existence_weight)
    existence_terms = F.binary_cross_entropy_with_logits(
        existence, exists, pos_weight=weight, reduction="none"
    )
    return Losses(
        (dice_loss(mask_logits, targets.masks) * exists).sum() / pairs,
        (pixel_bce(mask_logits, targets.masks) * exists).sum() / pairs,
        (dice_loss(edge_logits, targets.edges) * exists).sum() / pairs,
        (pixel_bce(edge_logits, targets.edges) * exists).sum() / pairs,
        (existence_terms * targets.counts).sum() / targets.counts.sum().clamp(min=1.0),
    )


class MaskLosses(NamedTuple):
    """The terms of BoltzFormer's loss, each a scalar Tensor."""

    mask_dice: Tensor
    mask_bce: Tensor


def mask_losses(logits: Tensor, masks: Tensor) -> MaskLosses:
    """Compare mask logits with masks of the same shape [B, P, h, w].

    As in BoltzFormer, means over all pairs: a target that is not in the slice counts as
    any other.
    """
    return MaskLosses(dice_loss(logits, masks).mean(), pixel_bce(logits, masks).mean())


def dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Return one minus the soft Dice, [..., h, w] and [..., h, w] -> [...].

    ``1 - (2 sum(p t) + s) / (sum(p^2) + sum(t^2) + s)``, p = sigmoid(logits),
    s = 1e-5 (Milletari et al., 3DV 2016).
    """
    p = logits.sigmoid()
    overlap = 2.0 * (p * target).sum(dim=(-2, -1))
    size = p.square().sum(dim=(-2, -1)) + target.square().sum(dim=(-2, -1))
    loss: Tensor = 1.0 - (overlap + _SMOOTH) / (size + _SMOOTH)
    return loss


def pixel_bce(logits: Tensor, target: Tensor, weight: float = 1.0) -> Tensor:
    """Return the mean binary cross-entropy of the pixels, [..., h, w] -> [...].

    Pixels of the target count `weight` times.
    """
    terms = F.binary_cross_entropy_with_logits(
        logits, target, pos_weight=logits.new_tensor(weight), reduction="none"
    )
    return terms.mean(dim=(-2, -1))


def instance_edges(instances: Tensor) -> Tensor:
    """Mark where a pixel within the 3 x 3 neighbourhood has another value.

    `instances` [..., H, W] holds instance numbers, 0 outside; of a mask, 0 and 1. In
    the result, bool [..., H, W], touching instances are separated; what lies beyond the
    image is ignored.
    """
    values = instances.to(torch.float32).flatten(0, -3)[:, None]
    highest = F.max_pool2d(values, kernel_size=3, stride=1, padding=1)
    lowest = -F.max_pool2d(-values, kernel_size=3, stride=1, padding=1)
    return (highest > lowest).view(instances.shape)
