"""What people are told: counts, likely causes, time left."""

from __future__ import annotations

import numpy as np
import pytest

from napari_biomedparse.data.prompts import parse_prompts
from napari_biomedparse.data.results import SegmentedSlices
from napari_biomedparse.report.findings import (
    Tally,
    TimeLeft,
    duration,
    truncation_warning,
)

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


def test_slices_done_are_told_as_ranges():
    tally = Tally(PROMPTS, 7)
    assert tally.done == []
    for at in (1, 2, 6):
        tally.add(part(at, np.zeros((1, 5, 4), np.uint8), [[0.1], [0.2]]))
    assert tally.done == [(1, 3), (6, 7)]


@pytest.mark.parametrize("seed", range(20))
def test_time_left_is_right_within_a_fifth_after_a_tenth_of_a_steady_run(seed):
    """By a clock of our own: a slow start, then slices of 3 s, give or take a tenth."""
    generator = np.random.default_rng(seed)
    total, now = 200, 100.0
    ends = now + 40 + np.cumsum(3 * generator.uniform(0.9, 1.1, total))
    left = TimeLeft()
    for done, now in enumerate(ends, start=1):
        said = left.update(done, total, now)
        if total // 10 <= done < total:
            assert said == pytest.approx(ends[-1] - now, rel=0.2)
