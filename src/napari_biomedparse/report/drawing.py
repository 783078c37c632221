"""The pictures of pages: existence per slice, and slices with their labels."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_biomedparse.data.prompts import label_colour
from napari_biomedparse.slicing.intensity import choose_intensity
from napari_biomedparse.slicing.read import grey_slice

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from napari_biomedparse.data.volume import ArrayLike
    from napari_biomedparse.report.result import RunResult

PICTURES = 6
_SIDE = 480
_OPACITY = 0.45


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of a size in inches, which no window shows."""
    from matplotlib.figure import Figure

    return Figure((width, height), layout="constrained")


def as_png(figure: Figure, *, dpi: int = 110) -> bytes:
    """Return a figure as a PNG file."""
    file = io.BytesIO()
    figure.savefig(file, dpi=dpi)
    return file.getvalue()


def existence_plot(result: RunResult) -> Figure:
    """Plot existence per slice, one line a prompt; without any text of users."""
    assert result.existence is not None
    figure = new_figure(7.6, 2.2)
    axes = figure.add_subplot(xlabel="slice", ylabel=result.score, ylim=(0, 1))
    axes.set_xlim(0, max(result.existence.shape[1] - 1, 1))
    if result.threshold is not None:
        axes.axhline(result.threshold, color="#444444", linestyle="--", linewidth=1)
    for prompt, scores in zip(result.prompts.ids, result.existence, strict=True):
        (known,) = np.nonzero(np.isfinite(scores))
        axes.plot(known, scores[known], color=html_color(prompt))
    return figure


def overlay_pictures(
    result: RunResult, voxels: npt.NDArray[np.int64]
) -> Iterator[tuple[str, bytes, int]]:
    """Draw the slices with most of each prompt, and some others.

    Yields captions, PNG files and widths in pixels; `voxels` are [P, slices].
    """
    best = [int(row.argmax()) for row in voxels if row.any()]
    best = list(dict.fromkeys(best))[:PICTURES]
    others = np.setdiff1d(np.arange(voxels.shape[1]), best)
    spread = np.linspace(0, len(others) - 1, PICTURES - len(best)).round().astype(int)
    chosen = {*best, *others[spread].tolist()} if len(others) else set(best)
    intensity = choose_intensity(result.volume.data, "auto")
    down, across = (result.volume.spacing[i] for i in range(3) if i != result.axis)
    texts = dict(zip(result.prompts.ids, result.prompts.texts, strict=True))
    for at in sorted(chosen):
        grey = grey_slice(result.volume, result.axis, at, intensity)
        labels = plane(result.labels, result.axis, at)
        ids = sorted(set(np.unique(labels).tolist()) - {0})
        shown = ", ".join(texts.get(i, str(i)) for i in ids) or "nothing found"
        rows = round(_SIDE * down * grey.shape[0] / (across * grey.shape[1]))
        width = _SIDE if rows <= _SIDE else max(1, round(_SIDE * _SIDE / rows))
        png = _overlay(grey, labels, width, max(1, round(rows * width / _SIDE)))
        yield f"slice {at}: {shown}", png, width


def plane(labels: ArrayLike, axis: int, at: int) -> npt.NDArray[np.integer[Any]]:
    """Return one plane [Y, X] of labels [Z, Y, X]."""
    return np.asarray(labels[(slice(None),) * axis + (at,)])


def _overlay(
    grey: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.integer[Any]],
    width: int,
    height: int,
) -> bytes:
    """Blend a slice with the colors of its labels, as a PNG of that size."""
    from matplotlib.image import imsave

    rows = ((np.arange(height) + 0.5) * grey.shape[0] / height).astype(int)
    columns = ((np.arange(width) + 0.5) * grey.shape[1] / width).astype(int)
    grey, labels = grey[np.ix_(rows, columns)], labels[np.ix_(rows, columns)]
    file = io.BytesIO()
    imsave(file, blend(grey, labels, _OPACITY))
    return file.getvalue()


def blend(
    grey: npt.NDArray[np.uint8], labels: npt.NDArray[np.integer[Any]], opacity: float
) -> npt.NDArray[np.uint8]:
    """Blend a slice, [Y, X] or [Y, X, 3], with the colors of its labels [Y, X]."""
    color = np.repeat(grey[..., None], 3, axis=-1) if grey.ndim == 2 else grey
    mixed = color.astype(np.float64)
    for label in np.unique(labels[labels > 0]).tolist():
        there = labels == label
        tint = np.array(label_colour(label)[:3])
        mixed[there] = (1.0 - opacity) * mixed[there] + opacity * tint
    return mixed.round().astype(np.uint8)


def html_color(label: int) -> str:
    """Return a label's color such as ``#ff7f0e``."""
    red, green, blue, _ = label_colour(label)
    return f"#{red:02x}{green:02x}{blue:02x}"
