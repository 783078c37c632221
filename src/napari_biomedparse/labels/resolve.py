"""From the network's logits to one label slice: gating, duplicates, merging.

Section 6 of the architecture description, steps 1 to 4. Everything is done slice by
slice, so that a result never depends on the batch. Probabilities are float32 sigmoids
and not logits on purpose: where a sigmoid saturates or rounds to 0.5, the order of
prompts decides, and that has to agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F

BACKGROUND_PROBABILITY = 0.5
"""What a prompt's probability must exceed for a voxel to be its own."""
AT_ONCE = 2**26
"""Probabilities that a GPU holds at once: 256 MiB."""


class Resolved(NamedTuple):
    """Labels of a batch of slices.

    Parameters
    ----------
    labels : Tensor [B, H, W]
        int32: 0 or a prompt's id.
    keep : Tensor [B, P]
        bool: which prompts took part in which slice.
    """

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
) -> Resolved:
    """Turn the masks of competing prompts into one label slice each.

    A prompt counts in a slice where it is `likely` and, if there are several, where
    `suppress` keeps it.

    Parameters
    ----------
    mask_logits : Tensor [B, P, h, w]
        float32, of the masks (or of the edges, for edge labels).
    existence : Tensor [B, P]
        float32 logits.
    ids : sequence of int
        Label id of each prompt.
    size : tuple of two int
        Rows H and columns W of the label slices.
    existence_threshold, overlap_threshold : float
        Probability and intersection over union, 0 to 1.
    mask_threshold : float
        What a prompt's probability must exceed for a voxel to be its own.

    Returns
    -------
    Resolved
        On the device of `mask_logits`.
    """
    if mask_logits.device.type == "cuda":
        return resolve_at_once(
            mask_logits,
            existence,
            ids,
            size,
            existence_threshold=existence_threshold,
            overlap_threshold=overlap_threshold,
            mask_threshold=mask_threshold,
        )
    scores = probability(existence)
    single = len(ids) == 1
    candidates = likely(existence, existence_threshold)
    labels, kept = [], []
    for logits, score, chosen in zip(mask_logits, scores, candidates, strict=True):
        keep = chosen.clone()
        probabilities = upsample(logits[chosen][None], size).sigmoid()
        if not single:
            keep[chosen] = suppress(
                probabilities > mask_threshold,
                score[chosen][None],
                existence_threshold,
                overlap_threshold,
            )[0]
            probabilities = probabilities[:, keep[chosen]]
        remaining = [i for i, used in zip(ids, keep.tolist(), strict=True) if used]
        labels.append(merge(probabilities, remaining, mask_threshold)[0])
        kept.append(keep)
    return Resolved(torch.stack(labels), torch.stack(kept))


def resolve_at_once(
    mask_logits: torch.Tensor,
    existence: torch.Tensor,
    ids: Sequence[int],
    size: tuple[int, int],
    *,
    existence_threshold: float = 0.5,
    overlap_threshold: float = 0.5,
    mask_threshold: float = BACKGROUND_PROBABILITY,
) -> Resolved:
    """Do the same as `resolve` without asking the device for anything in between.

    It also computes what turns out not to be needed, which on a GPU takes less time
    than waiting for it to say so. Parameters and result as for `resolve`.
    """
    scores = probability(existence)
    candidates = likely(existence, existence_threshold)
    at_once = max(1, AT_ONCE // (len(ids) * size[0] * size[1]))
    labels, kept = [], []
    for start in range(0, len(mask_logits), at_once):
        part = slice(start, start + at_once)
        probabilities = upsample(mask_logits[part], size).sigmoid()
        keep = candidates[part]
        if len(ids) > 1:
            masks = probabilities > mask_threshold
            keep = _suppress_at_once(masks, scores[part], keep, overlap_threshold)
        gated = probabilities * keep[:, :, None, None]
        labels.append(merge(gated, ids, mask_threshold))
        kept.append(keep)
    return Resolved(torch.cat(labels), torch.cat(kept))


def likely(existence: torch.Tensor, threshold: float) -> torch.Tensor:
    """Decide which prompts' targets are taken to exist.

    Parameters
    ----------
    existence : Tensor [B, P]
        Logits.
    threshold : float
        Probability, 0 to 1. Of several prompts, one that equals it passes; a single
        prompt has to exceed it.

    Returns
    -------
    Tensor [B, P]
        bool.
    """
    scores = probability(existence)
    return scores > threshold if existence.shape[1] == 1 else scores >= threshold


def probability(existence: torch.Tensor) -> torch.Tensor:
    """Turn existence logits into probabilities, whatever the batch to the same bits.

    The float32 sigmoid rounds some elements of a tensor differently from others, by
    their place in it; float64, rounded once, does not show that.

    Parameters
    ----------
    existence : Tensor [B, P]
        float32 logits.

    Returns
    -------
    Tensor [B, P]
        float32, on the same device.
    """
    here = "cpu" if existence.device.type == "mps" else None  # MPS has no float64
    exact = existence.to(here, torch.float64).sigmoid()
    return exact.to(torch.float32).to(existence.device)


def upsample(logits: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resize mask logits to the size of the slices.

    Bicubic with antialiasing, which for enlarging means the kernel with a = -0.5,
    half-pixel centres, and at the borders the weights of the remaining samples
    scaled to a sum of one.

    Parameters
    ----------
    logits : Tensor [B, P, h, w]
        float32.
    size : tuple of two int
        Rows H and columns W.

    Returns
    -------
    Tensor [B, P, H, W]
    """
    if 0 in logits.shape:
        return logits.new_zeros((*logits.shape[:2], *size))
    return F.interpolate(logits, size, mode="bicubic", antialias=True)


def suppress(
    masks: torch.Tensor,
    scores: torch.Tensor,
    score_threshold: float = 0.5,
    iou_threshold: float = 0.5,
) -> torch.Tensor:
    """Choose, in every slice, prompts that do not cover the same voxels.

    Prompts are visited by descending score, of equal scores the first one first. A
    score below `score_threshold` ends the visit, an empty mask is passed over, any
    other is kept and rules out those that overlap it by more than `iou_threshold`.

    Parameters
    ----------
    masks : Tensor [B, P, H, W]
        bool.
    scores : Tensor [B, P]
        Existence probabilities.
    score_threshold, iou_threshold : float

    Returns
    -------
    Tensor [B, P]
        bool: which prompts are kept.
    """
    slices = zip(masks, scores, strict=True)
    keep = [_suppress_slice(m, s, score_threshold, iou_threshold) for m, s in slices]
    return torch.stack(keep)


def _suppress_slice(
    masks: torch.Tensor,
    scores: torch.Tensor,
    score_threshold: float,
    iou_threshold: float,
) -> torch.Tensor:
    keep = torch.zeros_like(scores, dtype=torch.bool)
    order = scores.argsort(descending=True, stable=True)
    order = order[scores[order] >= score_threshold]
    flat = masks[order].flatten(1).to(torch.float32)
    # Sums of 0 and 1 are exact in float32 up to 2**24 voxels a slice.
    shared = (flat @ flat.T).to("cpu", torch.float64)
    area = shared.diagonal()
    union = area[:, None] + area[None] - shared
    duplicate = shared / union.clamp(min=1) > iou_threshold
    remaining = (area > 0).tolist()
    for rank, prompt in enumerate(order.tolist()):
        if remaining[rank]:
            keep[prompt] = True
            for other in duplicate[rank].nonzero().flatten().tolist():
                remaining[other] = False
    return keep


def _suppress_at_once(
    masks: torch.Tensor,
    scores: torch.Tensor,
    candidates: torch.Tensor,
    iou_threshold: float,
) -> torch.Tensor:
    """Do as `suppress` does, for the candidates [B, P], on the device alone."""
    order = scores.argsort(dim=1, descending=True, stable=True)
    flat = masks.flatten(2).to(torch.float32)
    shared = (flat @ flat.mT).to(torch.float64)  # [B, P, P]
    area = shared.diagonal(dim1=1, dim2=2)
    union = area[:, :, None] + area[:, None] - shared
    duplicate = shared / union.clamp(min=1) > iou_threshold
    remaining = candidates & (area > 0)
    keep = torch.zeros_like(candidates)
    for visited in torch.split(order, 1, dim=1):  # [B, 1]
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
    """Give every voxel to its most probable prompt, or to the background.

    Parameters
    ----------
    probabilities : Tensor [B, P, H, W]
        float32; P may be 0.
    ids : sequence of int
        Label id of each prompt.
    threshold : float
        What is not background exceeds it.

    Returns
    -------
    Tensor [B, H, W]
        int32: 0 where no probability exceeds the threshold, else the id of the
        highest one, of equal ones the first.
    """
    batch, _, rows, columns = probabilities.shape
    best = probabilities.new_full((batch, rows, columns), threshold)
    labels = torch.zeros_like(best, dtype=torch.int32)
    for probability, label in zip(probabilities.unbind(1), ids, strict=True):
        labels.masked_fill_(probability > best, label)
        best = torch.maximum(best, probability)
    return labels
