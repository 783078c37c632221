"""Scores as CSV, and their summary over cases."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields

from napari_biomedparse.data.text import csv_text
from napari_biomedparse.evaluation.scores import METRICS, CaseScore, ClassLine

ALL = "all cases"
COSTS = ("seconds", "host_mib", "device_mib", "slices", "tolerance", "unit")


@dataclass(frozen=True)
class SummaryLine:
    """Statistics of one of `METRICS` over cases, of a class or (None) of everything.

    `cases` is the number of cases that have the score; a single one has deviation 0.
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
    """Summarize cases: everything first, then each class, without missing scores.

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


def by_class(
    summary: Iterable[SummaryLine],
) -> tuple[list[str], list[tuple[int | None, str, list[SummaryLine | None]]]]:
    """Return the metrics that have scores; and label, prompt and lines of each class.

    There is a line for each of these metrics, or None.
    """
    found = {(line.label, line.prompt, line.metric): line for line in summary}
    metrics = [m for m in METRICS if any(metric == m for _, _, metric in found)]
    return metrics, [
        (label, prompt, [found.get((label, prompt, m)) for m in metrics])
        for label, prompt in dict.fromkeys(key[:2] for key in found)
    ]


def cases_csv(scores: Iterable[CaseScore]) -> str:
    """Return one row per case and class as CSV; NaN is an empty field."""
    names = [item.name for item in fields(ClassLine)]
    lines = [
        {"case": s.name, **asdict(line), **{c: getattr(s, c) for c in COSTS}}
        for s in scores
        for line in s.classes
    ]
    return csv_text(["case", *names, *COSTS], lines, digits=6)


def summary_csv(lines: Iterable[SummaryLine]) -> str:
    """Return the summary as CSV."""
    names = [item.name for item in fields(SummaryLine)]
    return csv_text(names, map(asdict, lines), digits=6)


def shown(value: float, digits: int = 4) -> str:
    """Format a number; NaN is a dash."""
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
