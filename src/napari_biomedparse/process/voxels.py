"""Voxels that stay in napari's process: how they are described, and how they are read.

Nothing here imports torch.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from napari_biomedparse.data.volume import Volume
from napari_biomedparse.process.messages import Span, Voxels


class VolumeNumbers:
    """Numbers volumes by their voxels, so that the model process recognizes them."""

    def __init__(self) -> None:
        self._count = 0
        self._last: tuple[object, Any] | None = None

    def describe(self, volume: Volume) -> Volume:
        """Return what is sent of a volume: all but the voxels and its source."""
        data = volume.data
        chunks = getattr(data, "chunksize", getattr(data, "chunks", None))
        number = self._number_of(data)
        voxels = Voxels(number, volume.shape, volume.dtype.str, chunks)
        return Volume(
            cast(Any, voxels),
            volume.axes,
            volume.spacing,
            volume.units,
            volume.origin,
            volume.name,
        )

    def _number_of(self, data: Any) -> int:
        """Return the same number for the same voxels, also for another view of them."""
        identity = _identity(data)
        if self._last is None or self._last[0] != identity:
            self._count += 1
            self._last = identity, data  # keeps the memory from being used again
        return self._count

    def forget(self) -> None:
        """Release the last volume."""
        self._last = None


def _identity(data: Any) -> object:
    """Return what two views of the same voxels have in common."""
    if isinstance(data, np.ndarray):
        about = data.__array_interface__
        return about["data"], data.shape, data.strides, data.dtype
    return getattr(data, "name", None) or id(data)  # a dask array's name identifies it


class RemoteArray:
    """An array whose voxels are in the other process; indexing it fetches them.

    Parameters
    ----------
    voxels : Voxels
        What stands for them.
    read : callable
        Takes a (start, stop) for each axis and returns the voxels.
    """

    def __init__(
        self, voxels: Voxels, read: Callable[[tuple[Span, ...]], npt.NDArray[Any]]
    ) -> None:
        self.number = voxels.number
        self.shape = voxels.shape
        self.dtype = np.dtype(voxels.dtype)
        self.ndim = len(self.shape)
        self.chunks = voxels.chunks
        self._read = read

    def __getitem__(self, index: Any) -> npt.NDArray[Any]:
        """Fetch the voxels at integers and slices (with any step)."""
        given = index if isinstance(index, tuple) else (index,)
        if Ellipsis in given:
            at = given.index(Ellipsis)
            missing = self.ndim - len(given) + 1
            given = (*given[:at], *(slice(None),) * missing, *given[at + 1 :])
        given = (*given, *(slice(None),) * (self.ndim - len(given)))
        ranges, rest = zip(*map(_split, given, self.shape), strict=True)
        if any(start == stop for start, stop in ranges):
            slab = np.empty([stop - start for start, stop in ranges], self.dtype)
        else:
            slab = self._read(ranges)
        selected: npt.NDArray[Any] = slab[rest]
        return selected


def _split(index: Any, size: int) -> tuple[Span, Any]:
    """Return the range of one axis to read, and the index into what was read."""
    if not isinstance(index, slice):
        at = operator.index(index)
        at = at + size if at < 0 else at
        if not 0 <= at < size:
            raise IndexError(f"position {index} is outside an axis of size {size}")
        return (at, at + 1), 0
    wanted = range(size)[index]
    if not wanted:
        return (0, 0), slice(None)
    low, high = min(wanted[0], wanted[-1]), max(wanted[0], wanted[-1])
    return (low, high + 1), slice(None, None, wanted.step)
