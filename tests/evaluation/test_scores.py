"""Scores of a case: lines, means, tables, and what they become on disk."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

import golden_v1_pure
import numpy as np
import pytest

from napari_biomedparse.data.prompts import parse_prompts
from napari_biomedparse.evaluation.metrics import evaluate_mask
from napari_biomedparse.evaluation.scores import (
    ALL,
    CaseScore,
    ClassLine,
    cases_csv,
    pair_scores,
    pairs_text,
    score_instances,
    score_semantic,
    shown,
    summarise,
    summary_csv,
)

TRUTH = np.array([[[1, 1, 0]], [[1, 0, 0]], [[0, 2, 2]]], np.uint8)
LABELS = np.array([[[1, 0, 0]], [[0, 0, 0]], [[0, 2, 2]]], np.uint8)
SCORES = (
    CaseScore("a", (ClassLine(1, "x, y", dsc=0.2), ClassLine(2, "z", dsc=0.6)), 1.5),
    CaseScore("b", (ClassLine(1, "x, y", dsc=0.8), ClassLine(2, "z"))),
)
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


def test_everything_is_the_mean_of_the_means_of_cases() -> None:
    first, *classes = summarise(SCORES)
    assert (first.label, first.prompt, first.cases) == (None, ALL, 2)
    assert first.mean == (0.4 + 0.8) / 2 and first.lowest == 0.4
    assert [(c.label, c.mean, c.cases) for c in classes] == [(1, 0.5, 2), (2, 0.6, 1)]
    assert abs(classes[0].deviation - 0.3) < 1e-12 and classes[1].deviation == 0


def test_csv_has_empty_fields_where_nothing_is_known() -> None:
    lines = list(csv.DictReader(io.StringIO(cases_csv(SCORES))))
    assert [(x["case"], x["prompt"], x["dsc"]) for x in lines] == [
        ("a", "x, y", "0.2"), ("a", "z", "0.6"), ("b", "x, y", "0.8"), ("b", "z", ""),
    ]  # fmt: skip
    assert (lines[0]["seconds"], lines[2]["seconds"]) == ("1.5", "")
    (first, *_) = csv.DictReader(io.StringIO(summary_csv(summarise(SCORES))))
    assert (first["label"], first["metric"], first["mean"]) == ("", "dsc", "0.6")


def test_nothing_has_no_summary() -> None:
    assert summarise([]) == ()
    assert shown(math.nan) == "-" and shown(0.5, digits=1) == "0.5"


def test_golden_of_images(shared: Path) -> None:
    results = list(golden_v1_pure.metrics(shared / "reference_v1"))
    assert len(results) == 44
    assert [r for r in results if not r.passed] == []


def test_pairs_of_image_and_prompt_are_summed_up_in_percent() -> None:
    empty, half = np.zeros((8, 10), bool), np.zeros((8, 10), bool)
    half[:4] = True
    pairs = [
        ClassLine(1, "a", **evaluate_mask(*masks))
        for masks in ((half, ~empty), (half, half), (empty, half), (empty, empty))
    ]
    assert [pair.intersection for pair in pairs] == [40, 40, 0, 0]
    assert [pair.union for pair in pairs] == [80, 40, 40, 0]
    assert [pair.predicted for pair in pairs] == [80, 40, 40, 0]
    np.testing.assert_allclose([pair.iou for pair in pairs], [0.5, 1, 0, 0], atol=1e-6)
    np.testing.assert_allclose([p.dice for p in pairs], [2 / 3, 1, 0, 0], atol=1e-6)
    found = pair_scores(pairs)
    assert found["mIoU [%]"] == pytest.approx(150 / 4)
    assert found["mDice [%]"] == pytest.approx(500 / 3 / 4)
    assert found["cIoU [%]"] == pytest.approx(50)
    assert found["cDice [%]"] == pytest.approx(100 * 80 / 120)
    assert found["precision@0.5 [%]"] == 50  # an IoU of exactly one half counts
    assert found["precision@0.6 [%]"] == found["precision@0.9 [%]"] == 25
    assert pair_scores(pairs[3:])["cDice [%]"] == 0 and pair_scores([]) == {}
    lines = summarise([CaseScore("x", tuple(pairs)), CaseScore("y", (pairs[1],))])
    (line,) = (line for line in lines if line.metric == "cIoU [%]")
    assert (line.label, line.cases, line.mean) == (None, 5, pytest.approx(60))
    assert "cIoU 60.00 %" in pairs_text(lines)


def test_only_single_images_have_pairs() -> None:
    volume = score_semantic(TRUTH, LABELS, {1: "a"}, **HOW)
    assert math.isnan(volume[0].iou) and pairs_text(summarise(SCORES)) == ""
    texts = {1: "a", 2: "b"}
    one, other = score_semantic(TRUTH[:1], LABELS[:1], texts, **HOW)
    assert one.iou == pytest.approx(0.5) and math.isnan(other.iou)  # nowhere
    (alone,) = score_semantic(TRUTH[:1], LABELS[:1], {2: "b"}, **HOW)
    assert alone.iou == 0
