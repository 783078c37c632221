"""Separate objects of a volume by their shape: where a mask narrows, it is cut.

A watershed of the smoothed Euclidean distance to the background (Malpica et al.,
"Applying watershed algorithms to the segmentation of clustered nuclei", Cytometry 28,
1997). Each connected component is cut by itself, in its bounding box, so that a volume
on disk gives the objects of one in memory.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.segmentation import watershed

from napari_biomedparse.labels.blockwise import Window, split_blockwise, windows_of

if TYPE_CHECKING:
    from napari_biomedparse.data.volume import ArrayLike

_LOGGER = logging.getLogger(__name__)

SMOOTH, APART = 0.25, 0.6
"""Standard deviation of the smoothing, and least distance of two centers, as shares of
an object's radius."""
SMALLEST = 0.25
"""Share of the median size that an object has at least, unless a size is given."""
LARGEST = 2**28
"""Voxels of a bounding box up to which a component is cut."""
MEASURED, FEWEST, LEAST = 1000, 3, 30
"""Components that are looked at for the proportions of a voxel, and how many objects
of how many voxels tell them."""


def split_shape(
    mask: npt.NDArray[np.bool_],
    spacing: Sequence[float],
    diameter: float = 0.0,
    edges: npt.NDArray[np.bool_] | None = None,
) -> npt.NDArray[np.int32]:
    """Cut a connected mask [Z, Y, X] into objects, numbered from 1.

    `diameter` is that of an object, in the unit of `spacing`, the sides of a voxel; 0
    takes the largest sphere within the mask. Objects also end at `edges`, which are of
    the shape of the mask. The result is int32 of that shape.
    """
    mask = np.pad(mask, 1)
    inside = mask if edges is None else mask & ~np.pad(edges, 1)
    distance = ndimage.distance_transform_edt(inside, sampling=spacing)
    radius = max(diameter / 2 or distance.max(), min(spacing))
    smooth = ndimage.gaussian_filter(distance, [SMOOTH * radius / s for s in spacing])
    size = [2 * max(1, round(APART * radius / s)) + 1 for s in spacing]
    highest = (ndimage.maximum_filter(smooth, size) == smooth) & mask
    centers, _ = ndimage.label(highest, np.ones((3, 3, 3)))
    found = watershed(-smooth, centers, mask=mask)  # type: ignore[no-untyped-call]
    return np.asarray(found[1:-1, 1:-1, 1:-1], np.int32)


def split_by_shapes(
    labels: ArrayLike,
    edges: ArrayLike,
    components: Any,
    instances: Any,
    block: Sequence[int],
    minimum_size: int = 0,
    *,
    after: int | None = None,
    spacing: Sequence[float] | None,
    diameter: float = 0.0,
) -> int:
    """Separate objects of a volume by their shape, and at edges where there are any.

    Arrays [Z, Y, X] and errors are as for `split_blockwise`, `diameter` and `edges` as
    for `split_shape`. Without a `spacing`, voxels are taken to be so much longer along
    the first axis that objects are as long as wide, and a warning says so. Objects are
    numbered from the number after `after`, or from 1. Those of fewer than
    `minimum_size` voxels are removed, with 0 those that are smaller than `SMALLEST` of
    the median. Returns the last number, or `after` without any.
    """
    after = after or 0
    nowhere = np.broadcast_to(np.zeros((), np.uint8), labels.shape)
    split_blockwise(labels, nowhere, components, instances, block, after=after)
    boxes = _boxes(instances, block, after)
    first = max(boxes, default=after)
    if spacing is None:
        spacing = (_proportion(instances, edges, boxes, diameter), 1.0, 1.0)
    sizes = [0]
    for number, box in boxes.items():
        values = np.asarray(instances[box])
        own = values == number
        if own.size > LARGEST:
            _LOGGER.warning("An object of %d voxels is too large to be cut.", own.size)
            pieces = own.astype(np.int32)
        else:
            pieces = split_shape(own, spacing, diameter, np.asarray(edges[box]) > 0)
        counts = np.bincount(pieces[own])[1:].tolist()
        values[own] = pieces[own] + (first + len(sizes) - 1)
        instances[box] = values
        sizes += counts
    least = minimum_size or math.ceil(SMALLEST * np.median(sizes[1:] or [0]))
    kept = np.array(sizes) >= max(least, 1)
    numbers = np.where(kept, after + np.cumsum(kept), 0)
    for window in windows_of(instances.shape, block):
        values = np.asarray(instances[window])
        cut = values > first
        values[cut] = numbers[values[cut] - first]
        instances[window] = values
    return after + int(kept.sum())


def _proportion(
    instances: Any, edges: ArrayLike, boxes: dict[int, Window], diameter: float
) -> float:
    """Return how much longer than wide voxels are if objects are as long as wide.

    The median over objects inside of the volume, each measured by the standard
    deviations of its voxels' places along the three axes.
    """
    found = []
    for number, box in islice(boxes.items(), MEASURED):
        own = np.asarray(instances[box]) == number
        if own.size > LARGEST:
            continue
        pieces = split_shape(own, (1, 1, 1), diameter, np.asarray(edges[box]) > 0)
        for index, part in enumerate(ndimage.find_objects(pieces), start=1):
            ends = zip(box, part, instances.shape, strict=True)
            inside = all(
                a.start + b.start > 0 and a.start + b.stop < size for a, b, size in ends
            )
            places = np.nonzero(pieces[part] == index)
            if inside and len(places[0]) >= LEAST:
                long, *wide = (float(at.var()) + 1 / 12 for at in places)
                found.append(math.sqrt(math.sqrt(math.prod(wide)) / long))
    if len(found) < FEWEST:
        return 1.0
    ratio = round(float(np.median(found)), 2)
    _LOGGER.warning(
        "The voxel size is not known. Objects are separated as if voxels were %g times "
        "as long along the first axis as along the others, as their shapes suggest. "
        "Give the voxel size if you know it.",
        ratio,
    )
    return ratio


def _boxes(instances: Any, block: Sequence[int], after: int) -> dict[int, Window]:
    """Return the bounding box of each component above a number."""
    found: dict[int, Window] = {}
    for window in windows_of(instances.shape, block):
        values = np.asarray(instances[window]).astype(np.int64) - after
        for number, box in enumerate(ndimage.find_objects(values.clip(0)), 1 + after):
            if box is None:
                continue
            here = tuple(
                slice(w.start + b.start, w.start + b.stop)
                for w, b in zip(window, box, strict=True)
            )
            known = found.get(number, here)
            found[number] = tuple(
                slice(min(a.start, b.start), max(a.stop, b.stop))
                for a, b in zip(known, here, strict=True)
            )
    return dict(sorted(found.items()))
