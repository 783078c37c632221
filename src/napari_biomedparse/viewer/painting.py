"""Labels of run folders as layers: painted in full, in 3D a coarser level if large."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import napari

from napari_biomedparse.io.painting import PaintableLabels, is_paintable

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Labels

LARGEST_PLANE = 2**28
"""Voxels of a plane above which labels are shown as a pyramid, and not painted."""
LARGEST_VOLUME = 2**29  # voxels of labels above which 3D shows a level of their pyramid


def paintable_or_pyramid(
    image: Path,
    levels: Sequence[Any],
    shown: Callable[[Any], Any] | None = None,
    *,
    reviewed: Callable[[Labels], dict[int, list[int]]],
) -> dict[str, Any]:
    """Return data, and whether they are multiscale, for a layer in the current viewer.

    `levels` of the label image are as they are shown; for `shown`, see
    `PaintableLabels`, and `reviewed` returns a layer's accepted slices. Only images in
    run folders can be painted.
    """
    finest, several = levels[0], len(levels) > 1
    plane = finest.shape[-1] * finest.shape[-2]
    if plane > LARGEST_PLANE or not is_paintable(image):
        return {"data": list(levels) if several else finest, "multiscale": several}
    data, viewer = PaintableLabels(image, shown), napari.current_viewer()
    if viewer is not None and several and data.size > LARGEST_VOLUME:
        _coarse_in_3d(viewer, data, levels, reviewed)
    return {"data": data, "multiscale": False}


def _coarse_in_3d(
    viewer: Viewer,
    data: PaintableLabels,
    levels: Sequence[Any],
    reviewed: Callable[[Labels], dict[int, list[int]]],
) -> None:
    """Have 3D show levels instead of all voxels, which may not fit into memory."""
    coarse: list[Labels] = []

    def on_ndisplay() -> None:
        for layer in viewer.layers:
            if viewer.dims.ndisplay == 3 and layer.data is data:
                data.flush()
                coarse.append(layer)
                layer.multiscale, layer.data = True, list(levels)
            elif viewer.dims.ndisplay == 2 and layer in coarse:
                coarse.remove(layer)
                layer.multiscale, layer.data = False, data
                if (marks := reviewed(layer)) != data.accepted:
                    data.accept(marks)

    viewer.dims.events.ndisplay.connect(on_ndisplay)
