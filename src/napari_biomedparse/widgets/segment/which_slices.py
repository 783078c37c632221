"""How the chosen image is cut into slices, and which of them the viewer shows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_biomedparse.errors import VolumeError
from napari_biomedparse.slicing.geometry import choose_axis
from napari_biomedparse.viewer.axes import show_position, shown_position
from napari_biomedparse.viewer.layers import volume_from_layer

if TYPE_CHECKING:
    from magicgui.widgets import ComboBox
    from magicgui.widgets.bases import ValueWidget
    from napari import Viewer
    from napari.layers import Image

    from napari_biomedparse.data.volume import Volume


class Cut:
    """Follows two fields of the form.

    Parameters
    ----------
    viewer : napari.Viewer
    image, axis : magicgui widgets
        The fields of the layer and of the slicing axis.
    """

    def __init__(self, viewer: Viewer, image: ComboBox, axis: ValueWidget[Any]) -> None:
        self._viewer = viewer
        self._image = image
        self._axis = axis

    def volume(self) -> Volume | None:
        """Return the layer's volume, or None if it has none that can be segmented."""
        layer: Image | None = self._image.value
        try:
            return None if layer is None else volume_from_layer(layer)
        except VolumeError:  # told when the user presses Run
            return None

    def axis(self) -> int | None:
        """Return the axis of the volume that is cut, or None without a volume."""
        volume = self.volume()
        if volume is None:
            return None
        if self._axis.value in volume.axes:
            return volume.axes.index(self._axis.value)
        return 0 if volume.is_colour else choose_axis(volume.grid)

    def shown(self) -> int:
        """Return the slice in view."""
        at = self._layer_axis()
        if at is None:
            return 0
        return int(shown_position(self._image.value, self._viewer.dims)[at])

    def show(self, index: int) -> None:
        """Move the viewer's slider to a slice."""
        at = self._layer_axis()
        if at is not None:
            show_position(self._image.value, self._viewer.dims, at, index)

    def _layer_axis(self) -> int | None:
        """Return the slicing axis as one of the layer, or None for a single image."""
        axis, layer = self.axis(), self._image.value
        if axis is None or layer.ndim == 2:
            return None
        return int(axis + layer.ndim - 3)
