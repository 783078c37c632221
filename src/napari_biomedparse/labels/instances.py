"""Split labels into instances at the edges between them.

End of section 6 of the architecture description. Whole volumes in, whole volumes out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import cc3d
import numpy as np
import numpy.typing as npt

from napari_biomedparse.data.results import Owners
from napari_biomedparse.errors import VolumeError

Numbers = TypeVar("Numbers", bound=np.integer[Any])

NEIGHBOURS = ((2, -1), (1, -1), (0, -1), (0, 1), (1, 1), (2, 1))
"""Axis and direction of the face neighbours, in the order in which they win ties.

This is the order of `skimage.segmentation.expand_labels`, found by experiment: its
distance transform prefers the earlier voxel along the last axis, and so on.
"""


def split_instances(
    labels: npt.NDArray[np.integer[Any]],
    edge_labels: npt.NDArray[np.integer[Any]],
    minimum_size: int = 0,
) -> npt.NDArray[np.int32]:
    """Split every label into instances where there are edges between them.

    `labels` without the edges falls into face-connected components of equal label;
    these grow by one voxel, but not beyond `labels`. Instances of fewer than
    `minimum_size` voxels are removed.

    `labels` are integers [Z, Y, X], 0 for background, or [P, Z, Y, X]: label volumes of
    several prompts are split one by one, and no number occurs in two of them. In
    `edge_labels`, of the same shape (else a `VolumeError` is raised), 0 is no edge. The
    result is int32 of that shape: 0, and 1 to the number of instances.
    """
    if labels.shape != edge_labels.shape:
        raise VolumeError(
            f"Labels have the shape {labels.shape} and edge labels "
            f"{edge_labels.shape}; both must have the same shape."
        )
    if labels.ndim == 4:
        instances, count = np.zeros(labels.shape, np.int32), 0
        for target, own, edges in zip(instances, labels, edge_labels, strict=True):
            target[...] = split_instances(own, edges, minimum_size)
            target[target > 0] += count
            count = max(count, int(target.max(initial=0)))
        return instances
    interior = np.where(edge_labels == 0, labels, 0)
    grown = grow(label_components(interior))
    grown[labels <= 0] = 0
    if minimum_size > 1:
        return kept_numbers(np.bincount(grown.ravel()), minimum_size)[grown]
    return grown


class OwnerTally:
    """Finds the prompt of each object, and its score, in any parts of a volume.

    `ids` are label ids, `existence` [P, slices] their probabilities along `axis`.
    """

    def __init__(
        self,
        count: int,
        ids: Sequence[int],
        existence: npt.NDArray[np.float32],
        axis: int,
    ) -> None:
        self._labels = np.zeros(count + 1, np.uint16)
        self._scores = np.full(count + 1, np.nan, np.float32)
        self._rows = np.full(max(ids) + 1, -1)  # a person may have set other labels
        self._rows[list(ids)] = range(len(ids))
        self._existence, self._axis = existence, axis

    def add(
        self,
        instances: npt.NDArray[np.integer[Any]],
        labels: npt.NDArray[np.integer[Any]],
        edges: npt.NDArray[np.integer[Any]],
        start: int = 0,
    ) -> None:
        """Look at slices from `start` on: [Z, Y, X] or, by prompt, [P, Z, Y, X].

        Objects grow a voxel beyond their own label, so only their inside counts.
        """
        if instances.ndim == 4:
            for parts in zip(instances, labels, edges, strict=True):
                self.add(*parts, start=start)
            return
        planes = (
            np.moveaxis(part, self._axis, 0) for part in (instances, labels, edges)
        )
        for at, (numbers, ids, edge) in enumerate(zip(*planes, strict=True), start):
            inside = (edge == 0) & (ids > 0) & (ids < len(self._rows))
            self._labels[numbers[inside]] = ids[inside]
            here = np.zeros(len(self._labels), bool)
            here[numbers[inside]] = True
            rows = self._rows[self._labels[here]]
            scores = np.where(rows < 0, np.nan, self._existence[rows, at])
            self._scores[here] = np.fmax(self._scores[here], scores)

    @property
    def owners(self) -> Owners:
        """What was found."""
        self._labels[0], self._scores[0] = 0, np.nan
        return Owners(self._labels, self._scores)


def kept_numbers(
    sizes: npt.NDArray[np.integer[Any]], minimum_size: int
) -> npt.NDArray[np.int32]:
    """Return the new int32 number of each instance, 0 for those that are too small.

    `sizes` are the voxels of each instance, the background (0) first.
    """
    kept = sizes >= minimum_size
    kept[:1] = False
    return np.where(kept, np.cumsum(kept), 0).astype(np.int32)


def keep_numbers(
    objects: npt.NDArray[np.integer[Any]],
    before: npt.NDArray[np.integer[Any]] | None,
    taken: Iterable[int] = (),
) -> npt.NDArray[np.int32]:
    """Return a number for each object: that of the object before, or a new one.

    `objects` and `before`, of the same shape, are numbers from 1, 0 is background;
    `taken` are further numbers that are no new ones. The result is int32; entry 0 is 0.
    Of the pairs that overlap, those with the largest overlap come first, and of equal
    ones those with the smaller numbers.
    """
    count = int(objects.max(initial=0))
    numbers, known = np.zeros(count + 1, np.int32), np.zeros(0, np.int64)
    if before is not None:
        both = (objects > 0) & (before > 0)
        known = np.unique(before[before > 0])
        width = int(known.max(initial=0)) + 1
        pairs, voxels = np.unique(
            objects[both].astype(np.int64) * width + before[both], return_counts=True
        )
        free = dict.fromkeys(known.tolist())
        for at in np.argsort(-voxels, kind="stable"):
            new, old = divmod(int(pairs[at]), width)
            if numbers[new] == 0 and old in free:
                del free[old]
                numbers[new] = old
    used = np.union1d(known, np.fromiter(taken, np.int64))
    left = np.flatnonzero(numbers[1:] == 0) + 1
    fresh = np.setdiff1d(np.arange(1, len(left) + len(used) + 1), used)
    numbers[left] = fresh[: len(left)]
    return numbers


def label_components(labels: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.int32]:
    """Give a number to each face-connected component of equal label.

    `labels` are integers [Z, Y, X], 0 is background; the result is int32, from 1.
    """
    # cc3d requires native byte order and writable memory.
    native = np.require(labels, labels.dtype.newbyteorder("="), "W")
    return cc3d.connected_components(native, connectivity=6).astype(np.int32)


def grow(instances: npt.NDArray[Numbers]) -> npt.NDArray[Numbers]:
    """Give free voxels the number of a face neighbour, like `expand_labels` by 1."""
    grown = instances.copy()
    for axis, direction in NEIGHBOURS:
        here = [slice(None)] * instances.ndim
        there = [slice(None)] * instances.ndim
        here[axis] = slice(1, None) if direction < 0 else slice(0, -1)
        there[axis] = slice(0, -1) if direction < 0 else slice(1, None)
        target = grown[tuple(here)]
        np.copyto(target, instances[tuple(there)], where=target == 0)
    return grown
