"""Tables: a line for each case and class, and what they amount to."""

from __future__ import annotations

import csv
import io
import math

from napari_biomedparse.evaluation.scores import CaseScore, ClassLine
from napari_biomedparse.evaluation.tables import (
    ALL,
    cases_csv,
    shown,
    summarise,
    summary_csv,
)

SCORES = (
    CaseScore("a", (ClassLine(1, "x, y", dsc=0.2), ClassLine(2, "z", dsc=0.6)), 1.5),
    CaseScore("b", (ClassLine(1, "x, y", dsc=0.8), ClassLine(2, "z"))),
)


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
