"""Scores as CSV, and their summary over cases."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from napari_biomedparse.evaluation.scores import METRICS, CaseScore, ClassLine

TITLES = {
    "dsc": "DSC",
    "nsd": "NSD",
    "f1": "F1",
    "dsc_matched": "DSC of matches",
    "existence_accuracy": "existence accuracy",
}
ALL = "all cases"
COSTS = ("seconds", "host_mib", "device_mib", "slices")


@dataclass(frozen=True)
class SummaryLine:
    """What many cases say of a class, or of everything.

    Parameters
    ----------
    label : int or None
        None for everything.
    prompt : str
    metric : str
        One of `METRICS`.
    cases : int
        How many have that score.
    mean, deviation, median, lowest, highest : float
        Over cases; the deviation of one case is 0.
    """

    label: int | None
    prompt: str
    metric: str
    cases: int
    mean: float
    deviation: float
    median: float
    lowest: float
    highest: float


def summarise(scores: Sequence[CaseScore]) -> tuple[SummaryLine, ...]:
    """Summarise cases: everything first, then by class; what nothing has is left out.

    Everything is the mean over cases of the mean over their classes.
    """
    lines = []
    for metric in METRICS:
        lines += _summary(None, ALL, metric, [s.mean(metric) for s in scores])
    classes = {(line.label, line.prompt) for s in scores for line in s.classes}
    for label, prompt in sorted(classes):
        for metric in METRICS:
            values = [
                getattr(line, metric)
                for score in scores
                for line in score.classes
                if (line.label, line.prompt) == (label, prompt)
            ]
            lines += _summary(label, prompt, metric, values)
    return tuple(lines)


def cases_csv(scores: Iterable[CaseScore]) -> str:
    """Return a line for each case and class; NaN is an empty field."""
    names = [item.name for item in fields(ClassLine)]
    return _csv(
        ("case", *names, *COSTS),
        (
            {"case": s.name, **asdict(line), **{c: getattr(s, c) for c in COSTS}}
            for s in scores
            for line in s.classes
        ),
    )


def summary_csv(lines: Iterable[SummaryLine]) -> str:
    """Return the summary as CSV."""
    return _csv([item.name for item in fields(SummaryLine)], map(asdict, lines))


def shown(value: float, digits: int = 4) -> str:
    """Return a number for people."""
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def _summary(
    label: int | None, prompt: str, metric: str, values: Iterable[float]
) -> list[SummaryLine]:
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return []
    return [
        SummaryLine(
            label,
            prompt,
            metric,
            len(known),
            statistics.fmean(known),
            statistics.pstdev(known),
            statistics.median(known),
            min(known),
            max(known),
        )
    ]


def _csv(columns: Sequence[str], lines: Iterable[dict[str, Any]]) -> str:
    text = io.StringIO()
    table = csv.DictWriter(text, columns, lineterminator="\n")
    table.writeheader()
    for line in lines:
        table.writerow({key: _field(value) for key, value in line.items()})
    return text.getvalue()


def _field(value: Any) -> Any:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    return "" if value is None else value
