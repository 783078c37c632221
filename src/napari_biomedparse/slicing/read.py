"""How the options have a volume cut into slices, and its slices read.

Free of torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_biomedparse.data.options import parse_region
from napari_biomedparse.errors import (
    BiomedParseError,
    DeviceError,
    FormatError,
    OptionError,
)
from napari_biomedparse.slicing.geometry import (
    SliceGeometry,
    plan_large_slices,
    plan_slices,
)

if TYPE_CHECKING:
    from napari_biomedparse.data.options import SegmentOptions
    from napari_biomedparse.data.volume import Volume

LARGE_SLICE = 1024
"""Pixels of a slice's longer edge above which it is cut into tiles by default."""


def region_of(volume: Volume, options: SegmentOptions) -> Volume:
    """Cut out the region that the options ask for, if they do.

    Parameters
    ----------
    volume : Volume
    options : SegmentOptions

    Returns
    -------
    Volume

    Raises
    ------
    VolumeError
        If it does not lie in the volume.
    """
    if options.region is None:
        return volume
    return volume.crop(**parse_region(options.region))


def slice_geometry(volume: Volume, options: SegmentOptions, size: int) -> SliceGeometry:
    """Choose between whole slices and tiles, and the scale of the latter.

    Parameters
    ----------
    volume : Volume
        Of `as_volume`.
    options : SegmentOptions
    size : int
        Edge length that the network takes.

    Returns
    -------
    SliceGeometry

    Raises
    ------
    OptionError
        If there is no such axis, or the pixel size cannot be used.
    """
    whole = plan_slices(volume.grid, size, _slicing_axis(volume, options.axis))
    if options.pixel_size is not None:
        scale = _scale(volume, whole.axis, options.pixel_size)
    elif options.tile == "none" or (
        options.tile == "auto" and max(whole.plane_shape) <= LARGE_SLICE
    ):
        return whole
    else:
        tile = size if options.tile == "auto" else int(options.tile)
        scale = (size / tile, size / tile)
    return plan_large_slices(volume.grid, size, scale, whole.axis)


def _slicing_axis(volume: Volume, axis: int | str | None) -> int | None:
    """Return an axis by number; colour slices are cut as they were taken."""
    if axis is None:
        return 0 if volume.is_colour else None
    if not isinstance(axis, str):
        return int(axis)
    if axis not in volume.axes:
        raise OptionError(
            f"Slicing axis (axis) is {axis}, but {volume.name} has the axes "
            f"{', '.join(volume.axes[:3])}; choose one of these."
        )
    return volume.axes.index(axis)


def _scale(volume: Volume, axis: int, pixel_size: float) -> tuple[float, float]:
    """Network pixels a voxel, along rows and columns, for a pixel of a given size."""
    rows, columns = (i for i in range(3) if i != axis)
    if "pixel" in (volume.units[rows], volume.units[columns]):
        raise OptionError(
            f"{volume.name} does not say how large its voxels are, so a pixel size "
            "cannot be used; choose the tile in pixels instead, or set the spacing."
        )
    return volume.spacing[rows] / pixel_size, volume.spacing[columns] / pixel_size


def read_slices(volume: Volume, axis: int, start: int, stop: int) -> npt.NDArray[Any]:
    """Read consecutive slices.

    Parameters
    ----------
    volume : Volume
        Of `as_volume`.
    axis : int
        The slicing axis.
    start, stop : int

    Returns
    -------
    ndarray [n, Y, X] or, in colour, [n, Y, X, 3]

    Raises
    ------
    FormatError
        If they cannot be read.
    """
    where = tuple(
        slice(start, stop) if i == axis else slice(None)
        for i in range(len(volume.axes))
    )
    with explained(volume, start, stop):
        slab = np.asarray(volume.data[where])
    return np.moveaxis(slab, axis, 0)


@contextmanager
def explained(volume: Volume, start: int, stop: int) -> Iterator[None]:
    """Say which slices cannot be read, whatever goes wrong with it."""
    try:
        yield
    except BiomedParseError:
        raise
    except MemoryError as error:
        raise DeviceError(
            f"The memory of this machine does not suffice to read slices {start} to "
            f"{stop - 1} of {volume.source or volume.name}; close other programs, and "
            "run the same again."
        ) from error
    except Exception as error:
        raise FormatError(
            f"{volume.source or volume.name}: slices {start} to {stop - 1} cannot be "
            f"read ({type(error).__name__}: {error}). The file may be damaged or have "
            "moved; check it, or leave these slices out."
        ) from error
