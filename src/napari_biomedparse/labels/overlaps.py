"""Rules for voxels that several prompts claim, besides that of the original.

The original's, by score, is `postprocess.resolve`. Here no prompt is dropped for
covering another one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from napari_biomedparse.labels.resolve import (
    BACKGROUND_PROBABILITY,
    likely,
    upsample,
)


def resolve_in_order(
    mask_logits: torch.Tensor,
    existence: torch.Tensor,
    ids: Sequence[int],
    size: tuple[int, int],
    *,
    ranked: Sequence[int],
    existence_threshold: float = 0.5,
    mask_threshold: float = BACKGROUND_PROBABILITY,
) -> torch.Tensor:
    """Give every voxel to the first prompt that claims it.

    Parameters
    ----------
    mask_logits, existence, ids, size, existence_threshold, mask_threshold
        As for `resolve`.
    ranked : sequence of int
        All label ids, the strongest first.

    Returns
    -------
    Tensor [B, H, W]
        int32, on the device of `mask_logits`: 0 or a prompt's id.
    """
    labels = []
    for logits, chosen in zip(
        mask_logits, likely(existence, existence_threshold), strict=True
    ):
        masks = _masks(logits, chosen, size, mask_threshold)
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
) -> torch.Tensor:
    """Give every prompt all the voxels that it claims.

    Parameters
    ----------
    mask_logits, existence, ids, size, existence_threshold, mask_threshold
        As for `resolve`.

    Returns
    -------
    Tensor [B, P, H, W]
        int32, on the device of `mask_logits`: 0 or the prompt's id.
    """
    values = torch.tensor(ids, dtype=torch.int32, device=mask_logits.device)
    return torch.stack(
        [
            _masks(logits, chosen, size, mask_threshold) * values[:, None, None]
            for logits, chosen in zip(
                mask_logits, likely(existence, existence_threshold), strict=True
            )
        ]
    )


def _masks(
    logits: torch.Tensor, chosen: torch.Tensor, size: tuple[int, int], threshold: float
) -> torch.Tensor:
    """Return masks [P, H, W] of a slice, empty where the target is not there."""
    probabilities = upsample(logits[None], size)[0].sigmoid()
    return (probabilities > threshold) & chosen[:, None, None]
