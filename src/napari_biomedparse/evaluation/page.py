"""The page on an evaluation: one HTML file with everything in it, pictures included."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from napari_biomedparse.evaluation.scores import METRICS, CaseScore
from napari_biomedparse.evaluation.tables import SummaryLine, by_class, shown
from napari_biomedparse.io.durable import write_durably
from napari_biomedparse.report.html import render

_TEMPLATE = Path(__file__).with_name("evaluation.html")


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

    `failures` are reasons by case, `facts` what the scores depend on, `boxes` pictures
    by metric, and `overlays` pictures by caption, worst first.
    """
    metrics, classes = by_class(summary)
    page = render(
        _TEMPLATE,
        title="Evaluation",
        facts=facts,
        titles=[METRICS[metric] for metric in metrics],
        summary=[
            (prompt if label is None else f"{label}  {prompt}", *map(_spread, lines))
            for label, prompt, lines in classes
        ],
        failures=failures,
        boxes={METRICS[metric]: file.read_bytes() for metric, file in boxes.items()},
        overlays={caption: file.read_bytes() for caption, file in overlays.items()},
        cases=[_case_row(score, metrics) for score in scores],
    )
    write_durably(path, page)


def _spread(line: SummaryLine | None) -> str:
    if line is None:
        return "-"
    return f"{line.mean:.4f} ± {line.deviation:.4f} ({line.cases})"


def _case_row(score: CaseScore, metrics: Sequence[str]) -> tuple[str, ...]:
    return (
        score.name,
        *(shown(score.mean(metric)) for metric in metrics),
        str(score.slices),
        shown(score.seconds, digits=1),
        shown(score.host_mib, digits=0),
    )
