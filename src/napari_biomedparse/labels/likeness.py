"""Whether a mask looks like its target, and which of many masks to keep.

BiomedParse (Zhao et al., Nature Methods 22, 2025) compares four numbers of a mask with
those of the training data's masks; ARCHITECTURE of v1, sections 8 and 9.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from napari_biomedparse.errors import FormatError, OptionError

Table: TypeAlias = Mapping[str, Mapping[str, Sequence[Sequence[float]]]]
"""Kind of image -> target -> four pairs of parameters of Beta distributions."""
FOREGROUND = 128.0
"""A probability times 255 from which a pixel counts for the statistics."""
POSSIBLE, LIKELY, SHARED = 0.1, 0.5, 0.5
"""Probabilities of a pixel, and shares of a mask's pixels (section 9)."""


def read_table(path: str | os.PathLike[str] | None = None) -> Table:
    """Read the authors' table of targets, or another of the same form from a file.

    Raises `FormatError` if the file is not such a table.
    """
    own = files("napari_biomedparse") / "_data" / "target_dist.json"
    place = Path(path) if path else own
    try:
        table = json.loads(place.read_text(encoding="utf-8"))
        shapes = {
            np.asarray(pairs, float).shape
            for targets in table.values()
            for pairs in targets.values()
        }
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise FormatError(
            f"{place} is not a table of targets ({error}). Give a JSON file of kinds "
            "of images, their targets, and four pairs of numbers for each."
        ) from error
    if shapes != {(4, 2)}:
        raise FormatError(f"{place} must have four pairs of numbers for each target.")
    checked: Table = table
    return checked


def mask_statistics(
    image: npt.NDArray[np.uint8], probability: npt.NDArray[np.floating[Any]]
) -> npt.NDArray[np.float64]:
    """Return the means of a mask's probability and of red, green and blue in it.

    Parameters
    ----------
    image : uint8 ndarray [Y, X, 3]
    probability : ndarray [Y, X]
        Of the mask, 0 to 1.

    Returns
    -------
    float64 ndarray [4]
        From 0 to 1; zeros for an empty mask.
    """
    levels = probability * 255
    inside = levels >= FOREGROUND
    if not inside.any():
        return np.zeros(4)
    colours = image[inside].mean(axis=0)
    return np.array([levels[inside].mean(dtype=np.float64), *colours]) / 256


def p_value(
    statistics: npt.NDArray[np.float64], pairs: Sequence[Sequence[float]]
) -> float:
    """Return the geometric mean of four two-sided Kolmogorov-Smirnov p-values.

    Each compares one number with a Beta distribution: exactly 2 min(F, 1 - F), F the
    cumulative distribution there. Low values say that a mask does not look like its
    target; an empty mask has 0.
    """
    from scipy.stats import beta

    below = beta.cdf(statistics, *np.asarray(pairs, float).T)
    return float(np.prod(2 * np.minimum(below, 1 - below)) ** 0.25)


def pairs_of(table: Table, kind: str, target: str) -> Sequence[Sequence[float]]:
    """Look up a target; `OptionError` lists what the table knows."""
    if kind not in table:
        raise OptionError(
            f"There is no kind of image {kind!r} in the table; it has "
            f"{', '.join(table)}."
        )
    if target not in table[kind]:
        raise OptionError(
            f"There is no target {target!r} of {kind} in the table; it has "
            f"{', '.join(table[kind])}."
        )
    return table[kind][target]


def drop_covered(
    probabilities: npt.NDArray[np.floating[Any]], p_values: Sequence[float]
) -> list[int]:
    """Return which of the masks [n, Y, X] are not mostly covered by better ones.

    They are visited by descending p-value, the first of equal ones first, and returned
    in that order. Empty masks are left out.
    """
    masks = probabilities > LIKELY
    kept: list[int] = []
    for index in sorted(range(len(masks)), key=lambda i: -p_values[i]):
        own = masks[index]
        covered = max((int((own & masks[k]).sum()) for k in kept), default=0)
        if own.any() and covered <= SHARED * own.sum():
            kept.append(index)
    return kept


def combine_masks(
    probabilities: npt.NDArray[np.floating[Any]], threshold: float = LIKELY
) -> tuple[list[int], npt.NDArray[np.bool_]]:
    """Make overlapping masks disjoint, and discard those that others outvote.

    Every pixel with some probability above 0.1 votes for its most probable mask, the
    first of equal ones. A mask with fewer votes than half of its pixels above 0.1 is
    discarded, except the one of the highest mean probability there. Each pixel then
    belongs to the most probable mask above a threshold of those that are kept.

    Parameters
    ----------
    probabilities : ndarray [n, Y, X]
        0 to 1, of any number of masks.
    threshold : float
        Probability, 0 to 1.

    Returns
    -------
    kept : list of int
        Which masks are kept, in their order.
    masks : bool ndarray [k, Y, X]
        Disjoint; some may be empty.
    """
    if not len(probabilities):
        return [], np.zeros(probabilities.shape, bool)
    possible = probabilities > POSSIBLE
    area = possible.sum(axis=(1, 2))
    sums = np.where(possible, probabilities, 0).sum(axis=(1, 2), dtype=np.float64)
    confidence = sums / np.maximum(area, 1)
    winner = np.where(possible.any(axis=0), probabilities.argmax(axis=0), -1)
    votes = np.array([(winner == i).sum() for i in range(len(area))])
    stays = votes >= SHARED * area
    stays[confidence.argmax()] = True
    kept = [int(i) for i in np.flatnonzero(stays)]
    best = probabilities[kept]
    first = best.argmax(axis=0)
    masks = (np.arange(len(kept))[:, None, None] == first) & (best > threshold)
    return kept, masks
