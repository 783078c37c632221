"""Comparing two label images: every label of either counts, 0 is background."""

from __future__ import annotations

import math

import numpy as np
import pytest

from napari_biomedparse.errors import VolumeError
from napari_biomedparse.evaluation.compare import compare_labels


def boxes() -> tuple[np.ndarray, np.ndarray]:
    """Label 1 in two pieces of which one is missed, 2 alike, 3 and 4 on one side."""
    truth = np.zeros((6, 20, 20), np.uint8)
    truth[1:5, 2:6, 2:6] = truth[1:5, 12:16, 2:6] = 1
    truth[1:5, 2:6, 12:16] = 2
    labels = truth.copy()
    labels[:, 10:, :] = 0
    truth[5, 19, 19] = 3
    labels[5, 0, 0] = 4
    return truth, labels


def test_each_label_has_a_line() -> None:
    lines = compare_labels(*boxes(), texts={1: "liver", 9: "nowhere"})
    assert [(line.label, line.prompt) for line in lines] == [
        (1, "liver"),
        (2, ""),
        (3, ""),
        (4, ""),
    ]
    first, same, lost, invented = lines
    assert first.dsc == pytest.approx(2 * 64 / (128 + 64))
    assert (first.true_positives, first.false_negatives) == (1, 1)
    assert first.f1 == pytest.approx(2 / 3) and first.dsc_matched == 1.0
    assert 0.4 < first.nsd < 0.9
    assert (same.dsc, same.nsd, same.f1) == (1.0, 1.0, 1.0)
    assert (lost.dsc, lost.nsd, lost.f1) == (0.0, 0.0, 0.0)
    assert (lost.true_positives, lost.false_negatives) == (0, 1)
    assert (invented.dsc, invented.false_positives) == (0.0, 1)


def test_without_background_every_label_counts_still() -> None:
    truth = np.ones((2, 4, 4), np.uint8)
    truth[1] = 2
    lines = compare_labels(truth, truth)
    assert [(line.label, line.dsc) for line in lines] == [(1, 1.0), (2, 1.0)]


def test_objects_are_matched_whatever_their_numbers() -> None:
    truth, labels = boxes()
    objects = np.where(labels > 0, labels + 10, 0)
    truth[1:5, 12:16, 2:6] = 7
    (line,) = compare_labels(truth, objects, objects=True)
    assert (line.true_positives, line.false_positives, line.false_negatives) == (
        2,
        1,
        2,
    )
    assert line.f1 == pytest.approx(2 * 2 / (2 * 2 + 1 + 2))
    assert 0 < line.dsc < 1 and not math.isnan(line.nsd)


def test_the_tolerance_is_in_the_unit_of_the_spacing() -> None:
    truth = np.zeros((6, 20, 20), np.uint8)
    truth[1:5, 4:10, 4:10] = 1
    moved = np.roll(truth, 1, axis=1)
    near, far = (
        compare_labels(truth, moved, spacing=(s, s, s), tolerance=2.0)[0].nsd
        for s in (1.0, 10.0)
    )
    assert near == 1.0 and far < 0.9


def test_nothing_and_what_does_not_fit() -> None:
    empty = np.zeros((2, 4, 4), np.uint8)
    assert compare_labels(empty, empty) == ()
    with pytest.raises(VolumeError, match="same voxels"):
        compare_labels(empty, empty[1:])
