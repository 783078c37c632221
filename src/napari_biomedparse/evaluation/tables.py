"""Scores as CSV, and their summary over cases."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields

from napari_biomedparse.data.text import csv_text
from napari_biomedparse.evaluation.scores import (
    METRICS,
    CaseScore,
    ClassLine,
    by_class,
    known,
)

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
    means = [ClassLine(0, ALL, **{m: s.mean(m) for m in METRICS}) for s in scores]
    groups: dict[tuple[int | None, str], list[ClassLine]] = {(None, ALL): means}
    lines = []
    for (label, prompt), rows in (groups | by_class(scores)).items():
        for metric in METRICS:
            values = known(getattr(row, metric) for row in rows)
            if values:
                lines.append(
                    SummaryLine(
                        label,
                        prompt,
                        metric,
                        len(values),
                        statistics.fmean(values),
                        statistics.pstdev(values),
                        statistics.median(values),
                        min(values),
                        max(values),
                    )
                )
    return tuple(lines)


def table_of(
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
