"""The Labels layer of a run in progress: repainted where it changes, never by name."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from qtpy.QtCore import QObject, QTimer, Signal

from napari_biomedparse.viewer.axes import shown_position

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Labels
    from napari.utils.events import Event

SHORTEST_PAUSE = 0.1
"""Seconds between two repaintings, at least."""
PAUSE_FACTOR = 10
"""Pauses are so many times longer than a repainting, which leaves the GUI free."""


class LiveLabels(QObject):
    """Keeps hold of a layer that users may rename, move, hide or delete.

    Parameters
    ----------
    viewer : napari.Viewer
    layer : napari.layers.Labels
        In the viewer; its last axes are those of the volume.
    flat : bool
        Whether these are two, of a single image.
    """

    removed = Signal()

    def __init__(self, viewer: Viewer, layer: Labels, *, flat: bool = False) -> None:
        super().__init__()
        self.layer = layer
        self._viewer = viewer
        self._flat = flat
        self._stale = False
        self._pause = QTimer(self)
        self._pause.setSingleShot(True)
        self._pause.timeout.connect(self.repaint)
        viewer.layers.events.removed.connect(self._on_layer_removed)

    def changed(
        self, axis: int, start: int, stop: int, time: int | None = None
    ) -> None:
        """Have slices repainted if in view: at once, or after a pause.

        Parameters
        ----------
        axis, start, stop : int
            Which, in the volume.
        time : int, optional
            At which point of a series, whose layer has time as its first axis.
        """
        if not self._stale and self._in_view(axis, start, stop, time):
            self._mark_stale()

    def changed_anywhere(self) -> None:
        """Have all that is in view repainted."""
        if not self._stale and self.layer.visible:
            self._mark_stale()

    def _mark_stale(self) -> None:
        self._stale = True
        if not self._pause.isActive():
            self.repaint()

    def repaint(self) -> None:
        """Draw again what has changed in view, and then pause."""
        if not self._stale:
            return
        self._stale = False
        began = time.monotonic()
        self.layer.refresh(highlight=False, extent=False)
        took = time.monotonic() - began
        self._pause.start(round(1000 * max(SHORTEST_PAUSE, PAUSE_FACTOR * took)))

    def release(self) -> None:
        """Let go of the layer; the user may do with it what they like."""
        self.repaint()
        self._pause.stop()
        self._viewer.layers.events.removed.disconnect(self._on_layer_removed)

    def _in_view(self, axis: int, start: int, stop: int, time: int | None) -> bool:
        if not self.layer.visible:
            return False
        at_time = time is None or self._shows(0, time, time + 1)
        if self._flat or not at_time:
            return at_time
        return self._shows(self.layer.ndim - 3 + axis, start, stop)

    def _shows(self, axis: int, start: int, stop: int) -> bool:
        """Say whether something between two positions of the layer's axis is shown."""
        dims = self._viewer.dims
        if dims.ndim - self.layer.ndim + axis in dims.displayed:
            return True
        return start <= shown_position(self.layer, dims)[axis] < stop

    def _on_layer_removed(self, event: Event) -> None:
        if event.value is self.layer:
            self.removed.emit()
