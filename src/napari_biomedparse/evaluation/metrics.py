"""Scores of a segmentation against the truth, as the challenge computed them.

Section 5 of the reference description has the rules, some of which are surprising but
kept, because published numbers were made with them. Distances need monai (the extra
``evaluate``), which is imported when first used.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import fastremap
import numpy as np
import numpy.typing as npt
from scipy.ndimage import find_objects
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from napari_biomedparse.errors import VolumeError
from napari_biomedparse.labels.instances import label_components

Labels = npt.NDArray[np.integer[Any]]
Mask = npt.NDArray[np.bool_]
MATCH_IOU = 0.5


@dataclass(frozen=True)
class ClassScore:
    """Scores of one class, 0 to 1; NaN where it is in neither volume.

    Parameters
    ----------
    dsc : float
        Dice similarity coefficient.
    nsd : float
        Normalised surface dice.
    """

    dsc: float
    nsd: float


@dataclass(frozen=True)
class SemanticScore:
    """Scores of all classes.

    Parameters
    ----------
    classes : mapping of int to ClassScore
        By label id.
    """

    classes: Mapping[int, ClassScore]

    @property
    def dsc(self) -> float:
        """Mean over classes, NaN if there is none."""
        return _mean(score.dsc for score in self.classes.values())

    @property
    def nsd(self) -> float:
        """Mean over classes, NaN if there is none."""
        return _mean(score.nsd for score in self.classes.values())


@dataclass(frozen=True)
class InstanceScore:
    """How well objects were found.

    Parameters
    ----------
    true_positives, false_positives, false_negatives : int
        Matched objects, objects only found, objects only in the truth.
    dsc_matched : float
        Mean Dice similarity coefficient of the matched pairs, 0 if there is none.
    """

    true_positives: int
    false_positives: int
    false_negatives: int
    dsc_matched: float

    @property
    def precision(self) -> float:
        """Share of the found objects that are right; 0 if none was found."""
        return _ratio(self.true_positives, self.false_positives)

    @property
    def recall(self) -> float:
        """Share of the true objects that were found; 0 if there is none."""
        return _ratio(self.true_positives, self.false_negatives)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall, 0 if both are 0."""
        if self.true_positives == 0:
            return 0.0
        return 2 * self.precision * self.recall / (self.precision + self.recall)


def evaluate_semantic(
    truth: Labels,
    labels: Labels,
    *,
    spacing: tuple[float, ...],
    ids: Iterable[int] | None = None,
    tolerance: float = 2.0,
) -> SemanticScore:
    """Score labels class by class.

    The classes are the values of `truth` but for the lowest one, which is taken to be
    the background. Where every voxel of `truth` has a class, the lowest class
    is therefore left out. Classes that only `labels` has are ignored.

    Parameters
    ----------
    truth, labels : ndarray [Z, Y, X]
        Integers.
    spacing : tuple of float
        Distance of neighbouring voxels per axis, in the unit of `tolerance`.
    ids : iterable of int, optional
        Label ids that count; by default all.
    tolerance : float
        Distance up to which surfaces agree.

    Returns
    -------
    SemanticScore

    Raises
    ------
    VolumeError
        If the shapes differ.
    """
    _require_same_shape(truth, labels)
    classes = [int(value) for value in np.unique(truth)[1:]]
    if ids is not None:
        counted = set(ids)
        classes = [value for value in classes if value in counted]
    return SemanticScore(
        {
            value: ClassScore(
                dice(truth == value, labels == value),
                surface_dice(
                    truth == value,
                    labels == value,
                    spacing=spacing,
                    tolerance=tolerance,
                ),
            )
            for value in classes
        }
    )


def evaluate_instances(truth: Labels, labels: Labels) -> InstanceScore:
    """Score objects.

    Face-connected voxels of equal value are the objects of `truth`. Those of `labels`
    are its values, unless it has exactly two different ones: then they are
    components, too. If `labels` is empty, all counts are 0. As many objects as
    possible are matched whose intersection over union is at least 0.5.

    Parameters
    ----------
    truth, labels : ndarray [Z, Y, X]
        Integers; 0 is background.

    Returns
    -------
    InstanceScore

    Raises
    ------
    VolumeError
        If the shapes differ.
    """
    _require_same_shape(truth, labels)
    values = np.unique(labels)
    if not values.any():
        return InstanceScore(0, 0, 0, 0.0)
    objects: Labels = label_components(truth)
    found = label_components(labels) if len(values) == 2 else _renumbered(labels)
    overlaps = match_objects(objects, found)
    matched = len(overlaps)
    return InstanceScore(
        matched,
        int(found.max()) - matched,
        int(objects.max()) - matched,
        _mean(2 * overlaps / (1 + overlaps)) if matched else 0.0,
    )


def match_objects(truth: Labels, labels: Labels) -> npt.NDArray[np.float64]:
    """Pair objects one to one.

    Above an intersection over union of 0.5 an object has one possible partner only,
    and pairs with exactly 0.5 are equally good. So the largest number of pairs is
    also the one with the largest sum.

    Parameters
    ----------
    truth, labels : ndarray [Z, Y, X]
        Consecutive object numbers; 0 is background.

    Returns
    -------
    ndarray [pairs]
        float64: intersection over union of each pair, at least 0.5.
    """
    first, second, shared = _shared_voxels(truth, labels)
    sizes, other_sizes = (np.bincount(side.ravel()) for side in (truth, labels))
    overlap = shared / (sizes[first] + other_sizes[second] - shared)
    good = overlap >= MATCH_IOU
    first, second, overlap = first[good], second[good], overlap[good]
    graph = csr_array((overlap, (first, second)), shape=(len(sizes), len(other_sizes)))
    partner = maximum_bipartite_matching(graph, perm_type="column")
    matched: npt.NDArray[np.float64] = overlap[partner[first] == second]
    return matched


def dice(truth: Mask, mask: Mask) -> float:
    """Return the Dice similarity coefficient, NaN if both masks are empty."""
    total = int(truth.sum()) + int(mask.sum())
    return 2 * int((truth & mask).sum()) / total if total else float("nan")


def surface_dice(
    truth: Mask,
    mask: Mask,
    *,
    spacing: tuple[float, ...],
    tolerance: float = 2.0,
) -> float:
    """Return the normalised surface dice.

    Surface elements are those of marching cubes in 2 x 2 x 2 neighbourhoods, weighted
    with their area; the score is the share that lies within `tolerance` of the other
    surface (Nikolov et al. 2021, doi:10.2196/26151).

    Parameters
    ----------
    truth, mask : ndarray [Z, Y, X]
        bool.
    spacing : tuple of float
        Distance of neighbouring voxels per axis, in the unit of `tolerance`.
    tolerance : float

    Returns
    -------
    float
        0 to 1; 0 if one mask is empty, NaN if both are.
    """
    if not truth.any() or not mask.any():
        return 0.0 if truth.any() or mask.any() else float("nan")
    import torch
    from monai.metrics.surface_dice import compute_surface_dice

    window = find_objects((truth | mask).view(np.uint8))[0]
    with warnings.catch_warnings():
        # monai 1.5 and 1.6 call themselves with an argument they have deprecated.
        warnings.filterwarnings("ignore", ".*always_return_as_numpy", FutureWarning)
        score = compute_surface_dice(
            torch.tensor(mask[window])[None, None],
            torch.tensor(truth[window])[None, None],
            class_thresholds=[tolerance],
            spacing=list(spacing),
            use_subvoxels=True,
            include_background=True,
        )
    return float(score)


def _require_same_shape(truth: Labels, labels: Labels) -> None:
    if truth.shape != labels.shape:
        raise VolumeError(
            f"The truth has the shape {truth.shape} and the segmentation "
            f"{labels.shape}; they must be on the same grid."
        )


def _shared_voxels(truth: Labels, labels: Labels) -> tuple[Labels, Labels, Labels]:
    """Return the pairs of objects that meet and the number of voxels they share."""
    both = (truth > 0) & (labels > 0)
    base = int(labels.max()) + 1
    codes = truth[both].astype(np.int64) * base + labels[both]
    pairs, shared = np.unique(codes, return_counts=True)
    return pairs // base, pairs % base, shared


def _renumbered(labels: Labels) -> Labels:
    native = labels.astype(labels.dtype.newbyteorder("="), copy=False)
    consecutive, _ = fastremap.renumber(native)
    return consecutive.astype(np.int64)


def _ratio(hits: int, misses: int) -> float:
    return hits / (hits + misses) if hits + misses else 0.0


def _mean(values: Iterable[float]) -> float:
    """Return the mean of what is not NaN, or NaN."""
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")
