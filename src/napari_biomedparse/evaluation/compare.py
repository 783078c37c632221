"""Two label images of the same voxels: how well they agree, label by label."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from napari_biomedparse.errors import VolumeError
from napari_biomedparse.evaluation.metrics import (
    Labels,
    dice,
    evaluate_instances,
    surface_dice,
)
from napari_biomedparse.evaluation.scores import ClassLine, object_scores
from napari_biomedparse.labels.instances import label_components


def compare_labels(
    truth: Labels,
    labels: Labels,
    *,
    texts: Mapping[int, str] | None = None,
    spacing: tuple[float, ...] = (1.0, 1.0, 1.0),
    tolerance: float = 2.0,
    objects: bool = False,
) -> tuple[ClassLine, ...]:
    """Score labels against other labels that are taken as the truth.

    Unlike in the evaluation of the challenge, every label of either image counts, and
    0 is always the background.

    Parameters
    ----------
    truth, labels : integer ndarray [Z, Y, X]
    texts : mapping of int to str, optional
        Prompt of each label; those of labels in neither image are ignored.
    spacing : tuple of float
        Voxel size along each axis.
    tolerance : float
        Distance up to which surfaces agree, in the unit of `spacing`.
    objects : bool
        Whether label values are objects of one kind, which are matched by overlap.

    Returns
    -------
    tuple of ClassLine
        One per label, with Dice, surface Dice (NaN without monai), and counts and F1
        of its connected components; or one for all objects, with Dice and surface Dice
        of all together.

    Raises
    ------
    VolumeError
        If the shapes differ.
    """
    if truth.shape != labels.shape:
        raise VolumeError(
            f"Labels of shape {tuple(labels.shape)} cannot be compared with labels of "
            f"shape {tuple(truth.shape)}; they must lie on the same voxels."
        )
    if objects:
        return (_line(0, "all objects", truth, labels, spacing, tolerance),)
    found = set(np.unique(truth).tolist()) | set(np.unique(labels).tolist())
    named = texts or {}
    return tuple(
        _line(
            label,
            named.get(label, ""),
            label_components(np.asarray(truth == label, np.uint8)),
            label_components(np.asarray(labels == label, np.uint8)),
            spacing,
            tolerance,
        )
        for label in sorted(found - {0})
    )


def _line(
    label: int,
    text: str,
    truth: Labels,
    labels: Labels,
    spacing: tuple[float, ...],
    tolerance: float,
) -> ClassLine:
    """Score the objects of a class, and their voxels."""
    score = evaluate_instances(truth, labels)
    masks = truth > 0, labels > 0
    if not masks[1].any():  # the challenge counts nothing then
        missed = int(label_components(truth).max(initial=0))
        score = replace(score, false_negatives=missed)
    try:
        nsd = surface_dice(*masks, spacing=spacing, tolerance=tolerance)
    except ImportError:  # of monai
        nsd = math.nan
    return ClassLine(label, text, dsc=dice(*masks), nsd=nsd, **object_scores(score))
