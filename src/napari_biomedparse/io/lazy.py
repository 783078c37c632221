"""Arrays part by part: read on demand in bounded memory, and written in order."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, product
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
import numpy.typing as npt

from napari_biomedparse.errors import VolumeError
from napari_biomedparse.io.durable import scratch_file, scratching
from napari_biomedparse.io.guards.bounds import MAX_BLOCKS, check_blocks, reading

if TYPE_CHECKING:
    from napari_biomedparse.data.prompts import PromptSet
    from napari_biomedparse.data.results import Owners
    from napari_biomedparse.data.volume import ArrayLike, Volume

LABEL_BLOCK_BYTES = 2**26
"""Largest size in memory of a block of labels to be written."""
THICKEST = 16
"""Largest number of slices in such a block."""
BLOCK_BYTES = 4 * 2**20
"""Target size of a block: fast to read for one slice, few tasks for many."""
SPOOL_BYTES = 2**34
"""Largest part that is written to a temporary file."""
Index = tuple[slice, ...]


def lazy_array(
    read: Callable[[Index], npt.NDArray[Any]],
    shape: Sequence[int],
    dtype: npt.DTypeLike,
    chunks: Sequence[int],
    what: str,
) -> ArrayLike:
    """Make a dask array of a function that reads a part of a file.

    `read` is called from several threads with one slice per axis. Raises `FormatError`
    if there are too large or too many blocks, and later where one is damaged.
    """
    import dask.array as da  # slow, and the opening widget reads no file

    sizes = [max(1, size) for size in chunks]
    check_blocks(shape, sizes, np.dtype(dtype).itemsize, what)
    if 0 in shape:  # one block, as dask would make many of nothing
        return da.empty(tuple(shape), dtype, chunks=-1)  # type: ignore[no-any-return]
    sizes = da.core.normalize_chunks(  # type: ignore[no-untyped-call]
        tuple(sizes), tuple(shape), dtype=np.dtype(dtype)
    )

    def block(block_info: Any = None) -> npt.NDArray[Any]:
        where = block_info[None]["array-location"]
        index = tuple(slice(int(start), int(stop)) for start, stop in where)
        first = ", ".join(str(part.start) for part in index)
        with reading(what, f"cannot be read at ({first})", memory=True):
            return np.asarray(read(index))

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

    The last axis grows first, so that blocks become whole planes before they become
    thicker. Channels and time points stay separate, as one of each is used at a time.
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

    Blocks that do not follow that axis pass through a temporary file in `folder`.
    """
    if not hasattr(labels, "dask"):
        rows = _rows(labels)
        for start in range(0, labels.shape[0], rows):
            yield np.asarray(labels[start : start + rows])
        return
    array: Any = labels
    if array.numblocks[0] == 1 and array.npartitions > 1:
        import dask.array as da

        with tempfile.TemporaryFile(dir=folder) as file:  # goes with this process
            if hasattr(os, "posix_fallocate"):  # else a full disk would end it
                os.posix_fallocate(file.fileno(), 0, max(1, array.nbytes))
            copy = np.memmap(file, array.dtype, "w+", shape=array.shape)
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


def chunk_thickness(data: ArrayLike, axis: int) -> int:
    """Return the length of the longest chunk of an array along an axis.

    A shard counts as one, as it is read as one. 1 for an array without chunks.
    """
    chunks = getattr(data, "shards", None) or getattr(data, "chunks", None)
    return 1 if chunks is None else int(np.max(chunks[axis]))


def plan_thickness(shape: Sequence[int], axis: int, itemsize: int) -> int:
    """Choose the number of slices of a block of labels, within its bounds."""
    plane = math.prod(shape) // shape[axis] * itemsize
    most = max(1, min(THICKEST, LABEL_BLOCK_BYTES // max(1, plane)))
    return 1 << int(math.log2(most))


def read_windows(
    data: ArrayLike, windows: Sequence[tuple[slice, ...]]
) -> list[npt.NDArray[Any]]:
    """Read windows of an array; a chunk that several share is read once."""
    parts = [data[window] for window in windows]
    if hasattr(data, "dask"):
        import dask.array as da

        parts = list(da.compute(*parts))  # type: ignore[no-untyped-call]
    return [np.asarray(part) for part in parts]


def can_spool(data: ArrayLike, size: int) -> bool:
    """Return whether `size` bytes of an array, of whole chunks, can pass a file."""
    if not hasattr(data, "dask") or size > SPOOL_BYTES:
        return False
    with scratching():
        return shutil.disk_usage(tempfile.gettempdir()).free > 2 * size


def spool(
    data: Any, axis: int, start: int, stop: int, thickness: int
) -> Iterator[npt.NDArray[Any]]:
    """Read slices `start` to `stop` of a dask array, `thickness` at a time.

    Yields parts with the slicing axis first. Chunks are read column by column into a
    temporary file, from which thin parts are then taken.
    """
    others = [
        [slice(end - size, end) for end, size in zip(accumulate(n), n, strict=True)]
        for i, n in enumerate(data.chunks)
        if i != axis
    ]
    plane = tuple(size for i, size in enumerate(data.shape) if i != axis)
    dtype = np.dtype(data.dtype)
    with scratch_file() as file:
        columns = []
        for column in product(*others):
            where = (*column[:axis], slice(start, stop), *column[axis:])
            part = np.moveaxis(np.asarray(data[where]), axis, 0)
            columns.append((column, file.tell(), part.shape[1:]))
            with scratching():
                file.write(np.ascontiguousarray(part).data)
                file.flush()
        for first in range(start, stop, thickness):
            last = min(first + thickness, stop)
            slab = np.empty((last - first, *plane), dtype)
            for column, begin, shape in columns:
                size = math.prod(shape) * dtype.itemsize
                file.seek(begin + (first - start) * size)
                part = np.frombuffer(file.read(len(slab) * size), dtype)
                slab[(slice(None), *column)] = part.reshape(len(slab), *shape)
            yield slab


@dataclass(frozen=True)
class NewLabels:
    """Labels to save to a file of this `name`, with their volume and prompts."""

    name: str
    data: ArrayLike
    volume: Volume
    prompts: PromptSet | None
    owners: Owners | None = None

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """Type that they are stored as."""
        return label_dtype(self.data, self.prompts)

    @property
    def texts(self) -> dict[str, str]:
        """Prompts by label id, as JSON has them."""
        return {str(p.id): p.text for p in self.prompts.prompts} if self.prompts else {}

    def slabs(self, folder: Path) -> Iterator[npt.NDArray[Any]]:
        """Yield them as `in_order` does; raises `VolumeError` as `fit` does."""
        return (fit(slab, self.dtype) for slab in in_order(self.data, folder))


def label_dtype(labels: ArrayLike, prompts: PromptSet | None) -> np.dtype[Any]:
    """Return the smallest unsigned type, of 32 bits at most, for all label values.

    The values of numpy labels are examined. The largest value of lazy labels follows
    from the prompts or, for instances, from their type. Raises `VolumeError` if labels
    are not numbers; `fit` refuses values that are not whole or do not fit.
    """
    dtype = np.dtype(labels.dtype)
    if dtype.kind not in "buif":
        raise VolumeError(
            f"Labels have values of type {dtype}; convert them to integers."
        )
    if isinstance(labels, np.ndarray):
        most = labels.max(initial=0).item()  # NaN if there is one
        return np.min_scalar_type(int(most) if 0 <= most < 2**32 else 2**32 - 1)
    if prompts is not None and not prompts.instance:
        return np.min_scalar_type(prompts.ids[-1])
    return np.dtype(f"u{min(dtype.itemsize, 4)}")


def fit(block: npt.NDArray[Any], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Return labels as `dtype`; raises `VolumeError` where a value does not fit."""
    if block.size:
        low, high = block.min(), block.max()
        if not (0 <= low and high <= np.iinfo(dtype).max):
            raise VolumeError(
                f"The labels contain the value {low if not low >= 0 else high}, and "
                f"only 0 to {np.iinfo(dtype).max} can be stored here; remove it, or "
                "number the labels anew."
            )
        if block.dtype.kind == "f" and (block % 1).any():
            raise VolumeError("The labels contain fractions; round them to integers.")
    return block.astype(dtype, copy=False)


def _rows(array: ArrayLike) -> int:
    row = math.prod(array.shape[1:]) * np.dtype(array.dtype).itemsize
    return max(1, BLOCK_BYTES // max(1, row))
