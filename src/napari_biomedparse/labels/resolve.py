"""Turn the network's logits into label slices: gating, suppression, merging.

Section 6 of the architecture description, steps 1 to 4, and other rules for voxels that
several prompts claim. Every slice is computed by itself, so that a result never
depends on the batch. Probabilities are float32 sigmoids and not logits on purpose:
where a sigmoid saturates or rounds to 0.5, the order of prompts decides, as it does in
the original.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import compress
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from napari_biomedparse.labels.likeness import combine_masks

BACKGROUND_PROBABILITY = 0.5  # probability that a prompt has to exceed to claim a voxel
AT_ONCE = 2**26  # probabilities held at once on a GPU: 256 MiB


Resize = Callable[[torch.Tensor, tuple[int, int]], torch.Tensor]
"""How mask logits [B, P, h, w] become those of rows H and columns W."""


class Resolved(NamedTuple):
    """Labels int32 [B, H, W] of slices, and bool [B, P]: prompts used in each."""

    labels: torch.Tensor
    keep: torch.Tensor


def resolve(
    mask_logits: torch.Tensor,
    existence: torch.Tensor,
    ids: Sequence[int],
    size: tuple[int, int],
    *,
    existence_threshold: float = 0.5,
    overlap_threshold: float = 0.5,
    mask_threshold: float = BACKGROUND_PROBABILITY,
    resize: Resize | None = None,
    wait: bool | None = None,
) -> Resolved:
    """Turn the masks of competing prompts into one label slice each.

    A prompt is used in a slice if it is `likely` and, of several prompts, if
    `suppress` keeps it.

    `mask_logits` [B, P, h, w] (of masks or edges) and `existence` [B, P] are float32
    logits, `ids` the label id of each prompt, `size` rows H and columns W of the label
    slices. The thresholds are the existence probability, the intersection over union
    and the mask probability that a prompt has to exceed to claim a voxel, 0 to 1. The
    masks are enlarged by `resize`, by default `upsample`. With `wait`, only likely
    prompts are computed, slice by slice; by default not on CUDA, where computing all
    takes less time than waiting for which. The result is on the device of
    `mask_logits`.
    """
    wait = mask_logits.device.type != "cuda" if wait is None else wait
    at_once = 1 if wait else max(1, AT_ONCE // (len(ids) * size[0] * size[1]))
    scores = probability(existence)
    keep = likely(existence, existence_threshold)
    labels = []
    for start in range(0, len(mask_logits), at_once):
        part = slice(start, start + at_once)
        chosen = keep[start].clone() if wait else slice(None)
        names = list(compress(ids, keep[start].tolist())) if wait else ids
        logits = (resize or upsample)(mask_logits[part][:, chosen], size)
        probabilities = logits.sigmoid()
        if len(ids) > 1:
            keep[part, chosen] = suppress(
                probabilities > mask_threshold,
                scores[part][:, chosen],
                existence_threshold,
                overlap_threshold,
            )
        gated = probabilities * keep[part][:, chosen, None, None]
        labels.append(merge(gated, names, mask_threshold))
    return Resolved(torch.cat(labels), keep)


def likely(existence: torch.Tensor, threshold: float) -> torch.Tensor:
    """Decide from existence logits [B, P] which prompts have a target in the slice.

    The result is bool [B, P]. The probability of a single prompt has to exceed the
    threshold (0 to 1); that of one of several may also equal it. NaN is not below it.
    """
    scores = probability(existence)
    return ~(scores <= threshold if existence.shape[1] == 1 else scores < threshold)


def probability(existence: torch.Tensor) -> torch.Tensor:
    """Turn float32 logits into probabilities, bit for bit the same in any batch.

    The float32 sigmoid rounds an element differently depending on its position in the
    tensor; a float64 sigmoid, rounded once, does not.
    """
    return _exact(existence).sigmoid().to(torch.float32).to(existence.device)


def _exact(values: torch.Tensor) -> torch.Tensor:
    """Return values in float64, which MPS does not have: on the CPU instead."""
    here = "cpu" if values.device.type == "mps" else None
    return values.to(here, torch.float64)


def upsample(logits: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resize float32 mask logits [B, P, h, w] to rows H and columns W of the slices.

    Bicubic with antialiasing: for enlarging, the kernel with a = -0.5, half-pixel
    centres, and at the borders the weights of the remaining samples scaled to a sum
    of one.
    """
    if 0 in logits.shape:
        return logits.new_zeros((*logits.shape[:2], *size))
    return F.interpolate(logits, size, mode="bicubic", antialias=True)


def upsample_linearly(logits: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resize as `upsample`, but bilinearly and without antialiasing.

    So v1's masks get to the grid of the image (ARCHITECTURE of v1, section 7).
    """
    if 0 in logits.shape:
        return logits.new_zeros((*logits.shape[:2], *size))
    return F.interpolate(logits, size, mode="bilinear")


def suppress(
    masks: torch.Tensor,
    scores: torch.Tensor,
    score_threshold: float = 0.5,
    iou_threshold: float = 0.5,
) -> torch.Tensor:
    """Keep, in every slice, prompts that do not cover the same voxels.

    Prompts are visited by descending score, those of equal score in their own order.
    The visit ends at a score below `score_threshold`. Empty masks are skipped; any
    other is kept, and suppresses those that overlap it by more than `iou_threshold`.
    `masks` are boolean [B, P, H, W], `scores` [B, P] existence probabilities; the
    result is boolean [B, P]. Nothing waits for the device.
    """
    order = scores.argsort(dim=1, descending=True, stable=True)
    flat = masks.flatten(2).to(torch.float32)
    # Sums of 0 and 1 are exact in float32 up to 2**24 voxels a slice.
    shared = _exact(flat @ flat.mT)  # [B, P, P]
    area = shared.diagonal(dim1=1, dim2=2)
    union = area[:, :, None] + area[:, None] - shared
    duplicate = (shared / union.clamp(min=1) > iou_threshold).to(scores.device)
    remaining = ~(scores < score_threshold) & (area > 0).to(scores.device)
    keep = torch.zeros_like(remaining)
    for rank in range(scores.shape[1]):
        visited = order[:, rank, None]  # [B, 1]
        taken = remaining.gather(1, visited)
        keep.scatter_(1, visited, taken)
        others = duplicate.gather(1, visited[:, :, None].expand_as(duplicate[:, :1]))
        remaining = remaining & ~(others[:, 0] & taken)
    return keep


def merge(
    probabilities: torch.Tensor,
    ids: Sequence[int],
    threshold: float = BACKGROUND_PROBABILITY,
) -> torch.Tensor:
    """Assign every voxel to its most probable prompt, of equal ones to the first.

    `probabilities` are float32 [B, P, H, W], P may be 0. The result is int32
    [B, H, W]: a prompt's id, or 0 where no probability exceeds `threshold`.
    """
    batch, _, rows, columns = probabilities.shape
    best = probabilities.new_full((batch, rows, columns), threshold)
    labels = torch.zeros_like(best, dtype=torch.int32)
    for probability, label in zip(probabilities.unbind(1), ids, strict=True):
        labels.masked_fill_(probability > best, label)
        best = torch.maximum(best, probability)
    return labels


def resolve_in_order(
    mask_logits: torch.Tensor,
    existence: torch.Tensor,
    ids: Sequence[int],
    size: tuple[int, int],
    *,
    ranked: Sequence[int],
    existence_threshold: float = 0.5,
    mask_threshold: float = BACKGROUND_PROBABILITY,
    resize: Resize = upsample,
) -> torch.Tensor:
    """Give every voxel to the first prompt that claims it; none is suppressed.

    Parameters are as for `resolve`; `ranked` are all label ids, that with the highest
    priority first. The result is int32 [B, H, W]: 0 or a prompt's id.
    """
    there = likely(existence, existence_threshold)
    claims = _claims(mask_logits, there, size, mask_threshold, resize)
    labels = []
    for masks in claims:
        plane = torch.zeros(size, dtype=torch.int32, device=masks.device)
        for label in reversed(ranked):
            plane.masked_fill_(masks[ids.index(label)], label)
        labels.append(plane)
    return torch.stack(labels)


def resolve_separately(
    mask_logits: torch.Tensor,
    existence: torch.Tensor,
    ids: Sequence[int],
    size: tuple[int, int],
    *,
    existence_threshold: float = 0.5,
    mask_threshold: float = BACKGROUND_PROBABILITY,
    resize: Resize = upsample,
) -> torch.Tensor:
    """Give every prompt all the voxels that it claims; none is suppressed.

    Parameters are as for `resolve`. The result is int32 [B, P, H, W]: 0 or the prompt's
    id.
    """
    there = likely(existence, existence_threshold)
    claims = _claims(mask_logits, there, size, mask_threshold, resize)
    values = torch.tensor(ids, dtype=torch.int32, device=mask_logits.device)
    return torch.stack([masks * values[:, None, None] for masks in claims])


def resolve_confident(
    mask_logits: torch.Tensor,
    existence: torch.Tensor,
    ids: Sequence[int],
    size: tuple[int, int],
    *,
    existence_threshold: float = 0.5,
    mask_threshold: float = BACKGROUND_PROBABILITY,
    resize: Resize = upsample,
) -> torch.Tensor:
    """Drop prompts that others outvote, and give voxels to the most probable others.

    Parameters are as for `resolve`, the rule is that of `combine_masks`. The result is
    int32 [B, H, W]: 0 or a prompt's id.
    """
    labels = np.zeros((len(mask_logits), *size), np.int32)
    there = likely(existence, existence_threshold)
    for plane, logits, chosen in zip(labels, mask_logits, there, strict=True):
        names = list(compress(ids, chosen.tolist()))
        probabilities = resize(logits[None, chosen], size)[0].sigmoid()
        kept, masks = combine_masks(probabilities.cpu().numpy(), mask_threshold)
        for index, mask in zip(kept, masks, strict=True):
            plane[mask] = names[index]
    return torch.from_numpy(labels).to(mask_logits.device)


def _claims(
    mask_logits: torch.Tensor,
    there: torch.Tensor,
    size: tuple[int, int],
    mask_threshold: float,
    resize: Resize,
) -> Iterator[torch.Tensor]:
    """Yield masks [P, H, W] of each slice, empty if the target does not exist."""
    for logits, chosen in zip(mask_logits, there, strict=True):
        probabilities = resize(logits[None], size)[0].sigmoid()
        yield (probabilities > mask_threshold) & chosen[:, None, None]
