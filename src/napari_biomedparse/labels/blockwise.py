"""Instances of a volume that does not fit in memory, block by block.

Components are found in each block separately, and those that touch across a border are
merged. The result is that of `split_instances`, except for the numbers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import zarr
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from napari_biomedparse.errors import VolumeError
from napari_biomedparse.labels.instances import grow, kept_numbers, label_components

if TYPE_CHECKING:
    from napari_biomedparse.data.volume import ArrayLike

BLOCK_VOXELS = 2**23
"""Largest number of voxels in a block; each takes about ten bytes in memory."""
Window = tuple[slice, ...]


def split_blockwise(
    labels: ArrayLike,
    edges: ArrayLike,
    components: Any,
    instances: Any,
    block: Sequence[int],
    minimum_size: int = 0,
    *,
    after: int | None = None,
) -> int:
    """Split labels into instances without holding the whole volume in memory.

    All arrays are [Z, Y, X]: `labels` are label ids, `edges` label ids at the
    boundaries of instances; `components` and `instances`, uint32, are scratch space and
    the result. A `block` is whole chunks of these two. Instances are numbered from 1 by
    their first voxel, in the order of blocks and of voxels within a block, or, if
    `after` is given, from the number after it in the order of voxels, as
    `split_instances` does. Those of fewer than `minimum_size` voxels are removed.

    Returns the number of the last instance. Raises a `VolumeError` if there are more
    than 2**32 - 1 components.
    """
    shape = tuple(labels.shape)
    count, begun = 0, [np.full(1, -1)]
    for window in windows_of(shape, block):
        values, inside = np.asarray(labels[window]), np.asarray(edges[window]) == 0
        found = label_components(np.where(inside, values, 0)).astype(np.int64)
        parts = int(found.max(initial=0))
        if count + parts > np.iinfo(np.uint32).max:
            raise VolumeError(
                "The labels consist of more than 4294967295 components, too many to "
                "number; raise the existence threshold, or do not split instances."
            )
        if after is not None:
            begun.append(_first_voxels(found, window, shape))
        components[window] = np.where(found > 0, found + count, 0).astype(np.uint32)
        count += parts
    first = np.arange(count + 1) if after is None else np.concatenate(begun)
    numbers = _merge(labels, components, block, first)

    def grown(window: Window) -> npt.NDArray[np.uint32]:
        wide, inner = _widen(window, shape)
        own = grow(numbers[np.asarray(components[wide])])[inner]
        return np.where(np.asarray(labels[window]) > 0, own, np.uint32(0))

    total = int(numbers.max(initial=0))
    kept = np.arange(total + 1)
    if minimum_size > 1:
        sizes = np.zeros(total + 1, np.int64)
        for window in windows_of(shape, block):
            sizes += np.bincount(grown(window).ravel(), minlength=total + 1)
        kept = kept_numbers(sizes, minimum_size).astype(np.int64)
    kept[kept > 0] += after or 0
    for window in windows_of(shape, block):
        instances[window] = kept.astype(np.uint32)[grown(window)]
    return int(kept.max(initial=0)) or after or 0


class Inner:
    """A volume in an array that has more axes before its own."""

    def __init__(self, array: Any, at: tuple[int, ...]) -> None:
        self._array, self._at = array, at
        self.shape: tuple[int, ...] = tuple(array.shape[len(at) :])
        self.dtype: np.dtype[Any] = array.dtype

    def __getitem__(self, where: Window) -> npt.NDArray[Any]:
        """Read a part."""
        return np.asarray(self._array[(*self._at, *where)])

    def __setitem__(self, where: Window, values: npt.NDArray[Any]) -> None:
        """Write a part."""
        self._array[(*self._at, *where)] = values


def block_shape(chunks: Sequence[int], shape: Sequence[int]) -> tuple[int, ...]:
    """Enlarge chunks to blocks of about `BLOCK_VOXELS`, the last axis first."""
    sizes = [min(c, n) for c, n in zip(chunks, shape, strict=True)]
    for axis in reversed(range(3)):
        while sizes[axis] < shape[axis] and 2 * math.prod(sizes) <= BLOCK_VOXELS:
            sizes[axis] *= 2
    return tuple(sizes)


def _merge(
    labels: ArrayLike,
    components: Any,
    block: Sequence[int],
    begun: npt.NDArray[np.int64],
) -> npt.NDArray[np.uint32]:
    """Return the instance of each component, merged at the faces between blocks.

    Instances are in the order of what `begun` says of their components.
    """
    pairs = [np.zeros((0, 2), np.int64)]
    shape = tuple(labels.shape)
    for window in windows_of(shape, block):
        for axis in range(3):
            border = window[axis].stop
            if border == shape[axis]:
                continue
            both = list(window)
            both[axis] = slice(border - 1, border + 1)
            face, values = (
                np.moveaxis(np.asarray(array[tuple(both)]), axis, 0).reshape(2, -1)
                for array in (components, labels)
            )
            touch = (face != 0).all(axis=0) & (values[0] == values[1])
            pairs.append(np.unique(face[:, touch].astype(np.int64), axis=1).T)
    first, second = np.concatenate(pairs).T
    graph = coo_array(
        (np.ones(len(first), bool), (first, second)), shape=(len(begun), len(begun))
    )
    number, group = connected_components(graph, directed=False)
    # The background, which begins before everything, stays 0.
    begin = np.full(number, np.iinfo(np.int64).max)
    np.minimum.at(begin, group, begun)
    order = np.empty(number, np.uint32)
    order[np.argsort(begin)] = np.arange(number, dtype=np.uint32)
    return np.asarray(order[group])


def _first_voxels(
    components: npt.NDArray[np.int64], window: Window, shape: Sequence[int]
) -> npt.NDArray[np.int64]:
    """Return the place in the volume of the first voxel of each component.

    They are numbered by it, so that a voxel is one if it exceeds all before.
    """
    flat = components.ravel()
    before = np.maximum.accumulate(np.append(np.zeros(1, flat.dtype), flat[:-1]))
    at = np.unravel_index(np.flatnonzero(flat > before), components.shape)
    places = [i + w.start for i, w in zip(at, window, strict=True)]
    return np.asarray(np.ravel_multi_index(places, shape))


def windows_of(shape: Sequence[int], block: Sequence[int]) -> Iterator[Window]:
    """Yield the blocks of a volume, the last axis fastest."""
    starts = (range(0, n, b) for n, b in zip(shape, block, strict=True))
    for corner in itertools.product(*starts):
        yield tuple(
            slice(at, min(at + size, n))
            for at, size, n in zip(corner, block, shape, strict=True)
        )


def _widen(window: Window, shape: Sequence[int]) -> tuple[Window, Window]:
    """Return a window with one more voxel on each side, and its place within that."""
    wide = tuple(
        slice(max(w.start - 1, 0), min(w.stop + 1, n))
        for w, n in zip(window, shape, strict=True)
    )
    inner = tuple(
        slice(w.start - v.start, w.stop - v.start)
        for w, v in zip(window, wide, strict=True)
    )
    return wide, inner


def scratch(path: Path, shape: Sequence[int], chunks: Sequence[int]) -> Any:
    """Create a uint32 array on disk, replacing an existing one."""
    return zarr.create_array(
        store=str(path),
        shape=tuple(shape),
        chunks=tuple(chunks),
        dtype=np.uint32,
        fill_value=0,
        overwrite=True,
    )
