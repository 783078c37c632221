"""Whether a mask looks like its target, and which of many masks to keep.

BiomedParse (Zhao et al., Nature Methods 22, 2025) compares four numbers of a mask with
those of the training data's masks; ARCHITECTURE of v1, sections 8 and 9.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from napari_biomedparse.errors import FormatError, OptionError

if TYPE_CHECKING:
    from torch import Tensor

Pairs: TypeAlias = Sequence[Sequence[float]]
"""Parameters of four Beta distributions."""
Table: TypeAlias = Mapping[str, Mapping[str, Pairs]]
"""Kind of image -> target -> how the statistics of its masks are distributed."""
SYNONYMS = {"abdominal": "abdomen", "heart": "cardiac", "lung": "chest", "mr": "mri"}
"""Words of prompts that stand for words of kinds of images."""
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
        known = [
            np.asarray(pairs, float)
            for targets in table.values()
            for pairs in targets.values()
        ]
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise FormatError(
            f"{place} is not a table of targets ({error}). Give a JSON file of kinds "
            "of images, their targets, and four pairs of numbers for each."
        ) from error
    fit = [one.shape == (4, 2) and 0 < one.min() <= one.max() < np.inf for one in known]
    if not fit or not all(fit):
        raise FormatError(
            f"{place} must have four pairs of positive numbers for each target."
        )
    checked: Table = table
    return checked


def mask_statistics(
    image: npt.NDArray[np.uint8] | Tensor,
    probability: npt.NDArray[np.floating[Any]] | Tensor,
) -> npt.NDArray[np.float64]:
    """Return the means of a mask's probability and of red, green and blue in it.

    Parameters
    ----------
    image : uint8 ndarray or Tensor [Y, X, 3]
    probability : ndarray or Tensor [Y, X]
        Of the mask, 0 to 1. Of tensors on a device, its pixels alone are copied.

    Returns
    -------
    float64 ndarray [4]
        From 0 to 1; zeros for an empty mask.
    """
    levels: Any = probability * 255
    inside = levels >= FOREGROUND
    level, colours = (
        part if isinstance(part, np.ndarray) else part.cpu().numpy()
        for part in (levels[inside], image[inside])
    )
    if not len(level):
        return np.zeros(4)
    return np.array([level.mean(dtype=np.float64), *colours.mean(axis=0)]) / 256


def p_value(statistics: npt.NDArray[np.float64], pairs: Pairs) -> float:
    """Return the geometric mean of four two-sided Kolmogorov-Smirnov p-values.

    Each compares one number with a Beta distribution: exactly 2 min(F, 1 - F), F the
    cumulative distribution there. Low values say that a mask does not look like its
    target; an empty mask has 0.
    """
    from scipy.stats import beta

    below = beta.cdf(statistics, *np.asarray(pairs, float).T)
    return float(np.prod(2 * np.minimum(below, 1 - below)) ** 0.25)


class Entry(NamedTuple):
    """What the masks of a prompt are compared with."""

    kind: str
    target: str
    pairs: Pairs


def find_entries(
    texts: Sequence[str], kind: str = "auto", path: str | None = None
) -> tuple[Entry | None, ...]:
    """Find the entry of each prompt in the authors' table, or in another by its path.

    A prompt is a target, or reads "TARGET in SITE MODALITY". If the kind of image is
    "auto", it is that whose words all occur after the "in". None stands for a prompt
    without an entry.

    Raises
    ------
    OptionError
        If the table does not have the kind; if no prompt names one of the kinds of a
        table that was given.
    FormatError
        If the file is not a table.
    """
    table, name = read_table(path), Path(path).name if path else "the authors' table"
    if not path:  # the authors ask for this kind, too, but have no table of it
        table = {**table, "CT-Liver": {}}
    kinds = [_kind_in(text, table) if kind == "auto" else kind for text in texts]
    if kind not in ("auto", *table):
        raise OptionError(
            f"Kind of image (kind) is {kind!r}, which {name} does not have; choose one "
            f"of {', '.join(table)}."
        )
    if path and not any(kinds):
        raise OptionError(
            f"No prompt names a kind of image of {name}, as in 'TARGET in SITE "
            f"MODALITY'; choose the kind (kind): {', '.join(table)}."
        )
    named = zip(texts, kinds, strict=True)
    return tuple(_entry_of(text, one, table.get(one, {})) for text, one in named)


def _entry_of(text: str, kind: str, targets: Mapping[str, Pairs]) -> Entry | None:
    said = {part.strip().casefold() for part in (text, text.rpartition(" in ")[0])}
    known = (Entry(kind, *one) for one in targets.items() if one[0].casefold() in said)
    return next(known, None)


def _kind_in(text: str, table: Table) -> str:
    """Return the kind of image that a prompt names, of several the most exact one."""
    _, found, place = text.rpartition(" in ")
    said = {SYNONYMS.get(word, word) for word in _words(place)} if found else set()
    named = [kind for kind in table if _words(kind) <= said]
    return max(named, key=lambda kind: len(_words(kind)), default="")


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.casefold()))


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
