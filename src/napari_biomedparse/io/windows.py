"""Read parts of lazy volumes in bounded memory, each chunk once."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from itertools import accumulate, product
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from napari_biomedparse.data.volume import ArrayLike

SPOOL_BYTES = 2**34
"""Largest part that is written to a temporary file."""


def chunk_thickness(data: ArrayLike, axis: int) -> int:
    """Return the length of the longest chunk of an array along an axis.

    Parameters
    ----------
    data : array
        numpy, dask or zarr. Of a sharded one a shard counts, which is read as one.

    Returns
    -------
    int
        1 for an array without chunks.
    """
    chunks = getattr(data, "shards", None) or getattr(data, "chunks", None)
    return 1 if chunks is None else int(np.max(chunks[axis]))


def read_windows(
    data: ArrayLike, windows: Sequence[tuple[slice, ...]]
) -> list[npt.NDArray[Any]]:
    """Read windows of an array; a chunk that several share is read once."""
    parts = [data[window] for window in windows]
    if hasattr(data, "dask"):
        from dask.base import compute

        parts = list(compute(*parts))  # type: ignore[no-untyped-call]
    return [np.asarray(part) for part in parts]


def can_spool(data: ArrayLike, size: int) -> bool:
    """Return whether `size` bytes of an array should and can pass through a file.

    Only a dask array needs it, which reads whole chunks for a part of them.
    """
    if not hasattr(data, "dask") or size > SPOOL_BYTES:
        return False
    return shutil.disk_usage(tempfile.gettempdir()).free > 2 * size


def spool(
    data: Any, axis: int, start: int, stop: int, thickness: int
) -> Iterator[npt.NDArray[Any]]:
    """Read slices `start` to `stop` of a dask array, `thickness` at a time.

    Chunks are read column by column into a temporary file, from which thin parts are
    then taken.

    Yields
    ------
    ndarray
        Of the array's shape, but with the slicing axis first.
    """
    others = [
        [slice(end - size, end) for end, size in zip(accumulate(n), n, strict=True)]
        for i, n in enumerate(data.chunks)
        if i != axis
    ]
    plane = tuple(size for i, size in enumerate(data.shape) if i != axis)
    dtype = np.dtype(data.dtype)
    with tempfile.TemporaryFile(prefix="napari-biomedparse-") as file:
        columns = list(product(*others))
        for column in columns:
            where: list[slice] = list(column)
            where.insert(axis, slice(start, stop))
            part = np.moveaxis(np.asarray(data[tuple(where)]), axis, 0)
            file.write(np.ascontiguousarray(part).data)
        file.flush()
        for first in range(start, stop, thickness):
            last = min(first + thickness, stop)
            slab = np.empty((last - first, *plane), dtype)
            begin = 0
            for column in columns:
                shape = tuple(part.stop - part.start for part in column)
                size = math.prod(shape)
                file.seek((begin + (first - start) * size) * dtype.itemsize)
                raw = file.read((last - first) * size * dtype.itemsize)
                part = np.frombuffer(raw, dtype).reshape(last - first, *shape)
                slab[(slice(None), *column)] = part
                begin += (stop - start) * size
            yield slab
