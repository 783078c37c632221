"""The part of an image that the canvas or a drawn shape covers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_biomedparse.viewer.layers import volume_axes

if TYPE_CHECKING:
    import numpy.typing as npt
    from napari.components import Dims
    from napari.layers import Image, Shapes

Corners = tuple["npt.NDArray[Any]", "npt.NDArray[Any]"]
"""Lowest and highest position along each axis of a layer's data."""


def corners_in_view(image: Image) -> Corners:
    """Return the corners of what the canvas shows of an image."""
    low, high = np.asarray(image.corner_pixels, float)
    if image.multiscale:
        factors = image.downsample_factors[image.data_level]
        low, high = low * factors, high * factors
    return low, high


def corners_of_shape(layer: Shapes, image: Image, dims: Dims) -> Corners:
    """Return the corners of the selected, or else the last, shape on an image."""
    chosen = max(layer.selected_data, default=layer.nshapes - 1)
    corners = []
    for corner in layer.data[chosen]:
        point = np.array(dims.point, float)
        world = np.atleast_1d(layer.data_to_world(corner))[-len(point) :]
        point[len(point) - len(world) :] = world
        corners.append(image.world_to_data(point[-image.ndim :]))
    return np.min(corners, axis=0), np.max(corners, axis=0)


def box_between(
    image: Image, corners: Corners, axis: int
) -> dict[str, tuple[int, int]] | None:
    """Return the voxels between corners along each axis that they crop, by its name.

    The slicing axis `axis` of the volume is never cropped. None if no voxel of the
    image lies between the corners.
    """
    low, high = corners
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
            return None
        box[name] = (start, stop)
    return box
