"""Who gets a voxel that several prompts claim, against the rule written in numpy."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch

from napari_biomedparse.labels.likeness import combine_masks
from napari_biomedparse.labels.resolve import (
    likely,
    resolve_confident,
    resolve_in_order,
    resolve_separately,
    upsample,
)

IDS, SIZE = (2, 5, 9), (40, 40)


def case(seed: int, prompts: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = upsample(torch.randn(4, prompts, 4, 4, generator=generator), (16, 16)) * 2
    return logits, torch.randn(4, prompts, generator=generator)


def claims(logits: torch.Tensor, existence: torch.Tensor, **thresholds: float) -> Any:
    """Masks [B, P, H, W] of the prompts that are taken to exist."""
    masks = upsample(logits, SIZE).sigmoid() > thresholds["mask_threshold"]
    there = likely(existence, thresholds["existence_threshold"])
    return (masks & there[:, :, None, None]).numpy()


@pytest.mark.parametrize("mask_threshold", [0.3, 0.5])
@pytest.mark.parametrize("existence_threshold", [0.0, 0.5])
def test_the_first_that_claims_a_voxel_gets_it(
    mask_threshold: float, existence_threshold: float
) -> None:
    thresholds = {
        "mask_threshold": mask_threshold,
        "existence_threshold": existence_threshold,
    }
    logits, existence = case(0)
    masks, several = claims(logits, existence, **thresholds), set()
    assert (masks.sum(axis=1) > 1).any()
    for ranked in permutations(IDS):
        order = [IDS.index(label) for label in ranked]
        first = np.array(ranked)[masks[:, order].argmax(axis=1)]
        expected = np.where(masks.any(axis=1), first, 0)
        found = resolve_in_order(
            logits, existence, IDS, SIZE, ranked=ranked, **thresholds
        )
        assert found.dtype == torch.int32
        np.testing.assert_array_equal(found.numpy(), expected)
        several.add(found.numpy().tobytes())
    assert len(several) > 1


@pytest.mark.parametrize("mask_threshold", [0.3, 0.5])
@pytest.mark.parametrize("prompts", [1, 3])
def test_separately_each_gets_all_it_claims(
    mask_threshold: float, prompts: int
) -> None:
    thresholds = {"mask_threshold": mask_threshold, "existence_threshold": 0.4}
    logits, existence = case(1, prompts)
    masks, ids = claims(logits, existence, **thresholds), IDS[:prompts]
    found = resolve_separately(logits, existence, ids, SIZE, **thresholds)
    expected = masks * np.array(ids)[:, None, None]
    assert expected.any()
    np.testing.assert_array_equal(found.numpy(), expected)


@pytest.mark.parametrize("mask_threshold", [0.3, 0.5])
def test_the_confident_are_combined(mask_threshold: float) -> None:
    thresholds = {"mask_threshold": mask_threshold, "existence_threshold": 0.4}
    logits, existence = case(2)
    there = likely(existence, 0.4)
    assert there.any() and not there.all()
    found = resolve_confident(logits, existence, IDS, SIZE, **thresholds)
    assert found.dtype == torch.int32
    for plane, one, chosen in zip(found.numpy(), logits, there, strict=True):
        names = np.array(IDS)[chosen.numpy()]
        probabilities = upsample(one[None], SIZE)[0].sigmoid()[chosen].numpy()
        kept, masks = combine_masks(probabilities, mask_threshold)
        expected = np.zeros(SIZE, int)
        for index, mask in zip(kept, masks, strict=True):
            assert (probabilities[index][mask] > mask_threshold).all()
            expected[mask] = names[index]
        np.testing.assert_array_equal(plane, expected)
    none = torch.full_like(existence, -9.0)
    assert not resolve_confident(logits, none, IDS, SIZE, **thresholds).any()
