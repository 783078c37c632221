"""To the next slice that has labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari.layers import Labels
from napari.qt.threading import create_worker
from napari.utils.notifications import show_info
from qtpy.QtCore import QObject, Signal

from napari_biomedparse.viewer.axes import find_labels, show_position, shown_position

if TYPE_CHECKING:
    from napari import Viewer
    from napari.components import Dims
    from napari.layers import Image
    from napari.utils.events import Event


class Eye(QObject):
    """The viewer's current position; `moved` is emitted when a slider moves."""

    moved = Signal()

    def __init__(self, viewer: Viewer) -> None:
        super().__init__()
        self._dims = viewer.dims
        self._dims.events.current_step.connect(self._on_step)

    def slice_of(self, layer: Image | Labels, axis: int, *, flat: bool = False) -> int:
        """Return the position in view along an axis of the layer's volume.

        `flat` says that the volume is a single image.
        """
        if flat or self._dims.ndim < layer.ndim:  # no longer in the viewer
            return 0
        return int(shown_position(layer, self._dims)[layer.ndim - 3 + axis])

    def time_of(self, layer: Image | Labels) -> int:
        """Return the position in view along the layer's first axis."""
        if self._dims.ndim < layer.ndim:
            return 0
        return shown_position(layer, self._dims)[0]

    def disconnect_viewer(self) -> None:
        """Disconnect from the viewer."""
        self._dims.events.current_step.disconnect(self._on_step)

    def _on_step(self, _: Event) -> None:
        self.moved.emit()


def go_to_labels(viewer: Viewer, step: int) -> None:
    """Move the slider to the next (1) or previous (-1) slice with labels.

    Searches, in a background thread, the selected Labels layer or else the topmost
    visible one; only the selected label if the layer shows only that.
    """
    layer = _labels_layer(viewer)
    if layer is None:
        show_info("There is no Labels layer.")
        return
    axis = _slider(viewer, layer)
    if axis is None:
        show_info("All labels are in view; there are no other slices.")
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


def slider_axis(layer: Labels, dims: Dims) -> int:
    """Return the layer's axis whose slices a slider shows; 0 of a single image."""
    if layer.ndim == 2:
        return 0
    return max(int(dims.order[-3:][0]) - int(dims.ndim - layer.ndim), 0)


def _labels_layer(viewer: Viewer) -> Labels | None:
    active = viewer.layers.selection.active
    if isinstance(active, Labels):
        return active
    shown = (x for x in reversed(viewer.layers) if isinstance(x, Labels) and x.visible)
    return next(shown, None)


def _slider(viewer: Viewer, layer: Labels) -> int | None:
    """Return the layer's axis of the slider used last, or else of any slider."""
    offset = int(viewer.dims.ndim - layer.ndim)
    sliders = [
        at
        for at in viewer.dims.not_displayed
        if at >= offset and viewer.dims.nsteps[at] > 1
    ]
    if viewer.dims.last_used in sliders:
        return int(viewer.dims.last_used) - offset
    return int(sliders[-1]) - offset if sliders else None
