"""Scores of a case: lines, means, and what they become on disk."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from napari_biomedparse.data.prompts import parse_prompts
from napari_biomedparse.evaluation.scores import (
    CaseScore,
    ClassLine,
    score_instances,
    score_semantic,
)

TRUTH = np.array([[[1, 1, 0]], [[1, 0, 0]], [[0, 2, 2]]], np.uint8)
LABELS = np.array([[[1, 0, 0]], [[0, 0, 0]], [[0, 2, 2]]], np.uint8)
HOW = {"spacing": (1.0, 1.0, 1.0), "tolerance": 0.5, "existence": None, "axis": 0}


def test_without_prompts_every_class_of_the_truth_is_scored() -> None:
    first, second = score_semantic(TRUTH, LABELS, {}, **HOW)
    assert (first.label, first.dsc) == (1, pytest.approx(2 * 1 / 4))
    assert (second.label, second.dsc, second.nsd) == (2, 1, 1)
    assert first.existence_accuracy == pytest.approx(2 / 3)


def test_only_what_was_asked_for_is_scored() -> None:
    (line,) = score_semantic(TRUTH, LABELS, {2: "b"}, **HOW)
    assert (line.label, line.prompt, line.dsc) == (2, "b", 1)


def test_existence_is_what_was_said_if_anything_was() -> None:
    said = np.array([[True, True, False]])
    (line,) = score_semantic(TRUTH, LABELS, {1: "a"}, **{**HOW, "existence": said})
    assert line.existence_accuracy == 1
    (line,) = score_semantic(TRUTH, LABELS, {1: "a"}, **{**HOW, "axis": 2})
    assert line.existence_accuracy == pytest.approx(2 / 3)


def test_objects_of_several_prompts_are_scored_together() -> None:
    prompts = parse_prompts(["a", "b"])
    (line,) = score_instances(TRUTH, TRUTH, prompts, existence=None, axis=0)
    assert (line.label, line.prompt, line.f1) == (0, "a; b", 1)
    assert line.true_positives == 2 and math.isnan(line.dsc)


def test_means_leave_out_what_is_not_there() -> None:
    lines = ClassLine(1, "a", dsc=0.5), ClassLine(2, "b")
    score = CaseScore("x", lines)
    assert score.mean("dsc") == score.quality == 0.5
    assert math.isnan(score.mean("f1"))


def test_json_brings_back_the_same_score() -> None:
    score = CaseScore("x", (ClassLine(1, "a", dsc=0.5),), seconds=3.5, slices=4)
    text = json.dumps(score.to_json(), allow_nan=False)
    assert repr(CaseScore.from_json(json.loads(text))) == repr(score)
