"""One HTML page with everything in it, pictures included."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from napari_biomedparse.evaluate.scores import METRICS, CaseScore
from napari_biomedparse.evaluate.tables import TITLES, SummaryLine, shown

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto;
       padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: 0.5rem 0 1.5rem; }
th, td { padding: 0.2rem 0.7rem; border-bottom: 1px solid #ddd; text-align: right; }
th:first-child, td:first-child { text-align: left; }
thead th { border-bottom: 2px solid #888; }
img { max-width: 100%; }
.failed { color: #b00020; }
"""


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
        "<h1>Evaluation</h1>",
        _table(("", ""), [(name, value) for name, value in facts.items()]),
        "<h2>Summary</h2>",
        "<p>Mean over cases &plusmn; standard deviation (number of cases).</p>",
        _table(
            ("class", *(TITLES[m] for m in metrics)), _summary_rows(summary, metrics)
        ),
    ]
    if failures:
        parts.append(f"<h2 class='failed'>Failed: {len(failures)}</h2>")
        parts.append(_table(("case", "reason"), list(failures.items())))
    parts += [_picture(TITLES[metric], file) for metric, file in boxes.items()]
    if overlays:
        parts.append("<h2>Worst cases</h2>")
        parts.append("<p>The slice with the most wrong pixels of each.</p>")
        parts += [_picture(name, file) for name, file in overlays.items()]
    parts.append("<h2>Cases</h2>")
    columns = ("case", *(TITLES[m] for m in metrics), "slices", "seconds", "MiB")
    parts.append(_table(columns, [_case_row(s, metrics) for s in scores]))
    body = "\n".join(parts)
    text = (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        f"<title>Evaluation</title><style>{_STYLE}</style></head>"
        f"<body>{body}</body></html>\n"
    )
    part = path.with_name(f"{path.name}.part")
    part.write_text(text, "utf-8")
    part.replace(path)


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


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    lines = "".join(
        "<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{top}</tr></thead><tbody>{lines}</tbody></table>"


def _picture(caption: str, path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    return (
        f"<h3>{escape(caption)}</h3>"
        f"<img alt='{escape(caption)}' src='data:image/png;base64,{data}'>"
    )
