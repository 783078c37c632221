"""Overlap, surface and instance scores."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from golden_pure import run_metrics
from hypothesis import given, settings, strategies as st
from scipy.optimize import linear_sum_assignment

from napari_biomedparse.errors import VolumeError
from napari_biomedparse.evaluation.metrics import (
    ClassScore,
    InstanceScore,
    dice,
    evaluate_instances,
    evaluate_semantic,
    match_objects,
    match_rows,
    surface_dice,
)
from napari_biomedparse.labels.instances import label_components

UNIT = (1.0, 1.0, 1.0)
EMPTY = np.zeros((6, 6, 6), bool)


def box(*ranges: tuple[int, int], shape: tuple[int, ...] = (6, 6, 6)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[tuple(slice(*r) for r in ranges)] = True
    return mask


CUBE = box((1, 4), (1, 4), (1, 4))


def test_golden(shared: Path) -> None:
    results = list(run_metrics(shared / "reference"))
    assert results
    assert [r for r in results if not r.passed] == []


# --- masks ---------------------------------------------------------------------------


def test_dice() -> None:
    assert dice(CUBE, CUBE) == 1
    assert dice(CUBE, ~CUBE) == 0
    assert dice(CUBE, EMPTY) == 0
    assert dice(CUBE, box((1, 4), (1, 4), (1, 5))) == pytest.approx(2 * 27 / 63)
    assert math.isnan(dice(EMPTY, EMPTY))


def test_surface_dice_of_odd_masks() -> None:
    assert surface_dice(CUBE, CUBE, spacing=UNIT) == 1
    assert surface_dice(CUBE, EMPTY, spacing=UNIT) == 0
    assert surface_dice(EMPTY, CUBE, spacing=UNIT) == 0
    assert math.isnan(surface_dice(EMPTY, EMPTY, spacing=UNIT))
    full = ~EMPTY
    assert surface_dice(full, full, spacing=UNIT) == 1


@pytest.mark.parametrize("corner", [(0, 0, 0), (5, 5, 5), (2, 3, 4)])
def test_surface_dice_of_single_voxels(corner: tuple[int, int, int]) -> None:
    mask = EMPTY.copy()
    mask[corner] = True
    mask.setflags(write=False)
    assert surface_dice(mask, mask, spacing=UNIT, tolerance=0) == 1
    assert surface_dice(mask, ~mask, spacing=UNIT, tolerance=0) < 1


@pytest.mark.parametrize(("axis", "within"), [(0, False), (1, True), (2, True)])
def test_surface_dice_measures_in_units_of_the_spacing(axis: int, within: bool) -> None:
    mask = np.zeros((12, 12, 12), bool)
    mask[4:7, 4:7, 4:7] = True
    moved = np.roll(mask, 2, axis)
    score = surface_dice(mask, moved, spacing=(5.0, 0.8, 1.0), tolerance=2.0)
    assert (score == 1) == within


# --- classes -------------------------------------------------------------------------


def test_classes_are_scored_one_by_one() -> None:
    truth = np.zeros((4, 8, 8), np.uint8)
    truth[:, :4, :4], truth[:, 5:, 5:] = 2, 7
    labels = np.where(truth == 2, 2, 0)
    score = evaluate_semantic(truth, labels, spacing=UNIT)
    assert list(score) == [2, 7]
    assert (score[2].dsc, score[7].dsc) == (1, 0)
    assert (score[2].nsd, score[7].nsd) == (1, 0)
    only = evaluate_semantic(truth, labels, spacing=UNIT, ids=[2, 3])
    assert (list(only), only[2].dsc) == ([2], 1)


def test_the_lowest_value_of_the_truth_counts_as_background() -> None:
    truth = np.ones((2, 4, 4), np.uint8)
    truth[:, 2:] = 2
    assert list(evaluate_semantic(truth, truth, spacing=UNIT)) == [2]


def test_no_class_gives_no_score() -> None:
    truth = np.zeros((2, 4, 4), np.uint8)
    assert evaluate_semantic(truth, truth + 1, spacing=UNIT) == {}


# --- instances -----------------------------------------------------------------------


def test_perfect_objects() -> None:
    truth = np.zeros((2, 9, 9), np.uint8)
    truth[:, :3, :3], truth[:, 5:, 5:] = 1, 2
    score = evaluate_instances(truth, np.where(truth == 2, 40, truth))
    assert (score.true_positives, score.false_positives) == (2, 0)
    assert (score.precision, score.recall, score.f1, score.dsc_matched) == (1, 1, 1, 1)


def test_one_found_value_stands_for_all_its_components() -> None:
    truth = np.array([[[1, 1, 0, 2, 2, 0, 3]]], np.uint8)
    assert evaluate_instances(truth, (truth > 0) * np.uint8(255)).f1 == 1


def test_several_found_values_are_objects_even_in_pieces() -> None:
    truth = np.array([[[1, 1, 0, 1, 1, 0, 3]]], np.uint8)
    labels = np.array([[[1, 1, 0, 1, 1, 0, 2]]], np.uint8)
    score = evaluate_instances(truth, labels)
    counts = score.true_positives, score.false_positives, score.false_negatives
    assert counts == (2, 0, 1)  # the piece overlaps a true one by exactly one half


def test_truth_is_split_into_components() -> None:
    truth = np.array([[[4, 4, 0, 4, 4, 0, 0]]], np.uint8)
    labels = np.array([[[1, 1, 0, 2, 2, 0, 3]]], np.uint8)
    score = evaluate_instances(truth, labels)
    assert (score.recall, score.precision) == (1, pytest.approx(2 / 3))


def test_nothing_found_and_nothing_there() -> None:
    truth = np.array([[[1, 1, 0, 2]]], np.uint8)
    nothing = truth * 0
    score = evaluate_instances(truth, nothing)
    counts = score.true_positives, score.false_positives, score.false_negatives
    assert counts == (0, 0, 0)
    assert (score.f1, score.dsc_matched) == (0, 0)
    invented = evaluate_instances(nothing, truth)
    assert (invented.false_positives, invented.f1, invented.recall) == (2, 0, 0)


@given(seed=st.integers(0, 10**6))
@settings(deadline=None, max_examples=100)
def test_matching_agrees_with_the_assignment_problem(seed: int) -> None:
    """The challenge's rule: most pairs of at least 0.5 first, then the overlap."""
    rng = np.random.default_rng(seed)
    truth = label_components(rng.integers(0, 3, (1, 4, 12)))
    labels = np.where(rng.random(truth.shape) < 0.25, rng.integers(0, 9), truth)
    labels = np.unique(labels, return_inverse=True)[1].reshape(truth.shape)
    overlap = np.zeros((truth.max(), labels.max()))
    for i, j in np.ndindex(overlap.shape):
        first, second = truth == i + 1, labels == j + 1
        overlap[i, j] = (first & second).sum() / (first | second).sum()
    if overlap.size == 0:
        return
    costs = -(overlap >= 0.5).astype(float) - overlap / (2 * min(overlap.shape))
    chosen = overlap[linear_sum_assignment(costs)]
    expected = np.sort(chosen[chosen >= 0.5])
    np.testing.assert_allclose(np.sort(match_objects(truth, labels)[2]), expected)


def test_many_objects_fit_into_memory() -> None:
    truth = np.zeros((1, 400, 400), np.int32)
    truth[0, ::2, ::2] = np.arange(1, 40001).reshape(200, 200)
    score = evaluate_instances(truth, truth)
    assert (score.true_positives, score.f1) == (40000, 1)


@pytest.mark.parametrize("dtype", ["u1", "u8", ">i2"])
def test_integers_of_any_kind(dtype: str) -> None:
    truth = np.array([[[1, 1, 0, 2]]], dtype)
    assert evaluate_instances(truth, truth).f1 == 1


def test_different_shapes_are_refused() -> None:
    first, second = np.ones((2, 2, 2), int), np.ones((2, 2, 3), int)
    with pytest.raises(VolumeError, match="same grid"):
        evaluate_semantic(first, second, spacing=UNIT)
    with pytest.raises(VolumeError, match="same grid"):
        evaluate_instances(first, second)


def test_objects_that_are_all_missed_have_no_quality() -> None:
    truth = np.array([[[1, 1, 1, 0, 0, 0, 0]]], np.uint8)
    labels = np.array([[[0, 0, 0, 0, 1, 0, 2]]], np.uint8)
    score = evaluate_instances(truth, labels)
    counts = score.true_positives, score.false_positives, score.false_negatives
    assert counts == (0, 2, 1)
    assert (score.f1, score.dsc_matched) == (0, 0)


def test_background_is_no_object() -> None:
    truth = np.array([[[1, 1, 1, 1, 1, 1, 0, 0]]], np.uint8)
    labels = np.array([[[0, 0, 0, 0, 0, 0, 1, 2]]], np.uint8)
    assert len(match_objects(truth, labels)[2]) == 0  # though it covers what was missed
    assert evaluate_instances(truth, labels).true_positives == 0
    assert evaluate_instances(labels, truth).true_positives == 0


def test_f1_is_the_harmonic_mean() -> None:
    score = InstanceScore(2, 1, 6, 0.9)
    assert score.precision == pytest.approx(2 / 3)
    assert score.recall == pytest.approx(1 / 4)
    assert score.f1 == pytest.approx(2 * 2 / (2 * 2 + 1 + 6))


@pytest.mark.parametrize(
    ("score", "name"),
    [(ClassScore(0.5, 0.5), "dsc"), (InstanceScore(1, 0, 0, 1.0), "true_positives")],
)
def test_scores_stay_as_they_are(score: object, name: str) -> None:
    with pytest.raises(AttributeError):
        setattr(score, name, 0)


def test_average_precision_and_partners_of_objects() -> None:
    truth, labels = np.zeros((2, 1, 4, 40), np.uint8)
    truth[..., 0:10], truth[..., 20:25], truth[..., 30:34] = 7, 7, 9
    labels[..., 0:8], labels[..., 20:25], labels[..., 27:29] = 3, 4, 5
    score = evaluate_instances(truth, labels)
    assert score.overlaps == (0.8, 1.0)
    assert score.average_precision(0.5) == 2 / 4
    assert score.average_precision(0.8) == 2 / 4
    assert score.average_precision(0.85) == 1 / 5
    assert InstanceScore(0, 0, 0, 0.0).average_precision() == 0
    rows = [tuple(row.values()) for row in match_rows(truth, labels)]
    assert rows == [
        (7, 40, 3, 32, 0.8),
        (7, 20, 4, 20, 1.0),
        (9, 16, "", "", 0.0),
        ("", "", 5, 8, 0.0),
    ]
