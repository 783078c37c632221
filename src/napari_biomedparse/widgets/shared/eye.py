"""Where in a layer the user is looking."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import QObject, Signal

from napari_biomedparse.viewer.axes import shown_position

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Image, Labels
    from napari.utils.events import Event


class Eye(QObject):
    """Tells when the viewer's sliders move.

    Parameters
    ----------
    viewer : napari.Viewer
    """

    moved = Signal()

    def __init__(self, viewer: Viewer) -> None:
        super().__init__()
        self._dims = viewer.dims
        self._dims.events.current_step.connect(self._on_step)

    def slice_of(self, layer: Image | Labels, axis: int, *, flat: bool = False) -> int:
        """Return the position in view along an axis of the layer's volume.

        Parameters
        ----------
        layer : napari.layers.Image or Labels
            Its last axes are those of the volume.
        axis : int
            Of the volume's three.
        flat : bool
            Whether the volume is a single image.
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
        """Stop following the viewer."""
        self._dims.events.current_step.disconnect(self._on_step)

    def _on_step(self, _: Event) -> None:
        self.moved.emit()
