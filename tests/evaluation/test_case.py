"""A case: what its scores depend on, and which slice shows its errors."""

from __future__ import annotations

import mmap
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from evaluation.cases import TEXTS, truth, write_challenge, write_prediction

from napari_biomedparse.data.options import SegmentOptions
from napari_biomedparse.data.prompts import parse_prompts
from napari_biomedparse.errors import PromptError, VolumeError
from napari_biomedparse.evaluation.case import Case, PeakMemory, Scoring
from napari_biomedparse.io.inputs import Pair
from napari_biomedparse.runs.run import FolderOptions


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    write_challenge(tmp_path, "a")
    wrong = truth()
    wrong[2] = 0
    write_prediction(tmp_path / "a.tif", wrong)
    return Pair(
        "a", tmp_path / "imgs" / "a.npz", tmp_path / "gts" / "a.npz", tmp_path / "a.tif"
    )


def test_the_overlay_is_the_slice_with_most_errors(pair: Pair, tmp_path: Path) -> None:
    _, overlay = Case(pair, Scoring()).score(tmp_path / "run", None, FolderOptions())
    assert overlay.index == 2 and overlay.aspect == 1
    np.testing.assert_array_equal(overlay.truth, truth()[2])
    assert not overlay.labels.any()
    some = Scoring(options=SegmentOptions(slices=(1, 4), axis="y"))
    _, overlay = Case(pair, some).score(tmp_path / "run", None, FolderOptions())
    np.testing.assert_array_equal(overlay.truth, truth()[:, overlay.index])
    assert 1 <= overlay.index < 4 and overlay.aspect == 4


def test_the_key_changes_with_all_that_scores_depend_on(pair: Pair) -> None:
    scoring = Scoring()
    key = Case(pair, scoring).key
    assert key == Case(pair, scoring).key
    others = [
        Case(pair, replace(scoring, tolerance=3.0)).key,
        Case(pair, replace(scoring, model="demo 123")).key,
        Case(pair, replace(scoring, prompts=parse_prompts("liver"))).key,
        Case(pair, Scoring(options=SegmentOptions(seed=1))).key,
        Case(replace(pair, prediction=pair.truth), scoring).key,
    ]
    assert len({key, *others}) == 6


def test_prompts_come_from_the_user_or_from_the_file(pair: Pair) -> None:
    stored = Case(pair, Scoring()).prompts
    assert stored is not None and stored.texts == tuple(TEXTS.values())
    given = parse_prompts("liver")
    assert Case(pair, Scoring(prompts=given)).prompts == given
    bare = replace(pair, image=pair.truth.with_name("b.npz"), prediction=None)
    np.savez(bare.image, imgs=truth())
    with pytest.raises(PromptError, match=r"b\.npz contains no prompts"):
        Case(bare, Scoring())


def test_a_missing_file_is_named(pair: Pair) -> None:
    with pytest.raises(VolumeError, match=r"a\.npz has no labels"):
        Case(replace(pair, missing="labels"), Scoring())


def test_labels_without_a_prompt_are_named(
    pair: Pair, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Case(pair, Scoring()).score(tmp_path / "run", None, FolderOptions())
    assert not caplog.messages
    only = Scoring(prompts=parse_prompts("liver"))
    Case(pair, only).score(tmp_path / "run", None, FolderOptions())
    (message,) = caplog.messages
    assert "a.npz has 1 labels without a prompt (2); they are not" in message
    caplog.clear()
    objects = replace(only, options=SegmentOptions(instances=True))
    Case(pair, objects).score(tmp_path / "run", None, FolderOptions())
    assert not caplog.messages


MIB = 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can start anew")
def test_each_measurement_is_its_own() -> None:
    with PeakMemory() as large:
        # From the system itself: numpy may get memory that others have given back.
        with mmap.mmap(-1, 200 * MIB) as fresh:
            np.frombuffer(fresh, np.uint8)[:] = 1
    with PeakMemory() as small:
        pass
    assert large.host_mib > small.host_mib + 150
