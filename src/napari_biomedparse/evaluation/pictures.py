"""Box plots of scores and overlays of the worst cases, as PNG."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from napari_biomedparse.evaluation.scores import METRICS, CaseScore
from napari_biomedparse.io.durable import atomic_write
from napari_biomedparse.report.drawing import as_png, blend, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from napari_biomedparse.evaluation.case import Overlay

_DOTS_UP_TO = 200
_OPACITY = 0.5


def box_plot(scores: Sequence[CaseScore], metric: str, path: Path) -> bool:
    """Draw the scores of every class over the cases; False if there are none."""
    groups: dict[tuple[int, str], list[float]] = {}
    for score in scores:
        for line in score.classes:
            value = getattr(line, metric)
            if not math.isnan(value):
                groups.setdefault((line.label, line.prompt), []).append(value)
    if not groups:
        return False
    named = sorted(groups.items(), reverse=True)
    names = [
        textwrap.shorten(f"{label}  {prompt}", 60, placeholder="…")
        for (label, prompt), _ in named
    ]
    figure = new_figure(9.0, 1.0 + 0.34 * len(named))
    axes = figure.add_subplot()
    values = [group for _, group in named]
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
