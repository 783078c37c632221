"""One HTML page with everything in it, pictures included."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from napari_biomedparse.evaluation.scores import METRICS, CaseScore
from napari_biomedparse.evaluation.tables import TITLES, SummaryLine, shown
from napari_biomedparse.report.html import (
    facts_table,
    page,
    picture,
    save_page,
    table,
)


def write_page(
    path: Path,
    scores: Sequence[CaseScore],
    summary: Sequence[SummaryLine],
    failures: Mapping[str, str],
    facts: Mapping[str, str],
    boxes: Mapping[str, Path],
    overlays: Mapping[str, Path],
) -> None:
    """Write the page.

    Parameters
    ----------
    path : Path
        The new file.
    scores : sequence of CaseScore
    summary : sequence of SummaryLine
    failures : mapping of str to str
        Case and reason.
    facts : mapping of str to str
        What the scores depend on.
    boxes : mapping of str to Path
        Metric and picture.
    overlays : mapping of str to Path
        Caption and picture, worst first.
    """
    metrics = [m for m in METRICS if any(line.metric == m for line in summary)]
    parts = [
        facts_table(list(facts.items())),
        "<h2>Summary</h2>",
        "<p>Mean over cases &plusmn; standard deviation (number of cases).</p>",
        table(
            ("class", *(TITLES[m] for m in metrics)), _summary_rows(summary, metrics)
        ),
    ]
    if failures:
        parts.append(f"<h2 class='failed'>Failed: {len(failures)}</h2>")
        parts.append(table(("case", "reason"), list(failures.items())))
    parts += [picture(TITLES[m], file.read_bytes()) for m, file in boxes.items()]
    if overlays:
        parts.append("<h2>Worst cases</h2>")
        parts.append("<p>The slice with the most wrong pixels of each.</p>")
        parts += [picture(name, p.read_bytes()) for name, p in overlays.items()]
    parts.append("<h2>Cases</h2>")
    columns = ("case", *(TITLES[m] for m in metrics), "slices", "seconds", "MiB")
    parts.append(table(columns, [_case_row(s, metrics) for s in scores]))
    save_page(path, page("Evaluation", parts))


def _summary_rows(
    summary: Sequence[SummaryLine], metrics: Sequence[str]
) -> list[tuple[str, ...]]:
    found = {(line.label, line.prompt, line.metric): line for line in summary}
    rows = []
    for label, prompt in dict.fromkeys((line.label, line.prompt) for line in summary):
        cells = []
        for metric in metrics:
            line = found.get((label, prompt, metric))
            cells.append("-" if line is None else _spread(line))
        rows.append((prompt if label is None else f"{label}  {prompt}", *cells))
    return rows


def _spread(line: SummaryLine) -> str:
    return f"{line.mean:.4f} ± {line.deviation:.4f} ({line.cases})"


def _case_row(score: CaseScore, metrics: Sequence[str]) -> tuple[str, ...]:
    return (
        score.name,
        *(shown(score.mean(metric)) for metric in metrics),
        str(score.slices),
        shown(score.seconds, digits=1),
        shown(score.host_mib, digits=0),
    )
