"""How a volume is cut into slices by the options, and reading these. Free of torch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from itertools import accumulate
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
from napari_biomedparse.io.lazy import can_spool, chunk_thickness, spool
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
SLAB_BYTES = 2**28
"""Chunks thicker than this many bytes along the slicing axis are read in parts."""
SLABS_KEPT = 4
"""Slabs that `keep_slabs` keeps: of both directions, and their ends."""
KEPT_BYTES = 2**26
"""Largest slab that it keeps."""


def region_of(volume: Volume, options: SegmentOptions) -> Volume:
    """Crop a volume to the region of the options, if there is one.

    Raises
    ------
    VolumeError
        If the region does not lie in the volume.
    """
    if options.region is None:
        return volume
    return volume.crop(**parse_region(options.region))


def slice_geometry(volume: Volume, options: SegmentOptions, size: int) -> SliceGeometry:
    """Choose between whole slices and tiles, and the scale of the latter.

    Parameters
    ----------
    volume : Volume
        From `as_volume`.
    options : SegmentOptions
    size : int
        Edge length of the network's input.

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
    """Return an axis by number; a colour volume is cut into the slices it came in."""
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
    """Network pixels per voxel, along rows and columns, for a given pixel size."""
    rows, columns = (i for i in range(3) if i != axis)
    if "pixel" in (volume.units[rows], volume.units[columns]):
        raise OptionError(
            f"{volume.name} has no voxel size, so a pixel size cannot be used; set the "
            "tile in pixels instead, or give the volume a spacing."
        )
    return volume.spacing[rows] / pixel_size, volume.spacing[columns] / pixel_size


def read_slices(volume: Volume, axis: int, start: int, stop: int) -> npt.NDArray[Any]:
    """Read slices along an axis: [n, Y, X] or, in colour, [n, Y, X, 3].

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


def _plane_bytes(volume: Volume, axis: int) -> int:
    return volume.dtype.itemsize * math.prod(volume.shape) // volume.shape[axis]


def read_slabs(
    volume: Volume, axis: int, start: int, stop: int, batch_size: int
) -> Iterator[npt.NDArray[Any]]:
    """Read a range of slices chunk by chunk, each chunk once.

    Yields [n, Y, X] or, in colour, [n, Y, X, 3], of a batch of slices at most: what is
    made of them takes many times their room.
    """
    for slab in _slabs(volume, axis, start, stop, batch_size):
        for first in range(0, len(slab), batch_size):
            yield slab[first : first + batch_size]


def _slabs(
    volume: Volume, axis: int, start: int, stop: int, batch_size: int
) -> Iterator[npt.NDArray[Any]]:
    """Yield [n, Y, X] or [n, Y, X, 3] parts of the range, ending where chunks end."""
    plane = _plane_bytes(volume, axis)
    most = max(batch_size, SLAB_BYTES // plane)
    for chunk_stop in _chunk_stops(volume, axis, batch_size):
        end = min(chunk_stop, stop)
        if end - start > most and can_spool(volume.data, (end - start) * plane):
            with explained(volume, start, end):
                yield from spool(volume.data, axis, start, end, most)
            start = end
        while start < end:
            part = min(start + most, end)
            yield read_slices(volume, axis, start, part)
            start = part


def _chunk_stops(volume: Volume, axis: int, batch_size: int) -> Iterator[int]:
    """Yield where chunks end along an axis; without chunks, where batches do."""
    chunks = getattr(volume.data, "chunks", None)
    if chunks is not None and isinstance(chunks[axis], tuple):  # dask
        yield from accumulate(chunks[axis])
        return
    thickness = batch_size if chunks is None else chunk_thickness(volume.data, axis)
    yield from range(thickness, volume.shape[axis] + thickness, thickness)


def keep_slabs(volume: Volume, axis: int, size: int) -> Volume:
    """Return a volume that keeps the chunks read last if they are thicker than `size`.

    For batches of `size` slices that are not read in ascending order.
    """
    plane = _plane_bytes(volume, axis)
    thickness = min(chunk_thickness(volume.data, axis), KEPT_BYTES // plane)
    if thickness <= size:
        return volume
    return replace(volume, data=_KeptSlabs(volume, axis, thickness))


class _KeptSlabs:
    """A lazy array of which the slabs of `thickness` slices read last are kept."""

    def __init__(self, volume: Volume, axis: int, thickness: int) -> None:
        self.shape, self.dtype = volume.shape, volume.dtype
        self._axis, self._thickness = axis, thickness
        depth = self.shape[axis]

        def read_slab(begin: int) -> npt.NDArray[Any]:
            return read_slices(volume, axis, begin, min(begin + thickness, depth))

        self._slab = lru_cache(SLABS_KEPT)(read_slab)

    def __getitem__(self, where: tuple[slice, ...]) -> npt.NDArray[Any]:
        """Return slices `start` to `stop`; all of the other axes."""
        start, stop = where[self._axis].start, where[self._axis].stop
        parts = []
        for first in range(start // self._thickness, -(-stop // self._thickness)):
            begin = first * self._thickness
            slab = self._slab(begin)
            parts.append(slab[max(start - begin, 0) : stop - begin])
        return np.moveaxis(np.concatenate(parts), 0, self._axis)


@contextmanager
def explained(volume: Volume, start: int, stop: int) -> Iterator[None]:
    """Name the slices in any error of reading them."""
    try:
        yield
    except BiomedParseError:
        raise
    except MemoryError as error:
        raise DeviceError(
            f"There is not enough memory to read slices {start} to {stop - 1} of "
            f"{volume.source or volume.name}; close other programs and try again."
        ) from error
    except Exception as error:
        raise FormatError(
            f"{volume.source or volume.name}: slices {start} to {stop - 1} cannot be "
            f"read ({type(error).__name__}: {error}). The file may be damaged or "
            "moved; check it, or leave these slices out."
        ) from error
