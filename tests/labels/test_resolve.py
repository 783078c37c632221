"""Gating, duplicate suppression, merging, upsampling, and all of them together."""

from __future__ import annotations

from functools import partial
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cubic import cubic_matrix
from golden_pure import run_nms_merge
from hypothesis import given, settings, strategies as st

from napari_biomedparse.labels import resolve as postprocess
from napari_biomedparse.labels.resolve import (
    merge,
    resolve,
    suppress,
    upsample,
)

SATURATED = 40.0
resolve_at_once = partial(resolve, wait=False)


def test_golden(shared: Path) -> None:
    results = list(run_nms_merge(shared / "reference"))
    assert results
    assert [r for r in results if not r.passed] == []


def random_case(
    seed: int, batch: int = 3, prompts: int = 4
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return blobby mask logits and existence logits with ties and duplicates."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(batch, prompts, 4, 4, generator=generator)
    logits = upsample(coarse, (16, 16)) * 2
    if prompts > 2:
        logits[:, 2] = logits[:, 0] + 0.3
    existence = torch.randn(batch, prompts, generator=generator).round(decimals=1)
    return logits, existence


# --- upsampling ----------------------------------------------------------------------


@pytest.mark.parametrize("size", [16, 33, 64])
def test_upsampling_is_antialiased_bicubic_by_definition(size: int) -> None:
    logits = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    matrix = cubic_matrix(16, size, -0.5, clamp=False)
    expected = matrix @ logits.double().numpy() @ matrix.T
    np.testing.assert_allclose(upsample(logits, (size, size)), expected, atol=1e-5)


def test_upsampling_does_not_depend_on_what_is_beside() -> None:
    logits = torch.randn(2, 5, 32, 32, generator=torch.Generator().manual_seed(0))
    together = upsample(logits, (128, 128))
    for b in range(2):
        for p in range(5):
            alone = upsample(logits[b : b + 1, p : p + 1], (128, 128))
            assert torch.equal(alone[0, 0], together[b, p])


def test_upsampling_nothing() -> None:
    assert upsample(torch.zeros(1, 0, 4, 4), (8, 8)).shape == (1, 0, 8, 8)


# --- suppression ---------------------------------------------------------------------


def bars(*ranges: tuple[int, int]) -> torch.Tensor:
    """Return masks [1, P, 1, 12] that are true from start to stop."""
    masks = torch.zeros(1, len(ranges), 1, 12, dtype=torch.bool)
    for mask, (start, stop) in zip(masks[0], ranges, strict=True):
        mask[:, start:stop] = True
    return masks


def test_the_highest_score_rules_out_duplicates() -> None:
    keep = suppress(bars((0, 6), (0, 7), (8, 12)), torch.tensor([[0.6, 0.9, 0.7]]))
    assert keep.tolist() == [[False, True, True]]


def test_an_overlap_of_exactly_the_threshold_survives() -> None:
    scores = torch.tensor([[0.9, 0.8]])
    assert suppress(bars((0, 8), (0, 4)), scores).tolist() == [[True, True]]
    assert suppress(bars((0, 8), (0, 5)), scores).tolist() == [[True, False]]
    keep = suppress(bars((0, 10), (0, 3)), scores, iou_threshold=0.3)
    assert keep.tolist() == [[True, True]]


def test_a_score_of_exactly_the_threshold_is_kept() -> None:
    below = np.nextafter(np.float32(0.5), np.float32(0))
    scores = torch.tensor([[0.5, below]])
    assert suppress(bars((0, 3), (5, 9)), scores).tolist() == [[True, False]]
    keep = suppress(bars((0, 3), (5, 9)), scores, score_threshold=0.4)
    assert keep.tolist() == [[True, True]]


def test_an_empty_mask_is_neither_kept_nor_in_the_way() -> None:
    keep = suppress(bars((0, 0), (0, 5)), torch.tensor([[0.9, 0.8]]))
    assert keep.tolist() == [[False, True]]


def test_a_suppressed_prompt_suppresses_nothing() -> None:
    masks = bars((0, 6), (2, 7), (3, 8))
    keep = suppress(masks, torch.tensor([[0.9, 0.8, 0.7]]))
    assert keep.tolist() == [[True, False, True]]


def test_of_equal_scores_the_first_prompt_goes_first() -> None:
    keep = suppress(bars((0, 6), (0, 6), (0, 6)), torch.tensor([[0.7, 0.8, 0.8]]))
    assert keep.tolist() == [[False, True, False]]


def plain_suppress(
    masks: np.ndarray, scores: np.ndarray, score_threshold: float, iou_threshold: float
) -> list[bool]:
    """The rule for one slice, word by word."""
    gone, kept = set(), set()
    for p in sorted(range(len(scores)), key=lambda p: (-scores[p], p)):
        if scores[p] < score_threshold:
            break
        if p in gone or not masks[p].any():
            continue
        kept.add(p)
        for q in range(len(scores)):
            either = (masks[p] | masks[q]).sum()
            if q not in kept and (masks[p] & masks[q]).sum() / either > iou_threshold:
                gone.add(q)
    return [p in kept for p in range(len(scores))]


@given(
    seed=st.integers(0, 10**6),
    prompts=st.integers(1, 6),
    score_threshold=st.sampled_from([0.0, 0.3, 0.5, 1.0]),
    iou_threshold=st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]),
)
@settings(deadline=None, max_examples=200)
def test_suppression_agrees_with_the_plain_rule(
    seed: int, prompts: int, score_threshold: float, iou_threshold: float
) -> None:
    rng = np.random.default_rng(seed)
    masks = rng.random((2, prompts, 2, 4)) < rng.random((2, prompts, 1, 1))
    scores = rng.integers(0, 11, (2, prompts)).astype(np.float32) / 10
    keep = suppress(
        torch.tensor(masks), torch.tensor(scores), score_threshold, iou_threshold
    )
    for b in range(2):
        expected = plain_suppress(masks[b], scores[b], score_threshold, iou_threshold)
        assert keep[b].tolist() == expected


# --- merging -------------------------------------------------------------------------


@given(seed=st.integers(0, 10**6), prompts=st.integers(0, 5))
@settings(deadline=None, max_examples=100)
def test_merge_is_the_first_highest_of_background_and_prompts(
    seed: int, prompts: int
) -> None:
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 5, (2, prompts, 3, 4)).astype(np.float32) / 4
    ids = rng.permutation(np.arange(1, 6))[:prompts]
    with_background = np.concatenate([np.full((2, 1, 3, 4), 0.5), values], axis=1)
    expected = np.array([0, *ids])[with_background.argmax(axis=1)]
    labels = merge(torch.tensor(values), ids.tolist())
    assert labels.dtype == torch.int32
    np.testing.assert_array_equal(labels.numpy(), expected)


# --- all together --------------------------------------------------------------------


def plain_resolve(
    logits: torch.Tensor, existence: torch.Tensor, ids: list[int], size: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Every step on the full arrays, without leaving anything out."""
    probabilities, scores = upsample(logits, size).sigmoid(), existence.sigmoid()
    keep = scores > 0.5 if len(ids) == 1 else suppress(probabilities > 0.5, scores)
    return merge(probabilities * keep[:, :, None, None], ids), keep


@pytest.mark.parametrize("prompts", [1, 2, 5])
@pytest.mark.parametrize("seed", range(10))
def test_resolve_agrees_with_the_plain_steps(seed: int, prompts: int) -> None:
    logits, existence = random_case(seed, prompts=prompts)
    ids = list(range(3, 3 + prompts))
    labels, keep = resolve(logits, existence, ids, (40, 40))
    expected_labels, expected_keep = plain_resolve(logits, existence, ids, (40, 40))
    assert torch.equal(labels, expected_labels)
    assert torch.equal(keep, expected_keep)


def test_resolve_does_not_depend_on_the_batch() -> None:
    logits, existence = random_case(0, batch=7)
    ids = [1, 2, 3, 4]
    together = resolve(logits, existence, ids, (40, 40))
    for size in (1, 3):
        parts = [
            resolve(logits[i : i + size], existence[i : i + size], ids, (40, 40))
            for i in range(0, 7, size)
        ]
        assert torch.equal(torch.cat([p.labels for p in parts]), together.labels)
        assert torch.equal(torch.cat([p.keep for p in parts]), together.keep)


def test_ids_only_name_the_labels() -> None:
    logits, existence = random_case(1, prompts=3)
    plain = resolve(logits, existence, [1, 2, 3], (32, 32)).labels
    assert plain.any()
    for ids in permutations([1, 2, 3]):
        labels = resolve(logits, existence, ids, (32, 32)).labels
        assert torch.equal(labels, torch.tensor([0, *ids], dtype=torch.int32)[plain])


def test_large_ids() -> None:
    labels = resolve(torch.ones(1, 1, 4, 4), torch.ones(1, 1), [65535], (8, 8)).labels
    assert labels.unique().tolist() == [65535]


def test_an_existence_of_one_half_is_enough_for_several_prompts_only() -> None:
    existence, logits = torch.zeros(1, 2), torch.ones(1, 2, 4, 4)
    logits[:, 1] = -1
    assert resolve(logits, existence, [1, 2], (8, 8)).keep.tolist() == [[True, False]]
    alone = resolve(logits[:, :1], existence[:, :1], [1], (8, 8))
    assert alone.keep.tolist() == [[False]]
    assert not alone.labels.any()


def test_of_saturated_probabilities_the_first_prompt_wins() -> None:
    logits = torch.full((1, 2, 4, 4), SATURATED)
    logits[:, 1] += 5
    logits[:, 1, :, 2:] = logits[:, 0, :, :2] = -SATURATED
    logits[:, 0, 0, 0] = SATURATED
    labels = resolve(logits, torch.ones(1, 2), [1, 2], (4, 4)).labels
    assert labels[0, 0].tolist() == [1, 2, 1, 1]


def test_a_probability_that_rounds_to_one_half_is_background() -> None:
    logits = torch.full((1, 1, 4, 4), 1e-9)
    assert not resolve(logits, torch.ones(1, 1), [1], (8, 8)).labels.any()


def test_thresholds_can_be_changed() -> None:
    logits = torch.ones(1, 2, 4, 4)
    logits[:, 1, :, 2:] = -1
    existence = torch.tensor([[-0.5, 3.0]])
    assert resolve(logits, existence, [1, 2], (4, 4)).keep.tolist() == [[False, True]]
    eased = resolve(logits, existence, [1, 2], (4, 4), existence_threshold=0.3)
    assert eased.keep.tolist() == [[True, True]]
    strict = resolve(
        logits,
        existence,
        [1, 2],
        (4, 4),
        existence_threshold=0.3,
        overlap_threshold=0.4,
    )
    assert strict.keep.tolist() == [[False, True]]
    alone = resolve(
        logits[:, :1], existence[:, :1], [1], (4, 4), existence_threshold=0.3
    )
    assert alone.labels.all()


def test_nothing_exists() -> None:
    labels, keep = resolve(
        torch.ones(2, 3, 4, 4), torch.full((2, 3), -9.0), [1, 2, 3], (8, 8)
    )
    assert labels.shape == (2, 8, 8)
    assert not labels.any()
    assert not keep.any()


@pytest.mark.gpu
def test_resolve_agrees_on_the_gpu() -> None:
    logits, existence = random_case(5)
    on_gpu = resolve(logits.cuda(), existence.cuda(), [1, 2, 3, 4], (64, 64))
    expected = resolve(logits, existence, [1, 2, 3, 4], (64, 64))
    assert torch.equal(on_gpu.keep.cpu(), expected.keep)
    differing = (on_gpu.labels.cpu() != expected.labels).float().mean()
    assert differing < 1e-3


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**16),
    prompts=st.integers(1, 6),
    existence_threshold=st.sampled_from([0.0, 0.3, 0.5, 0.6, 1.0]),
    overlap_threshold=st.sampled_from([0.0, 0.3, 0.5, 1.0]),
    mask_threshold=st.sampled_from([0.2, 0.5, 0.9]),
    at_once=st.sampled_from([1, 2**26]),
)
def test_without_waiting_it_is_the_same(
    seed: int,
    prompts: int,
    existence_threshold: float,
    overlap_threshold: float,
    mask_threshold: float,
    at_once: int,
) -> None:
    logits, existence = random_case(seed, prompts=prompts)
    ids = [3, 1, 200, 7, 5, 9][:prompts]
    thresholds = {
        "existence_threshold": existence_threshold,
        "overlap_threshold": overlap_threshold,
        "mask_threshold": mask_threshold,
    }
    expected = resolve(logits, existence, ids, (33, 33), **thresholds)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(postprocess, "AT_ONCE", at_once)
        found = resolve_at_once(logits, existence, ids, (33, 33), **thresholds)
    assert torch.equal(found.keep, expected.keep)
    assert torch.equal(found.labels, expected.labels)
    assert found.labels.dtype == expected.labels.dtype


@pytest.mark.parametrize("run", [resolve, resolve_at_once])
def test_a_single_prompt_counts_also_without_a_voxel(run: Any) -> None:
    logits = torch.full((2, 1, 8, 8), -SATURATED)
    found = run(logits, torch.tensor([[1.0], [-1.0]]), [4], (8, 8))
    assert found.keep.tolist() == [[True], [False]]
    assert not found.labels.any()


@pytest.mark.parametrize("run", [resolve, resolve_at_once])
def test_of_two_masks_of_the_same_one_voxel_one_is_left(run: Any) -> None:
    logits = torch.full((1, 2, 8, 8), -SATURATED)
    logits[:, :, 3, 4] = SATURATED
    found = run(logits, torch.tensor([[1.0, 2.0]]), [4, 6], (8, 8))
    assert found.keep.tolist() == [[False, True]]
    assert found.labels[0, 3, 4] == 6


@pytest.mark.parametrize(("room", "slices"), [(0, 1), (1, 1), (5, 5), (7, 7)])
def test_a_gpu_holds_so_many_probabilities_at_once(
    room: int, slices: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[int] = []

    def counting(logits: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        held.append(len(logits))
        return upsample(logits, size)

    logits, existence = random_case(0, batch=7, prompts=3)
    monkeypatch.setattr(postprocess, "upsample", counting)
    monkeypatch.setattr(postprocess, "AT_ONCE", 3 * 20 * 18 * room + 1)
    resolve_at_once(logits, existence, [1, 2, 3], (20, 18))
    assert max(held) == slices
    assert sum(held) == 7
