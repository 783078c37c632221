"""The page on an evaluation: one HTML file with everything in it, pictures included.

Its pictures are box plots of scores and overlays of the worst cases, as PNG.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from napari_biomedparse.evaluation.scores import (
    METRICS,
    CaseScore,
    SummaryLine,
    by_class,
    known,
    shown,
    table_of,
)
from napari_biomedparse.io.durable import atomic_write, write_durably
from napari_biomedparse.report.drawing import as_png, blend, new_figure
from napari_biomedparse.report.html import render

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from napari_biomedparse.evaluation.case import Overlay

_TEMPLATE = Path(__file__).with_name("evaluation.html")
_DOTS_UP_TO = 200
_OPACITY = 0.5


def box_plot(scores: Sequence[CaseScore], metric: str, path: Path) -> bool:
    """Draw the scores of every class over the cases; False if there are none."""
    names, values = [], []
    for (label, prompt), lines in reversed(by_class(scores).items()):
        if group := known(getattr(line, metric) for line in lines):
            names.append(textwrap.shorten(f"{label}  {prompt}", 60, placeholder="…"))
            values.append(group)
    if not values:
        return False
    figure = new_figure(9.0, 1.0 + 0.34 * len(values))
    axes = figure.add_subplot()
    axes.boxplot(values, orientation="horizontal", tick_labels=names, showfliers=False)
    if sum(map(len, values)) <= _DOTS_UP_TO:
        for row, group in enumerate(values, start=1):
            axes.plot(group, [row] * len(group), "o", color="#1f77b4", alpha=0.6, ms=4)
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel(METRICS[metric])
    axes.grid(axis="x", alpha=0.3)
    _save(figure, path)
    return True


def draw_overlay(overlay: Overlay, title: str, path: Path) -> None:
    """Draw image, truth and prediction of a slice side by side."""
    rows, columns = overlay.truth.shape
    height = min(max(3.6 * rows * overlay.aspect / columns, 2.0), 9.0)
    figure = new_figure(11.0, height + 0.7)
    figure.suptitle(f"{title}, slice {overlay.index}", fontsize=10)
    panels = {
        "image": overlay.image,
        "truth": blend(overlay.image, overlay.truth, _OPACITY),
        "prediction": blend(overlay.image, overlay.labels, _OPACITY),
    }
    for place, (name, picture) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(1, 3, place)
        axes.imshow(picture, cmap="gray", vmin=0, vmax=255, aspect=overlay.aspect)
        axes.set_title(name, fontsize=9)
        axes.set_axis_off()
    _save(figure, path)


def draw_boxes(scores: Sequence[CaseScore], folder: Path) -> dict[str, Path]:
    """Draw a box plot of each metric that has scores; return the files by metric."""
    paths = {metric: folder / f"{metric}.png" for metric in METRICS}
    return {m: path for m, path in paths.items() if box_plot(scores, m, path)}


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as partial:
        partial.write_bytes(as_png(figure))


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
    metrics, classes = table_of(summary)
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
        cases=[
            (
                score.name,
                *(shown(score.mean(metric)) for metric in metrics),
                str(score.slices),
                shown(score.seconds, digits=1),
                shown(score.host_mib, digits=0),
            )
            for score in scores
        ],
    )
    write_durably(path, page)


def _spread(line: SummaryLine | None) -> str:
    if line is None:
        return "-"
    return f"{line.mean:.4f} ± {line.deviation:.4f} ({line.cases})"
