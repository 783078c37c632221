"""To the next slice that has labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Labels
from napari.qt.threading import create_worker
from napari.utils.notifications import show_info

from napari_biomedparse.viewer.axes import show_position, shown_position

if TYPE_CHECKING:
    from napari import Viewer


def go_to_labels(viewer: Viewer, step: int) -> None:
    """Move the slider to the nearest slice with labels; looks for it in a thread.

    Parameters
    ----------
    viewer : napari.Viewer
        Looks into its selected Labels layer, or else the topmost one that is shown.
        Where that shows its selected label only, for that label.
    step : int
        1 for the slices after the one in view, -1 for those before.
    """
    layer = _labels_layer(viewer)
    if layer is None:
        show_info("There is no Labels layer to look into.")
        return
    axis = _slider(viewer, layer)
    if axis is None:
        show_info("All of the labels are in view: there are no slices to go to.")
        return

    def show(found: int | None) -> None:
        if found is None:
            where = "after" if step > 0 else "before"
            show_info(f"{layer.name} has no labels {where} this slice.")
        elif layer in viewer.layers:
            show_position(layer, viewer.dims, axis, found)

    displayed = {at - (viewer.dims.ndim - layer.ndim) for at in viewer.dims.displayed}
    index: list[Any] = [
        slice(None) if at in displayed else position
        for at, position in enumerate(shown_position(layer, viewer.dims))
    ]
    create_worker(
        find_labels,
        layer.data[0] if layer.multiscale else layer.data,
        index,
        axis,
        step,
        layer.selected_label if layer.show_selected_label else None,
        _connect={"returned": show},
    )


def find_labels(
    data: Any, index: list[Any], axis: int, step: int, label: int | None
) -> int | None:
    """Return the nearest position along an axis whose plane has labels.

    Parameters
    ----------
    data : array
        Labels, in memory or lazy.
    index : list of int and slice
        The plane in view.
    axis : int
        Which number of `index` to change.
    step : int
        1 or -1.
    label : int, optional
        The one to look for; any but 0 by default.

    Returns
    -------
    int or None
        None if there is none that way.
    """
    end = data.shape[axis] if step > 0 else -1
    for position in range(index[axis] + step, end, step):
        plane = np.asarray(data[(*index[:axis], position, *index[axis + 1 :])])
        if plane.any() if label is None else (plane == label).any():
            return position
    return None


def _labels_layer(viewer: Viewer) -> Labels | None:
    active = viewer.layers.selection.active
    if isinstance(active, Labels):
        return active
    shown = (x for x in reversed(viewer.layers) if isinstance(x, Labels) and x.visible)
    return next(shown, None)


def _slider(viewer: Viewer, layer: Labels) -> int | None:
    """Return which axis of the layer has the slider used last, or any slider."""
    offset = int(viewer.dims.ndim - layer.ndim)
    sliders = [
        at
        for at in viewer.dims.not_displayed
        if at >= offset and viewer.dims.nsteps[at] > 1
    ]
    if viewer.dims.last_used in sliders:
        return int(viewer.dims.last_used) - offset
    return int(sliders[-1]) - offset if sliders else None
