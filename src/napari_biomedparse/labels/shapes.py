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
    spacing: Sequence[float],
    diameter: float = 0.0,
) -> int:
    """Separate objects of a volume by their shape, and at edges where there are any.

    Arrays [Z, Y, X] and errors are as for `split_blockwise`, `diameter` and `edges` as
    for `split_shape`. Objects are numbered from the number after `after`, or from 1.
    Those of fewer than `minimum_size` voxels are removed, with 0 those that are smaller
    than `SMALLEST` of the median. Returns the last number, or `after` without any.
    """
    after = after or 0
    nowhere = np.broadcast_to(np.zeros((), np.uint8), labels.shape)
    split_blockwise(labels, nowhere, components, instances, block, after=after)
    boxes = _boxes(instances, block, after)
    first = max(boxes, default=after)
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
