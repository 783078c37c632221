"""The pictures of the page: existence over the slices, and slices with their labels."""

from __future__ import annotations

import io
from collections.abc import Iterator
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_biomedparse.io.output import label_colour
from napari_biomedparse.report.html import picture
from napari_biomedparse.slicing.intensity import choose_intensity

if TYPE_CHECKING:
    from napari_biomedparse.report.result import RunResult

PICTURES = 6
_SIDE = 480
_OPACITY = 0.45
_PLOT = (760, 180, 42, 24)
"""Width and height of the plot, room for numbers at its left and below."""


def existence_plot(result: RunResult) -> str:
    """Draw existence over the slices as SVG."""
    assert result.existence is not None
    width, height, left, below = _PLOT
    depth = result.existence.shape[1]

    def at(place: float, score: float) -> str:
        x = left + (width - left - 8) * place / max(depth - 1, 1)
        return f"{x:.1f},{8 + (height - below - 8) * (1.0 - score):.1f}"

    def line(points: str, style: str) -> str:
        return f"<polyline fill='none' {style} points='{points}'/>"

    def text(point: str, words: str, anchor: str) -> str:
        x, y = point.split(",")
        return f"<text x='{x}' y='{y}' text-anchor='{anchor}'>{words}</text>"

    drawn = [
        line(
            f"{at(0, 0)} {at(depth - 1, 0)} {at(depth - 1, 1)} {at(0, 1)} {at(0, 0)}",
            "stroke='#aaa'",
        )
    ]
    if result.threshold is not None:
        both = f"{at(0, result.threshold)} {at(depth - 1, result.threshold)}"
        drawn.append(line(both, "stroke='#444' stroke-dasharray='5 4'"))
    for prompt, scores in zip(result.prompts.ids, result.existence, strict=True):
        known = np.flatnonzero(np.isfinite(scores))
        points = " ".join(at(int(i), float(scores[i])) for i in known)
        drawn.append(line(points, f"stroke='{_html(prompt)}' stroke-width='2'"))
    foot = height - 6
    drawn += [
        text(f"{left - 6},14", "1", "end"),
        text(f"{left - 6},{height - below}", "0", "end"),
        text(f"{left},{foot}", "slice 0", "start"),
        text(f"{width - 8},{foot}", str(depth - 1), "end"),
    ]
    names = "".join(
        f"<span><span class='swatch' style='background:{_html(p.id)}'></span>"
        f"{escape(p.text)}</span> &nbsp; "
        for p in result.prompts.prompts
    )
    return (
        f"<svg viewBox='0 0 {width} {height}' width='{width}' font-size='12'>"
        f"{''.join(drawn)}</svg><p>{names}</p>"
        "<p>How probable the network finds each target in each slice; dashed: the "
        "threshold.</p>"
    )


def overlay_pictures(result: RunResult, voxels: npt.NDArray[np.int64]) -> Iterator[str]:
    """Draw the slices with most of each prompt, and some others, as HTML."""
    best = [int(row.argmax()) for row in voxels if row.any()]
    best = list(dict.fromkeys(best))[:PICTURES]
    others = np.setdiff1d(np.arange(voxels.shape[1]), best)
    spread = np.linspace(0, len(others) - 1, PICTURES - len(best)).round().astype(int)
    chosen = {*best, *others[spread].tolist()} if len(others) else set(best)
    intensity = choose_intensity(
        result.volume.data, "auto", colour=result.volume.is_colour
    )
    down, across = (result.volume.spacing[i] for i in range(3) if i != result.axis)
    for at in sorted(chosen):
        where: list[Any] = [slice(None)] * 3
        where[result.axis] = slice(at, at + 1)
        cut = np.asarray(result.volume.data[tuple(where)])
        plane = np.moveaxis(cut, result.axis, 0)
        grey = np.clip(intensity.apply(plane)[0], 0, 255).astype(np.uint8)
        where[result.axis] = at
        labels = np.asarray(result.labels[tuple(where)])
        ids = sorted(set(np.unique(labels).tolist()) - {0})
        texts = dict(zip(result.prompts.ids, result.prompts.texts, strict=True))
        shown = ", ".join(texts.get(i, str(i)) for i in ids) or "nothing found"
        rows = round(_SIDE * down * grey.shape[0] / (across * grey.shape[1]))
        width = _SIDE if rows <= _SIDE else max(1, round(_SIDE * _SIDE / rows))
        png = _overlay(grey, labels, width, max(1, round(rows * width / _SIDE)))
        yield picture(f"slice {at}: {shown}", png, width=width)


def _overlay(
    grey: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.integer[Any]],
    width: int,
    height: int,
) -> bytes:
    """Blend a slice with the colours of its labels, as a PNG of that size."""
    from matplotlib.image import imsave

    rows = ((np.arange(height) + 0.5) * grey.shape[0] / height).astype(int)
    columns = ((np.arange(width) + 0.5) * grey.shape[1] / width).astype(int)
    grey, labels = grey[np.ix_(rows, columns)], labels[np.ix_(rows, columns)]
    colour = np.repeat(grey[..., None], 3, axis=-1) if grey.ndim == 2 else grey
    mixed = colour.astype(np.float64)
    for label in np.unique(labels[labels > 0]).tolist():
        there = labels == label
        tint = np.array(label_colour(label)[:3])
        mixed[there] = (1.0 - _OPACITY) * mixed[there] + _OPACITY * tint
    file = io.BytesIO()
    imsave(file, mixed.round().astype(np.uint8))
    return file.getvalue()


def _html(label: int) -> str:
    red, green, blue, _ = label_colour(label)
    return f"#{red:02x}{green:02x}{blue:02x}"
