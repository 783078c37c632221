"""Which part of each slice to segment: all, what is in view, or a drawn rectangle."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from magicgui.widgets import ComboBox
from napari.layers import Shapes

from napari_biomedparse.data.options import region_text
from napari_biomedparse.errors import OptionError
from napari_biomedparse.viewer.layers import volume_axes

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Image

WHOLE = "whole slices"
IN_VIEW = "what is in view"


class RegionChoice(ComboBox):
    """A choice that offers the viewer's Shapes layers, too.

    Parameters
    ----------
    viewer : napari.Viewer
    """

    def __init__(self, viewer: Viewer) -> None:
        self._viewer = viewer
        super().__init__(
            name="region",
            label="Region",
            choices=self._list,
            value=WHOLE,
            tooltip="Part of each slice to segment. Zoom in and take what is in view, "
            "or draw a rectangle in a Shapes layer: of several, the selected one "
            "counts, or else the last.",
        )

    def text(self, image: Image, axis: int | None) -> str | None:
        """Return the region as an option, or None for whole slices.

        Parameters
        ----------
        image : napari.layers.Image
            What is to be segmented.
        axis : int or None
            The volume's slicing axis, along which nothing is cut off.

        Raises
        ------
        OptionError
            If nothing of the image lies in it.
        """
        if self.value == WHOLE or axis is None:
            return None
        view = self.value == IN_VIEW
        low, high = _view(image) if view else self._rectangle(image)
        box = {}
        shape = image.data[0].shape if image.multiscale else image.data.shape
        for at, (name, i) in volume_axes(image).items():
            size = shape[i]
            start = max(0, round(float(low[i])))
            stop = min(size, round(float(high[i])) + 1)
            flat = float(high[i]) - float(low[i]) < 1  # seen from the side
            if at == axis or flat or (start, stop) == (0, size):
                continue
            if start >= stop:
                raise OptionError(
                    f"Nothing of {image.name} lies in the region ({self.value}); move "
                    "it onto the image, or choose whole slices."
                )
            box[name] = (start, stop)
        return region_text(box) if box else None

    def _list(self, _: Any) -> list[Any]:
        layers = [x for x in self._viewer.layers if isinstance(x, Shapes)]
        drawn = [(f"rectangle in {layer.name}", layer) for layer in layers]
        return [(WHOLE, WHOLE), (IN_VIEW, IN_VIEW), *drawn]

    def _rectangle(self, image: Image) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Return the corners of a drawn shape in the image's data."""
        layer: Shapes = self.value
        if not layer.nshapes:
            raise OptionError(
                f"There is no rectangle in {layer.name}; draw one, or choose whole "
                "slices."
            )
        chosen = max(layer.selected_data, default=layer.nshapes - 1)
        corners = []
        for corner in layer.data[chosen]:
            point = np.array(self._viewer.dims.point, float)
            world = np.atleast_1d(layer.data_to_world(corner))[-len(point) :]
            point[len(point) - len(world) :] = world
            corners.append(image.world_to_data(point[-image.ndim :]))
        return np.min(corners, axis=0), np.max(corners, axis=0)


def _view(image: Image) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return the corners of what the canvas shows in the image's data."""
    low, high = np.asarray(image.corner_pixels, float)
    if image.multiscale:
        factors = image.downsample_factors[image.data_level]
        low, high = low * factors, high * factors
    return low, high
