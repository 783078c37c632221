"""The labels of a run, repainted where it writes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from qtpy.QtCore import QObject, Signal

from napari_biomedparse.viewer.axes import shown_position
from napari_biomedparse.widgets.shared.parts import pause

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Labels
    from napari.utils.events import Event

SHORTEST_PAUSE = 0.1
"""Minimum number of seconds between two repaints."""
PAUSE_FACTOR = 10
"""How many times longer pauses are than a repaint, to keep the window responsive."""


class LiveLabels(QObject):
    """Repaints the layer of a run in progress where it changes.

    The layer's last axes are those of the volume; two of them if it is `flat`.
    """

    removed = Signal()

    def __init__(self, viewer: Viewer, layer: Labels, *, flat: bool = False) -> None:
        super().__init__()
        self.layer = layer
        self._viewer = viewer
        self._flat = flat
        self._stale = False
        self._pause = pause(self, 0, self.repaint)
        viewer.layers.events.removed.connect(self._on_layer_removed)

    def changed(
        self, axis: int, start: int, stop: int, time: int | None = None
    ) -> None:
        """Repaint slices that are in view, at once or after a pause.

        `time` is their position in a series, whose layer has time as its first axis.
        """
        if not self._stale and self._in_view(axis, start, stop, time):
            self._mark_stale()

    def changed_anywhere(self) -> None:
        """Repaint whatever is in view."""
        if not self._stale and self.layer.visible:
            self._mark_stale()

    def _mark_stale(self) -> None:
        self._stale = True
        if not self._pause.isActive():
            self.repaint()

    def repaint(self) -> None:
        """Repaint what has changed in view, and then pause."""
        if not self._stale:
            return
        self._stale = False
        began = time.monotonic()
        self.layer.refresh(highlight=False, extent=False)
        took = time.monotonic() - began
        self._pause.start(round(1000 * max(SHORTEST_PAUSE, PAUSE_FACTOR * took)))

    def release(self) -> None:
        """Repaint once more and disconnect from the viewer."""
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
        """Return whether a position from start to stop of a layer's axis is shown."""
        dims = self._viewer.dims
        if dims.ndim - self.layer.ndim + axis in dims.displayed:
            return True
        return start <= shown_position(self.layer, dims)[axis] < stop

    def _on_layer_removed(self, event: Event) -> None:
        if event.value is self.layer:
            self.removed.emit()
