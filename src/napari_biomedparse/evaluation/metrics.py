"""Scores of a segmentation against the truth, as the challenge computed them.

Section 5 of the reference description has the rules. Some are surprising, but kept:
published numbers were made with them. Distances need monai (the extra ``evaluate``),
which is imported when first used.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

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
_MATCH_COLUMNS = ("truth", "truth_voxels", "prediction", "prediction_voxels", "iou")


class ClassScore(NamedTuple):
    """Dice and normalized surface Dice of one class, 0 to 1; NaN without voxels."""

    dsc: float = math.nan
    nsd: float = math.nan


@dataclass(frozen=True)
class InstanceScore:
    """Counts of matched, surplus and missed objects, and the Dice of the matches.

    `dsc_matched` is the mean over the matched pairs, 0 if there is none.
    """

    true_positives: int
    false_positives: int
    false_negatives: int
    dsc_matched: float
    overlaps: tuple[float, ...] = ()  # intersection over union of each matched pair

    def average_precision(self, threshold: float = MATCH_IOU) -> float:
        """Share of right objects among all, predicted or true, at a threshold.

        As in the Data Science Bowl 2018, TP / (TP + FP + FN); 0 without objects.
        """
        hits = sum(overlap >= threshold for overlap in self.overlaps)
        misses = self.false_positives + self.false_negatives
        return _ratio(hits, misses + 2 * (self.true_positives - hits))

    @property
    def precision(self) -> float:
        """Share of the predicted objects that are right; 0 without predictions."""
        return _ratio(self.true_positives, self.false_positives)

    @property
    def recall(self) -> float:
        """Share of the true objects that were predicted; 0 without objects."""
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
) -> dict[int, ClassScore]:
    """Score labels class by class; return the scores by label id.

    The classes are the values of `truth` except the lowest, which is taken as the
    background. Where every voxel of `truth` has a class, the lowest class is therefore
    ignored; so are classes that occur in `labels` alone, and those that are not among
    `ids`, if given.

    Takes integers [Z, Y, X], and the distance between neighboring voxels per axis, in
    the unit of the tolerance, up to which surfaces agree. Raises a `VolumeError` if the
    shapes differ.
    """
    _require_same_shape(truth, labels)
    counted = None if ids is None else set(ids)
    scores = {}
    for value in np.unique(truth)[1:].tolist():
        if counted is not None and value not in counted:
            continue
        masks = truth == value, labels == value
        nsd = surface_dice(*masks, spacing=spacing, tolerance=tolerance)
        scores[value] = ClassScore(dice(*masks), nsd)
    return scores


def evaluate_mask(truth: Mask, mask: Mask) -> dict[str, float]:
    """Return IoU and Dice of masks of an image, 0 if both are empty, and their pixels.

    Those of BiomedParse v1 (its ARCHITECTURE, section 10), as float32 for equal ties.
    """
    shared, union = int((truth & mask).sum()), int((truth | mask).sum())
    return {
        "iou": float(np.float32(shared) / np.float32(union + 1e-6)),
        "dice": float(np.float32(2 * shared) / np.float32(shared + union + 1e-6)),
        "intersection": shared,
        "union": union,
        "predicted": int(mask.sum()),
    }


def evaluate_instances(truth: Labels, labels: Labels) -> InstanceScore:
    """Score objects.

    Face-connected voxels of equal value are the objects of `truth`. The objects of
    `labels` are its values, unless there are exactly two different ones: then they are
    components as well. If `labels` is empty, all counts are 0. As many objects as
    possible are matched with an intersection over union of at least 0.5.

    Takes integers [Z, Y, X], 0 for background; raises a `VolumeError` if the shapes
    differ.
    """
    _require_same_shape(truth, labels)
    if not labels.any():
        return InstanceScore(0, 0, 0, 0.0)
    objects, found = _objects(truth, labels)
    *_, overlaps = match_objects(objects, found)
    matched = len(overlaps)
    return InstanceScore(
        matched,
        int(found.max()) - matched,
        int(objects.max()) - matched,
        float(np.mean(2 * overlaps / (1 + overlaps))) if matched else 0.0,
        tuple(overlaps.tolist()),
    )


def _objects(truth: Labels, labels: Labels) -> tuple[Labels, Labels]:
    """Return the object number of each voxel, in the truth and in the labels."""
    objects: Labels = label_components(truth)
    if len(np.unique(labels)) == 2:
        return objects, label_components(labels)
    native = labels.astype(labels.dtype.newbyteorder("="), copy=False)
    consecutive, _ = fastremap.renumber(native)
    return objects, consecutive.astype(np.int64)


def match_rows(truth: Labels, labels: Labels) -> list[dict[str, Any]]:
    """Return a row for each object of `evaluate_instances`: its label and partner.

    An object without a partner has no label on the other side, and an `iou` of 0.
    """
    objects, found = _objects(truth, labels)
    matches = (side.tolist() for side in match_objects(objects, found))
    pairs = list(zip(*matches, strict=True))
    of_truth, of_labels = _labels_of(objects, truth), _labels_of(found, labels)
    matched, taken = {i for i, _, _ in pairs}, {j for _, j, _ in pairs}
    pairs += [(i, 0, 0.0) for i in of_truth if i and i not in matched]
    pairs += [(0, j, 0.0) for j in of_labels if j and j not in taken]
    rows = ((*of_truth[i], *of_labels[j], overlap) for i, j, overlap in pairs)
    return [dict(zip(_MATCH_COLUMNS, row, strict=True)) for row in rows]


def _labels_of(objects: Labels, labels: Labels) -> dict[int, tuple[Any, Any]]:
    """Return label and voxels of each object by its number; of 0, empty ones."""
    numbers, at, sizes = np.unique(objects, return_index=True, return_counts=True)
    known = zip(labels.ravel()[at].tolist(), sizes.tolist(), strict=True)
    return {**dict(zip(numbers.tolist(), known, strict=True)), 0: ("", "")}


def match_objects(
    truth: Labels, labels: Labels
) -> tuple[Labels, Labels, npt.NDArray[np.float64]]:
    """Pair objects one to one.

    Above an intersection over union of 0.5 an object has one possible partner only,
    and pairs with exactly 0.5 are equally good. So the largest number of pairs is
    also the one with the largest sum.

    Takes consecutive object numbers, 0 for background; returns those of each pair and
    its intersection over union, at least 0.5.
    """
    both = (truth > 0) & (labels > 0)
    base = int(labels.max()) + 1
    codes = truth[both].astype(np.int64) * base + labels[both]
    codes, shared = np.unique(codes, return_counts=True)
    first, second = np.divmod(codes, base)
    sizes, other_sizes = (np.bincount(side.ravel()) for side in (truth, labels))
    overlap = shared / (sizes[first] + other_sizes[second] - shared)
    good = overlap >= MATCH_IOU
    first, second, overlap = first[good], second[good], overlap[good]
    graph = csr_array((overlap, (first, second)), shape=(len(sizes), len(other_sizes)))
    partner = maximum_bipartite_matching(graph, perm_type="column")
    matched = partner[first] == second
    return first[matched], second[matched], overlap[matched]


def dice(truth: Mask, mask: Mask) -> float:
    """Return the Dice similarity coefficient, NaN if both masks are empty."""
    total = int(truth.sum()) + int(mask.sum())
    return 2 * int((truth & mask).sum()) / total if total else float("nan")


def surface_dice(
    truth: Mask, mask: Mask, *, spacing: tuple[float, ...], tolerance: float = 2.0
) -> float:
    """Return the normalized surface Dice, 0 to 1.

    It is 0 if one mask is empty, NaN if both are. Surface elements are those of
    marching cubes in 2 x 2 x 2 neighborhoods, weighted by their area; the score is the
    share that lies within `tolerance`, in the unit of `spacing`, of the other surface
    (Nikolov et al. 2021, doi:10.2196/26151). Masks are [Z, Y, X].
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


def _ratio(hits: int, misses: int) -> float:
    return hits / (hits + misses) if hits + misses else 0.0
