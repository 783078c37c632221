"""Dask arrays whose blocks are read on demand, and written in order."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import dask.array as da
import numpy as np
import numpy.typing as npt

from napari_biomedparse.errors import FormatError
from napari_biomedparse.io.guards.bounds import MAX_BLOCKS, check_blocks

if TYPE_CHECKING:
    from napari_biomedparse.data.volume import ArrayLike

BLOCK_BYTES = 4 * 2**20
"""Target size of a block: fast to read for one slice, few tasks for many."""
Index = tuple[slice, ...]


def lazy_array(
    read: Callable[[Index], npt.NDArray[Any]],
    shape: Sequence[int],
    dtype: npt.DTypeLike,
    chunks: Sequence[int],
    what: str,
) -> ArrayLike:
    """Make a dask array from a function that reads a part of a file.

    Parameters
    ----------
    read : callable
        Takes one slice per axis and returns that part; opens and closes the file by
        itself. Called from several threads.
    chunks : sequence of int
        Size of a block along each axis.
    what : str
        File and part, for messages.

    Returns
    -------
    dask.array.Array
        Reading a block raises `FormatError` where the file is damaged.

    Raises
    ------
    FormatError
        If a block would be too large, or there would be too many.
    """
    sizes = [max(1, size) for size in chunks]
    check_blocks(shape, sizes, np.dtype(dtype).itemsize, what)
    if 0 in shape:  # one block, as dask would make many of nothing
        sizes = [max(1, length) for length in shape]
    sizes = da.core.normalize_chunks(  # type: ignore[no-untyped-call]
        tuple(sizes), tuple(shape), dtype=np.dtype(dtype)
    )

    def block(block_info: Any = None) -> npt.NDArray[Any]:
        if 0 in shape:
            return np.empty(tuple(shape), np.dtype(dtype))
        where = block_info[None]["array-location"]
        index = tuple(slice(int(start), int(stop)) for start, stop in where)
        try:
            return np.asarray(read(index))
        except (FormatError, MemoryError):
            raise
        except Exception as error:  # codecs may raise anything
            first = ", ".join(str(part.start) for part in index)
            advice = (
                "The disk may be unavailable, or permissions may have changed: restore "
                "access, and run the same again."
                if isinstance(error, OSError) and error.errno
                else "The file is probably damaged or incomplete; copy it again from "
                "its source."
            )
            raise FormatError(
                f"{what} cannot be read at ({first}): {error}. {advice}"
            ) from error

    result: ArrayLike = da.map_blocks(  # type: ignore[no-untyped-call]
        block,
        chunks=sizes,
        dtype=np.dtype(dtype),
        meta=np.empty((0,) * len(sizes), np.dtype(dtype)),
        name=f"biomedparse-{uuid4().hex}",
    )
    return result


def grow_chunks(
    chunks: Sequence[int], shape: Sequence[int], itemsize: int, axes: Sequence[str]
) -> tuple[int, ...]:
    """Enlarge storage chunks to whole multiples of about `BLOCK_BYTES`.

    Blocks of an array of terabytes become larger, to limit their number. The last axis
    grows first, so that blocks become whole planes before they become thicker.
    Channels and time points stay separate, as one of each is used at a time.
    """
    sizes = [max(1, min(c, n)) for c, n in zip(chunks, shape, strict=True)]
    wanted = max(BLOCK_BYTES, 2 * math.prod(shape) * itemsize // MAX_BLOCKS)
    for axis in reversed(range(len(sizes))):
        if axes[axis] in ("c", "t"):
            continue
        room = wanted // max(1, math.prod(sizes) * itemsize)
        if room > 1:
            sizes[axis] = min(sizes[axis] * room, max(1, shape[axis]))
    return tuple(sizes)


def in_order(labels: ArrayLike, folder: Path) -> Iterator[npt.NDArray[Any]]:
    """Yield `labels` slab by slab along the first axis, computing each block once.

    If the blocks of a dask array do not follow the first axis, a temporary copy is
    made in `folder`.
    """
    if not hasattr(labels, "dask"):
        rows = _rows(labels)
        for start in range(0, labels.shape[0], rows):
            yield np.asarray(labels[start : start + rows])
        return
    array: Any = labels
    if array.numblocks[0] == 1 and array.npartitions > 1:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".biomedparse-") as spool:
            copy = np.lib.format.open_memmap(
                Path(spool) / "labels.npy", "w+", dtype=array.dtype, shape=array.shape
            )
            blocks = da.core.slices_from_chunks(array.chunks)  # type: ignore[no-untyped-call]
            for index in blocks:
                copy[index] = array[index].compute()
            yield from in_order(copy, folder)
            del copy  # closes the file, which some systems need to remove it
        return
    rows, start, stop = _rows(array), 0, 0
    for size in array.chunks[0]:
        stop += size
        if stop - start >= rows or stop == array.shape[0]:
            yield np.asarray(array[start:stop].compute())
            start = stop


def _rows(array: ArrayLike) -> int:
    row = math.prod(array.shape[1:]) * np.dtype(array.dtype).itemsize
    return max(1, BLOCK_BYTES // max(1, row))
