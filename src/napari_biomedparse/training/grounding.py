"""The grounding loss of BiomedParse v1: the query that is a prompt's, and its mask.

ARCHITECTURE of v1, section 11. Queries are matched with prompts as by Carion et al.
(ECCV 2020), and masks compared at points as by Cheng et al. (CVPR 2022).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from napari_biomedparse.networks.v1.mask_decoder import Head, normalised

POINTS = 12_544
"""Points at which a mask is compared."""
CANDIDATES, UNCERTAIN = 3, 0.75
"""Candidates for each point, and the share of points that are the most uncertain."""
CHOICE_WEIGHT = 0.4
"""Weight of `choice` in the sum of the terms; the others have 1."""
_MASK_COST, _CHOICE_COST, _NEVER = 5.0, 2.0, 1e6
_CHOICE_SCALE, _MOST_SIMILAR = 2.0, 100.0

Draw = Callable[[int, int], Tensor]
"""``draw(masks, points)``: uniform positions x, y in [0, 1), [masks, points, 2]."""


class Sought(NamedTuple):
    """The prompts of one image, whose targets are all in it."""

    masks: Tensor  # float [P, H, W], 0 or 1
    ends: Tensor  # [P, C], the end tokens
    texts: Tensor  # int64 [P], equal for equal texts


class GroundingLosses(NamedTuple):
    """The terms of the loss, each a scalar Tensor."""

    mask_bce: Tensor
    mask_dice: Tensor
    choice: Tensor  # of the query that is a prompt's


def grounding_losses(
    head: Head,
    sought: Sequence[Sought],
    scale: Tensor,
    draw: Draw,
    points: int = POINTS,
) -> GroundingLosses:
    """Compare a head's predictions for B images with what is sought in each.

    Mask terms are means over the matched pairs of all images, and the choice one over
    the images that have a prompt; all are 0 without any. `scale` is the logarithm of
    the factor of similarities.
    """
    logits, truths, choices = [], [], []
    for masks, vectors, own in zip(*head, sought, strict=True):
        if not len(own.masks):
            continue
        similar = scale.exp().clamp(max=_MOST_SIMILAR) * (
            normalised(vectors) @ normalised(own.ends).T
        )
        queries, prompts = match(masks, similar, own.masks, draw(1, points))
        logits.append(masks[queries])
        truths.append(own.masks[prompts])
        choices.append(choice_loss(similar, queries, prompts, own.texts))
    if not choices:
        zero = 0 * (head.masks.sum() + head.vectors.sum() + scale)
        return GroundingLosses(zero, zero, zero)
    bce, dice = mask_losses(torch.cat(logits), torch.cat(truths), draw, points)
    return GroundingLosses(bce, dice, torch.stack(choices).mean())


@torch.no_grad()
def match(
    masks: Tensor, similar: Tensor, truth: Tensor, points: Tensor
) -> tuple[Tensor, Tensor]:
    """Assign a query to each prompt so that the sum of costs is least.

    From mask logits [Q, h, w], similarities [Q, P], masks [P, H, W] and points
    [1, N, 2] come the numbers of queries, in order, and of their prompts.
    """
    x, y = (_at(maps[None], points)[0] for maps in (masks, truth))  # [Q, N], [P, N]
    bce = (F.softplus(-x) @ y.T + F.softplus(x) @ (1 - y).T) / x.shape[-1]
    p = x.sigmoid()
    dice = 1 - (2 * p @ y.T + 1) / (p.sum(dim=1)[:, None] + y.sum(dim=1) + 1)
    cost = _MASK_COST * (bce + dice) - _CHOICE_COST * similar.softmax(dim=0)
    pairs = linear_sum_assignment(cost.nan_to_num(nan=_NEVER).cpu().numpy())
    queries, prompts = (torch.from_numpy(part).to(masks.device) for part in pairs)
    return queries, prompts


def mask_losses(
    logits: Tensor, truth: Tensor, draw: Draw, points: int
) -> tuple[Tensor, Tensor]:
    """Compare mask logits [M, h, w] with masks [M, H, W]: cross-entropy and Dice."""
    count, uncertain = len(logits), int(UNCERTAIN * points)
    maps = logits[:, None]
    with torch.no_grad():
        drawn = draw(count, CANDIDATES * points)
        doubt = _at(maps, drawn)[:, 0].abs()
        index = doubt.topk(uncertain, largest=False).indices[..., None]
        chosen = drawn.gather(1, index.expand(-1, -1, 2))
        where = torch.cat([chosen, draw(count, points - uncertain)], dim=1)
        y = _at(truth[:, None], where)[:, 0]
    x = _at(maps, where)[:, 0]
    p = x.sigmoid()
    dice = 1 - (2 * (p * y).sum(dim=1) + 1) / (p.sum(dim=1) + y.sum(dim=1) + 1)
    return F.binary_cross_entropy_with_logits(x, y), dice.mean()


def choice_loss(
    similar: Tensor, queries: Tensor, prompts: Tensor, texts: Tensor
) -> Tensor:
    """Cross-entropy over the queries of each prompt; equal prompts share theirs."""
    same = (texts[:, None] == texts).to(similar.dtype)
    wanted = torch.zeros_like(similar)
    wanted[queries] = (same / same.sum(dim=0))[prompts]
    each = -(wanted * similar.log_softmax(dim=0)).sum(dim=0)
    return _CHOICE_SCALE * each.mean()


def _at(maps: Tensor, points: Tensor) -> Tensor:
    """Sample maps [N, K, h, w] bilinearly at points [N, L, 2], giving [N, K, L]."""
    sampled = F.grid_sample(maps, 2 * points[:, None] - 1, align_corners=False)
    return sampled[:, :, 0]
