"""Corrections of single objects, in their bounding boxes, so that labels may be huge.

An object is what is connected, and has one value. Nothing here changes labels:
functions return where they change, and to what.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from napari_biomedparse.errors import VolumeError

REACH = 16
"""Voxels around a place that are looked at first."""
MOST = 2**27
"""Voxels of a bounding box up to which an object can be corrected."""
MARGIN = 3
SMOOTHING = 1.5
"""Standard deviation of the smoothing, in voxels' smallest sides."""
Box = tuple[slice, ...]
Place = Sequence[int]


class Found(NamedTuple):
    """An object: its box, its voxels in there, and all values of the box."""

    box: Box
    mask: npt.NDArray[np.bool_]
    values: npt.NDArray[Any]


class Change(NamedTuple):
    """Voxels to be changed, as an index of the whole labels, and their new values."""

    voxels: tuple[npt.NDArray[np.intp], ...]
    values: npt.NDArray[np.int64]


def object_at(labels: Any, at: Place, margin: int = 0) -> Found:
    """Find the object of a place, in a box that is grown until it holds all of it.

    `labels` are an array, perhaps on disk, that slices can be read from; `margin`
    voxels around the object are in the box. `at` is its index, in the order of their
    axes. A VolumeError is raised if there is no object, or one whose box has more than
    `MOST` voxels.
    """
    shape: tuple[int, ...] = labels.shape
    at = tuple(int(i) for i in at)
    inside = all(0 <= i < n for i, n in zip(at, shape, strict=True))
    value = _read(labels, tuple(slice(i, i + 1) for i in at)).item() if inside else 0
    if not value:
        raise VolumeError("There is no object here: click one of the labels.")
    low, high = [i - REACH for i in at], [i + REACH + 1 for i in at]
    while True:
        low = [max(0, i) for i in low]
        high = [min(n, i) for i, n in zip(high, shape, strict=True)]
        if math.prod(b - a for a, b in zip(low, high, strict=True)) > MOST:
            raise VolumeError(
                f"This object is larger than {MOST} voxels with its box, and cannot be "
                "corrected as a whole. Use napari's brush and eraser."
            )
        values = _read(labels, tuple(map(slice, low, high)))
        parts, _ = ndimage.label(values == value)
        mask = parts == parts[tuple(i - a for i, a in zip(at, low, strict=True))]
        (own,) = ndimage.find_objects(mask.astype(np.uint8))
        grown = False
        for axis, part in enumerate(own):
            size = high[axis] - low[axis]
            if part.start < 1 and low[axis] > 0:
                low[axis] -= size
                grown = True
            if part.stop >= size and high[axis] < shape[axis]:
                high[axis] += size
                grown = True
        if not grown:
            break
    box = tuple(
        slice(max(0, a + p.start - margin), min(n, a + p.stop + margin))
        for a, p, n in zip(low, own, shape, strict=True)
    )
    whole = np.zeros([b.stop - b.start for b in box], bool)
    there = tuple(
        slice(a + p.start - b.start, a + p.stop - b.start)
        for a, p, b in zip(low, own, box, strict=True)
    )
    whole[there] = mask[own]
    return Found(box, whole, _read(labels, box))


def relabeled(found: Found, value: int) -> Change:
    """Give an object another value; 0 deletes it."""
    return _change(found, np.where(found.mask, value, found.values))


def without_holes(found: Found) -> Change:
    """Fill what an object encloses, where nothing else is."""
    holes = ndimage.binary_fill_holes(found.mask) & (found.values == 0)
    return _change(found, np.where(holes, _value(found), found.values))


def smoothed(found: Found, spacing: Sequence[float]) -> Change:
    """Smooth the surface of an object, which does not grow into others.

    `spacing` are the sides of a voxel, in any unit. Its box needs a `MARGIN`.
    """
    sigma = [SMOOTHING * min(spacing) / s for s in spacing]
    inside = ndimage.gaussian_filter(found.mask.astype(np.float32), sigma) > 0.5
    values = np.where(found.mask & ~inside, 0, found.values)
    return _change(found, np.where(inside & (values == 0), _value(found), values))


def split(
    found: Found, places: Sequence[Place], spacing: Sequence[float], value: int
) -> Change:
    """Split an object between two places; that of the second one gets the value.

    A voxel belongs to the nearer place, in the unit of `spacing`, the sides of a voxel:
    of touching nuclei this is right more often than a watershed, which needs both
    places in the middle. With the value 0 a line between the two is removed. A
    VolumeError is raised for places outside of it.
    """
    far, size = [], found.mask.shape
    for place in places:
        here = tuple(int(i) - b.start for i, b in zip(place, found.box, strict=True))
        within = all(0 <= i < n for i, n in zip(here, size, strict=True))
        if not within or not found.mask[here]:
            raise VolumeError("Click twice in the same object to split it.")
        grid = zip(np.ogrid[tuple(map(slice, size))], here, spacing, strict=True)
        far.append(sum(((along - i) * side) ** 2 for along, i, side in grid))
    other = found.mask & (far[1] < far[0])
    if not value:
        other &= ndimage.binary_dilation(found.mask & ~other)
    return _change(found, np.where(other, value, found.values))


def between(
    first: npt.NDArray[np.bool_], second: npt.NDArray[np.bool_], count: int
) -> list[npt.NDArray[np.bool_]]:
    """Interpolate `count` masks [Y, X] between two, by their signed distances.

    Raya and Udupa, "Shape-based interpolation of multidimensional objects", IEEE TMI 9,
    1990.
    """
    start, stop = (
        ndimage.distance_transform_edt(mask) - ndimage.distance_transform_edt(~mask)
        for mask in (first, second)
    )
    shares = [at / (count + 1) for at in range(1, count + 1)]
    return [(1 - share) * start + share * stop > 0 for share in shares]


def all_but_largest(labels: npt.NDArray[Any], value: int) -> Change:
    """Find the pieces of a value in labels in memory, except the largest, to remove."""
    parts, _ = ndimage.label(labels == value)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return _removed((parts > 0) & (parts != sizes.argmax()))


def sizes_of(labels: Any) -> dict[int, int]:
    """Count the voxels of each label, plane after plane along the first axis."""
    found = Counter[int]()
    for plane in labels:
        values, counts = np.unique(np.asarray(plane), return_counts=True)
        found.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
    del found[0]
    return dict(found)


def place_of(labels: Any, value: int) -> tuple[int, ...] | None:
    """Return a voxel of a label, in the plane along the first axis with most of it."""
    most, place = 0, None
    for at, plane in enumerate(labels):
        voxels = np.argwhere(np.asarray(plane) == value)
        if len(voxels) > most:
            middle = np.abs(voxels - voxels.mean(axis=0)).sum(axis=1).argmin()
            most, place = len(voxels), (at, *voxels[middle].tolist())
    return place


def with_border(found: Found) -> tuple[npt.NDArray[np.intp], ...]:
    """Return the voxels of an object, and of the background that it touches.

    As an index of the whole labels. Its box needs a `MARGIN`.
    """
    border = ndimage.binary_dilation(found.mask) & (found.values == 0)
    return _whole(found, np.nonzero(found.mask | border))


def returned(
    labels: Any, number: int, old: npt.NDArray[np.bool_], new: npt.NDArray[np.bool_]
) -> Change:
    """Give an object the voxels that somebody corrected elsewhere.

    It loses those that it had at any time, `old`, and gets those of `new`, where
    nothing else is. All three are of the same shape.
    """
    gone, come = np.nonzero(old & ~new), np.nonzero(new)
    voxels = tuple(np.concatenate(both) for both in zip(gone, come, strict=True))
    values = np.repeat([0, number], [len(gone[0]), len(come[0])])
    kept = np.asarray(labels[voxels]) == number - values
    return Change(tuple(axis[kept] for axis in voxels), values[kept])


def small_objects(labels: npt.NDArray[Any], size: int) -> Change:
    """Find all objects of fewer than `size` voxels in labels in memory, to remove."""
    voxels = np.zeros(labels.shape, bool)
    for value in np.unique(labels[labels > 0]):
        parts, _ = ndimage.label(labels == value)
        few = np.asarray(np.bincount(parts.ravel()) < size)
        few[0] = False
        voxels |= few[parts]
    return _removed(voxels)


def _removed(voxels: npt.NDArray[np.bool_]) -> Change:
    found = np.nonzero(voxels)
    return Change(found, np.zeros(len(found[0]), np.int64))


def _value(found: Found) -> int:
    return int(found.values[found.mask][0])


def _read(labels: Any, box: Box) -> npt.NDArray[Any]:
    return np.asarray(labels[box])


def _change(found: Found, values: npt.NDArray[Any]) -> Change:
    """Return what differs from the box's own values."""
    here = np.nonzero(values != found.values)
    return Change(_whole(found, here), values[here].astype(np.int64))


def _whole(
    found: Found, here: tuple[npt.NDArray[np.intp], ...]
) -> tuple[npt.NDArray[np.intp], ...]:
    """Return places in the box as places in the whole labels."""
    return tuple(i + b.start for i, b in zip(here, found.box, strict=True))
