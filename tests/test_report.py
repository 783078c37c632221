"""What people are told: counts, likely causes, time left."""

from __future__ import annotations

import numpy as np
import pytest

from napari_biomedparse.prompts import parse_prompts
from napari_biomedparse.report import (
    Tally,
    TimeLeft,
    duration,
    truncation_warning,
    why_nothing,
)
from napari_biomedparse.slices import SegmentedSlices

PROMPTS = parse_prompts({2: "nuclei", 7: "vessels"})


def part(start, labels, existence, axis=0):
    count = labels.shape[axis]
    return SegmentedSlices(
        start, start + count, axis, labels, np.float32(existence).reshape(2, count)
    )


def test_tally_counts_in_any_order_and_along_any_axis():
    labels = np.zeros((6, 5, 4), np.uint8)
    labels[:3, 1:3, 0] = 2
    labels[0, 4, 0] = 7
    tally = Tally(PROMPTS, 5)
    scores = np.linspace(0.1, 0.8, 10).reshape(2, 5)
    for start, stop in ((3, 5), (0, 3)):
        tally.add(part(start, labels[:, start:stop], scores[:, start:stop], axis=1))
    nuclei, vessels = tally.findings()
    assert (nuclei.voxels, nuclei.slices, nuclei.first, nuclei.last) == (6, 2, 1, 2)
    assert (vessels.voxels, vessels.first, vessels.best_slice) == (1, 4, 4)
    assert vessels.best == pytest.approx(0.8)
    np.testing.assert_allclose(tally.existence, scores, rtol=1e-6)


def test_tally_before_the_first_slice():
    finding, _ = Tally(PROMPTS, 5).findings()
    assert (finding.voxels, finding.best_slice, finding.first) == (0, None, None)
    assert np.isnan(finding.best)


@pytest.mark.parametrize(
    ("score", "advice"),
    [
        (0.9, "drew no mask"),
        (0.3, "lower the threshold"),
        (0.01, "sure that no slice shows it"),
        (np.nan, "No slice was finished"),
    ],
)
def test_likely_cause_of_nothing(score, advice):
    tally = Tally(PROMPTS, 2)
    scores = np.full((2, 2), score)
    if np.isfinite(score):
        tally.add(part(0, np.zeros((2, 3, 3), np.uint8), scores))
    text = why_nothing(
        tally.findings(),
        intensity="percentiles: 3 to 9 become 0 to 255",
        threshold=0.5,
        truncated=("a very long prompt",),
    )
    assert advice in text
    assert "3 to 9 become 0 to 255" in text
    assert "77 tokens" in text


def test_truncation_names_the_prompts():
    assert "'nuclei and so on" in truncation_warning(["nuclei and so on " * 9])


def test_time_left_is_right_after_a_tenth_of_a_steady_run():
    clock, pace, left = TimeLeft(), 3.0, None
    for done in range(4, 41, 4):  # the model took a minute to load
        left = clock.update(done, 400, 60 + pace * done)
    assert left == pytest.approx(pace * 360, rel=0.2)


def test_no_guess_from_one_batch():
    assert TimeLeft().update(4, 400, 60.0) is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.4, "59 s"), (125, "2 min 05 s"), (7260, "2 h 01 min")],
)
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_separate_labels_are_counted_prompt_by_prompt() -> None:
    prompts = parse_prompts({2: "liver", 5: "kidney"})
    labels = np.zeros((2, 4, 3, 6), np.uint8)  # slices along the second of three axes
    labels[0, :, 1] = 2
    labels[1, :2, 1] = 5
    existence = np.full((2, 3), 0.9, np.float32)
    tally = Tally(prompts, 9)
    tally.add(SegmentedSlices(4, 7, 1, labels, existence))
    assert [finding.voxels for finding in tally.findings()] == [24, 12]
    assert [finding.first for finding in tally.findings()] == [5, 5]
