"""From labels and edge labels to numbered objects.

End of section 6 of the architecture description. Whole volumes in, whole volumes out.
"""

from __future__ import annotations

from typing import Any, TypeVar

import cc3d
import numpy as np
import numpy.typing as npt

from napari_biomedparse.errors import VolumeError

Numbers = TypeVar("Numbers", bound=np.integer[Any])

NEIGHBOURS = ((2, -1), (1, -1), (0, -1), (0, 1), (1, 1), (2, 1))
"""Axis and direction of the face neighbours, in the order in which they win ties.

It is the order of `skimage.segmentation.expand_labels`, found by trying: the distance
transform beneath it prefers the earlier voxel along the last axis, and so on.
"""


def split_instances(
    labels: npt.NDArray[np.integer[Any]],
    edge_labels: npt.NDArray[np.integer[Any]],
    minimum_size: int = 0,
) -> npt.NDArray[np.int32]:
    """Tell the objects of every label apart where edges were found between them.

    What is left of `labels` without edges falls into face-connected components of
    equal label; these grow by one voxel, but not beyond `labels`.

    Parameters
    ----------
    labels : ndarray [Z, Y, X] or [P, Z, Y, X]
        Integers; 0 is background. Label volumes of several prompts are split one by
        one.
    edge_labels : ndarray like `labels`
        Integers; 0 is no edge.
    minimum_size : int
        Objects of fewer voxels are dropped.

    Returns
    -------
    ndarray like `labels`
        int32; 0, and 1 to the number of objects.

    Raises
    ------
    VolumeError
        If the shapes differ.
    """
    if labels.shape != edge_labels.shape:
        raise VolumeError(
            f"Labels have the shape {labels.shape} and edge labels "
            f"{edge_labels.shape}; they must have the same."
        )
    if labels.ndim == 4:
        return _split_each(labels, edge_labels, minimum_size)
    interior = np.where(edge_labels == 0, labels, 0)
    grown = grow(label_components(interior))
    grown[labels <= 0] = 0
    if minimum_size > 1:
        return kept_numbers(np.bincount(grown.ravel()), minimum_size)[grown]
    return grown


def kept_numbers(
    sizes: npt.NDArray[np.integer[Any]], minimum_size: int
) -> npt.NDArray[np.int32]:
    """Give the objects that are large enough new numbers.

    Parameters
    ----------
    sizes : ndarray [N]
        Voxels of each object, of the background (0) first.
    minimum_size : int

    Returns
    -------
    int32 ndarray [N]
        New number of each object, 0 for those that are dropped.
    """
    kept = sizes >= minimum_size
    kept[:1] = False
    return np.where(kept, np.cumsum(kept), 0).astype(np.int32)


def _split_each(
    labels: npt.NDArray[np.integer[Any]],
    edge_labels: npt.NDArray[np.integer[Any]],
    minimum_size: int,
) -> npt.NDArray[np.int32]:
    """Split label volumes one by one; no number occurs in two of them."""
    objects = np.zeros(labels.shape, np.int32)
    count = 0
    for target, own, edges in zip(objects, labels, edge_labels, strict=True):
        target[...] = split_instances(own, edges, minimum_size)
        target[target > 0] += count
        count = max(count, int(target.max(initial=0)))
    return objects


def label_components(labels: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.int32]:
    """Give every face-connected component of equal label a number.

    Parameters
    ----------
    labels : ndarray [Z, Y, X]
        Integers; 0 is background.

    Returns
    -------
    ndarray [Z, Y, X]
        int32; 0, and 1 to the number of components.
    """
    # cc3d takes no other byte order, nor memory that it could not write to.
    native = np.require(labels, labels.dtype.newbyteorder("="), "W")
    return cc3d.connected_components(native, connectivity=6).astype(np.int32)


def grow(objects: npt.NDArray[Numbers]) -> npt.NDArray[Numbers]:
    """Give free voxels the number of a face neighbour, like `expand_labels` by 1.

    Parameters
    ----------
    objects : ndarray [Z, Y, X]
        Integers; 0 is free.

    Returns
    -------
    ndarray [Z, Y, X]
        Same dtype.
    """
    grown = objects.copy()
    for axis, direction in NEIGHBOURS:
        here = [slice(None)] * objects.ndim
        there = [slice(None)] * objects.ndim
        here[axis] = slice(1, None) if direction < 0 else slice(0, -1)
        there[axis] = slice(0, -1) if direction < 0 else slice(1, None)
        target = grown[tuple(here)]
        np.copyto(target, objects[tuple(there)], where=target == 0)
    return grown
