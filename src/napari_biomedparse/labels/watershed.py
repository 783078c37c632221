"""Separate objects by their shape, slice by slice: where a mask narrows, it is cut.

The instances that BiomedParse v1 makes of a mask of cells; ARCHITECTURE of v1, end of
section 9.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.morphology import local_minima, reconstruction
from skimage.segmentation import watershed

from napari_biomedparse.labels.blockwise import windows_of
from napari_biomedparse.labels.instances import kept_numbers

if TYPE_CHECKING:
    from napari_biomedparse.data.volume import ArrayLike


def split_by_shape(
    mask: npt.NDArray[np.bool_], minimum_size: int = 0
) -> npt.NDArray[np.int32]:
    """Cut a mask into instances by a watershed of the distance to its border.

    Returns int32 of the shape of `mask`: 0, and 1 to the number of instances. Those of
    fewer than `minimum_size` pixels are removed, and those smaller than the mean by two
    standard deviations and one pixel. Numbers aside, instances are those of ITK, ties
    included: `BinaryFillhole`, `SignedMaurerDistanceMap`, and `MorphologicalWatershed`
    of level 1 without lines. Thin parts a pixel or two apart are one instance there.
    """
    filled = ndimage.binary_fill_holes(mask)
    border = filled & ndimage.binary_dilation(~filled, np.ones((3,) * mask.ndim))
    basins, several = mask.astype(np.int32), 0
    if border.any():
        height = ndimage.distance_transform_edt(~border).astype(np.float32)
        height[filled] *= -1
        cross = ndimage.generate_binary_structure(mask.ndim, 1)
        flat = reconstruction(height + np.float32(1), height, "erosion", cross)  # type: ignore[no-untyped-call]
        lowest = local_minima(flat, connectivity=1)  # type: ignore[no-untyped-call]
        several = ndimage.label(lowest, output=basins)
    if several:
        # Of equal heights, ITK floods a basin's own pixels first, row by row;
        # scikit-image takes them in any order unless they differ a little.
        levels = np.where(basins, height, flat).ravel()
        rank = np.unique(levels, return_inverse=True)[1].astype(np.float64)
        own = np.flatnonzero(basins)
        rank[own] += own / basins.size / 2 - 0.5
        basins = watershed(rank.reshape(mask.shape), basins)  # type: ignore[no-untyped-call]
    else:
        basins[...] = mask
    sizes = np.bincount(basins[mask], minlength=basins.max() + 1)
    known = sizes[sizes > 0]
    least = known.mean() - 2 * known.std() - 1 if len(known) else 0
    return np.where(mask, kept_numbers(sizes, max(least, minimum_size, 1))[basins], 0)


def split_slices(
    labels: ArrayLike,
    instances: Any,
    axis: int,
    thickness: int,
    minimum_size: int = 0,
    *,
    after: int = 0,
) -> int:
    """Separate objects by shape in each slice and of each label by itself.

    `labels` [Z, Y, X] are label ids, `instances` the result, of the same shape; both
    may be on disk, and are read and written `thickness` slices along `axis` at a time.
    Instances are numbered from the number after `after`; returns the last one.
    """
    block = [*labels.shape]
    block[axis] = thickness
    for window in windows_of(labels.shape, block):
        values = np.asarray(labels[window])
        found = np.zeros(values.shape, np.uint32)
        planes = (np.moveaxis(part, axis, 0) for part in (values, found))
        for plane, target in zip(*planes, strict=True):
            for label in np.unique(plane[plane > 0]):
                own = split_by_shape(plane == label, minimum_size)
                np.copyto(target, own + after, where=own > 0, casting="unsafe")
                after += int(own.max())
        instances[window] = found
    return after
