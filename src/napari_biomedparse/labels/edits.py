"""What a person set in labels, kept beside what a machine writes into them.

Sparse, so that labels may be larger than memory; from any thread.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Window = tuple[slice, ...]
"""A slice of positive step 1 for each axis; open ends reach to the edge."""
Voxels = tuple[npt.NDArray[np.integer[Any]], ...]
"""An array of positions for each axis, as `numpy.nonzero` returns them."""
_Plane = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
"""Ascending positions in a plane of the last two axes, and the values there."""


class Edits:
    """The voxels that a person set, to what, and the regions that are locked.

    Parameters
    ----------
    shape : sequence of int
        Shape of the labels: at least two axes.
    """

    def __init__(self, shape: Sequence[int]) -> None:
        self.shape = tuple(shape)
        self._planes: dict[tuple[int, ...], _Plane] = {}
        self._locked: tuple[Window, ...] = ()
        self._lock = threading.RLock()

    def __len__(self) -> int:
        """Return the number of voxels that a person set."""
        with self._lock:
            return sum(len(positions) for positions, _ in self._planes.values())

    def copy(self) -> Edits:
        """Return edits that do not change with these."""
        with self._lock:
            other = Edits(self.shape)
            other._planes, other._locked = self._planes.copy(), self._locked
            return other

    def lock(self, regions: Iterable[Window]) -> None:
        """Have these regions, and no others, change by a person alone."""
        with self._lock:
            self._locked = tuple(regions)

    def record(self, voxels: Voxels, values: Any) -> None:
        """Remember that a person set voxels; of equal ones the last counts."""
        values = np.broadcast_to(np.asarray(values, np.int64), np.shape(voxels[0]))
        with self._lock:
            for key, positions, at in self._by_plane(voxels):
                old, old_values = self._planes.get(key, (positions[:0], values[:0]))
                # The first of equal ones is kept: the newest come first.
                every = np.concatenate([positions[::-1], old])
                kept, first = np.unique(every, return_index=True)
                found = np.concatenate([values[at][::-1], old_values])[first]
                self._planes[key] = kept, found

    def forget(self, voxels: Voxels) -> None:
        """Give voxels back to the machine."""
        with self._lock:
            for key, positions, _ in self._by_plane(voxels):
                if key in self._planes:
                    old, values = self._planes.pop(key)
                    kept = ~np.isin(old, positions)
                    if kept.any():
                        self._planes[key] = old[kept], values[kept]

    def has(self, voxels: Voxels) -> npt.NDArray[np.bool_]:
        """Return which voxels a person set."""
        found = np.zeros(np.shape(voxels[0]), bool)
        with self._lock:
            for key, positions, at in self._by_plane(voxels):
                if key in self._planes:
                    found[at] = np.isin(positions, self._planes[key][0])
        return found

    def is_locked(self, voxels: Voxels) -> npt.NDArray[np.bool_]:
        """Return which voxels are locked."""
        found = np.zeros(np.shape(voxels[0]), bool)
        for region in self._locked:
            inside = np.ones_like(found)
            for at, axis in zip(voxels, self._box(region), strict=True):
                inside &= (at >= axis.start) & (at < axis.stop)
            found |= inside
        return found

    def voxels(self, where: Window | None = None) -> tuple[Voxels, npt.NDArray[Any]]:
        """Return the voxels of a window that a person set, within it, and values."""
        parts = [
            (*(np.full(len(values), k) for k in key), rows, columns, values)
            for key, rows, columns, values in self._inside(where)
        ]
        empty = [(np.zeros(0, np.int64),) * (len(self.shape) + 1)]
        *index, values = map(np.concatenate, zip(*(parts or empty), strict=True))
        return tuple(index), values

    def apply(self, labels: npt.NDArray[Any], where: Window | None = None) -> None:
        """Put what a person set on top, in place; `labels` are those of a window."""
        for key, rows, columns, values in self._inside(where):
            labels[(*key, rows, columns)] = values

    def locked(self, where: Window | None = None) -> npt.NDArray[np.bool_] | None:
        """Return which voxels of a window are locked; None if there are none."""
        box, mask = self._box(where), None
        for region in self._locked:
            both = [
                slice(max(a.start, b.start) - b.start, min(a.stop, b.stop) - b.start)
                for a, b in zip(self._box(region), box, strict=True)
            ]
            if all(one.start < one.stop for one in both):
                mask = np.zeros(tuple(map(len, box)), bool) if mask is None else mask
                mask[tuple(both)] = True
        return mask

    def kept(self, where: Window | None = None) -> npt.NDArray[np.bool_] | None:
        """Return which voxels of a window a machine must leave; None if it may all."""
        mask = self.locked(where)
        for key, rows, columns, _ in self._inside(where):
            if mask is None:
                mask = np.zeros(tuple(map(len, self._box(where))), bool)
            mask[(*key, rows, columns)] = True
        return mask

    def notice(
        self,
        shown: npt.NDArray[Any],
        written: npt.NDArray[Any],
        where: Window | None = None,
    ) -> Voxels:
        """Record what differs in a window from what a machine wrote; return it.

        So edits are kept that nobody told of: those of scripts and other plugins.
        """
        begin = [axis.start for axis in self._box(where)]
        found: list[Voxels] = [(np.zeros(0, np.int64),) * len(self.shape)]
        with self._lock:
            for key in np.ndindex(shown.shape[:-2]):
                there = tuple(b + k for b, k in zip(begin, key, strict=False))
                plane, other = shown[key], written[key]
                if there in self._planes:
                    other = other.astype(np.int64)
                    window = (*(slice(k, k + 1) for k in there), *_last(where))
                    self.apply(other[(None,) * len(key)], window)
                elif np.array_equal(plane, other):
                    continue
                rows, columns = np.nonzero(plane != other)
                leading = (np.full(len(rows), k) for k in there)
                voxels = (*leading, rows + begin[-2], columns + begin[-1])
                self.record(voxels, plane[rows, columns])
                found.append(voxels)
        return tuple(map(np.concatenate, zip(*found, strict=True)))

    def _by_plane(
        self, voxels: Voxels
    ) -> Iterator[tuple[tuple[int, ...], npt.NDArray[np.int64], npt.NDArray[Any]]]:
        """Yield each plane's index, the positions in it, and where they were given."""
        index = [np.asarray(axis, np.int64) for axis in voxels]
        if not len(index[0]):
            return
        positions = index[-2] * self.shape[-1] + index[-1]
        plane = np.zeros_like(positions)
        for axis, size in zip(index[:-2], self.shape[:-2], strict=True):
            plane = plane * size + axis
        in_order = bool((plane[1:] >= plane[:-1]).all())
        order = np.arange(len(plane)) if in_order else np.argsort(plane, kind="stable")
        starts = np.flatnonzero(np.diff(plane[order])) + 1
        for at in np.split(order, starts):
            yield tuple(int(axis[at[0]]) for axis in index[:-2]), positions[at], at

    def _inside(
        self, where: Window | None
    ) -> Iterator[tuple[tuple[int, ...], Any, Any, npt.NDArray[np.int64]]]:
        """Yield what was set in a window, plane by plane, relative to its corner."""
        *leading, rows, columns = self._box(where)
        whole = where is None
        with self._lock:
            planes = list(self._planes.items())
        for key, (positions, values) in planes:
            if not all(k in axis for k, axis in zip(key, leading, strict=True)):
                continue
            y, x = np.divmod(positions, self.shape[-1])
            if not whole:
                inside = (y >= rows.start) & (y < rows.stop)
                inside &= (x >= columns.start) & (x < columns.stop)
                y, x = y[inside] - rows.start, x[inside] - columns.start
                values = values[inside]
            if len(values):
                at = (k - axis.start for k, axis in zip(key, leading, strict=True))
                yield tuple(at), y, x, values

    def _box(self, where: Window | None) -> list[range]:
        every = (slice(None),) * len(self.shape) if where is None else where
        pairs = zip(every, self.shape, strict=True)
        return [range(*axis.indices(size)) for axis, size in pairs]


def _last(where: Window | None) -> Window:
    return (slice(None),) * 2 if where is None else where[-2:]
