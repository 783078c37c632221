"""Results: finished slices as a run yields them, and the whole. Free of torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt
    import pandas as pd

    from napari_biomedparse.data.prompts import PromptSet

Kind = Literal["volume", "series", "consensus"]
"""What a request gives a result of."""
Span = tuple[int, int]
"""A range of slices: the first, and the one after the last."""
READ_AS = "read_as"
"""Parameter of a run that says in which mode slices were read."""
P_VALUES = "p_values"
"""Parameter of runs of BiomedParse v1: what each prompt's masks are compared with."""
NO_TABLE = "no table for this target"


def score_of(parameters: Mapping[str, Any]) -> tuple[str, str]:
    """Return what a run's scores are called, and the option that is their threshold."""
    if P_VALUES in parameters:
        return "p", "p_threshold"
    return "existence", "existence_threshold"


def score_text(score: float, name: str, digits: int = 2) -> str:
    """Return a score as text; p has three digits at least."""
    if score != score:
        return NO_TABLE if name == "p" else "-"
    return f"{score:.{max(3, digits) if name == 'p' else digits}f}"


@dataclass(frozen=True)
class SegmentedSlices:
    """Finished slices, in the volume's own grid.

    Parameters
    ----------
    start, stop : int
        Range along the slicing axis.
    axis : int
        The slicing axis.
    labels : unsigned ndarray
        The volume's shape (three axes, also for a single image) but for the slicing
        axis, which is ``stop - start`` long; 0 is background, other values are label
        ids. Where overlapping prompts have separate labels, these are the first of
        four axes, [P, Z, Y, X].
    existence : float32 ndarray [P, stop - start]
        Probability that a prompt's target occurs in a slice; of BiomedParse v1, p.
    edges : ndarray like `labels`, optional
        Label ids at predicted object boundaries.
    doubt : float32 ndarray [P, stop - start], optional
        Share of the slice's area, 0 to 1, that is expected to be wrong for a prompt by
        its own probabilities.
    """

    start: int
    stop: int
    axis: int
    labels: npt.NDArray[Any]
    existence: npt.NDArray[np.float32]
    edges: npt.NDArray[Any] | None = None
    doubt: npt.NDArray[np.float32] | None = None

    @property
    def where(self) -> tuple[slice, ...]:
        """Index of these slices in the volume, its last three axes."""
        return tuple(
            slice(self.start, self.stop) if i == self.axis else slice(None)
            for i in range(3)
        )


@dataclass(frozen=True)
class Owners:
    """Which prompt each separate object belongs to, by the object's number.

    Labels, uint16 [N + 1], are the ids of their prompts; 0 if unknown. Scores, float32
    [N + 1], are the highest existence probability of that prompt in a slice of the
    object; NaN if unknown.
    """

    labels: npt.NDArray[np.uint16]
    scores: npt.NDArray[np.float32]

    def names(self, texts: Mapping[int, str]) -> dict[int, str]:
        """Return the prompt of each object, of prompts by label id."""
        owners = enumerate(self.labels.tolist())
        return {number: texts[i] for number, i in owners if number and i in texts}

    def add_to(self, table: pd.DataFrame) -> None:
        """Add label and score to a table of objects, behind their prompts."""
        known = np.minimum(table["id"], len(self.labels)) % len(self.labels)
        at = 1 + table.columns.get_loc("prompt")
        table.insert(at, "label", self.labels[known])
        table.insert(at + 1, "score", self.scores[known])

    def describe(self) -> dict[str, list[Any]]:
        """Return plain JSON types, the background left out."""
        scores = [None if x != x else round(x, 4) for x in self.scores[1:].tolist()]
        return {"labels": self.labels[1:].tolist(), "scores": scores}

    @classmethod
    def parse(cls, described: Any) -> Owners | None:
        """Read what `describe` returned; None if it is something else."""
        try:
            labels = np.array([0, *described["labels"]])
            scores = np.array([np.nan, *described["scores"]], np.float32)
            fits = labels.ndim == 1 and labels.shape == scores.shape
            if labels.dtype.kind != "i" or not fits:
                return None
            if not 0 <= labels.min() <= labels.max() < 2**16:
                return None
        except (KeyError, OverflowError, TypeError, ValueError):
            return None
        return cls(labels.astype(np.uint16), scores)

    @classmethod
    def common(cls, parts: Sequence[Owners]) -> Owners | None:
        """Keep what is true at all time points, each of which numbers objects anew."""
        if len(parts) < 2:
            return parts[0] if parts else None
        count = max(len(part.labels) for part in parts)
        lowest, highest = np.full(count, 2**16 - 1, np.uint16), np.zeros(count, "u2")
        for part in parts:
            here = slice(len(part.labels))
            lowest[here] = np.minimum(lowest[here], part.labels)
            highest[here] = np.maximum(highest[here], part.labels)
        return cls(
            np.where(lowest == highest, highest, 0), np.full(count, np.nan, "f4")
        )


@dataclass(frozen=True)
class Segmentation:
    """Result of a request: one volume, a time series, or a consensus.

    Parameters
    ----------
    labels : array, the volume's shape without colours
        0 is background, other values are label ids. A numpy array for a volume in
        memory, else a dask array over a Zarr store on disk. Of a series the first
        axis is time; where overlapping prompts have separate labels, it is these.
    existence : float32 ndarray [P, slices]
        Probability that a prompt's target occurs in a slice; NaN where not run. Of a
        series [P, T, slices]; of a consensus [P, 3, slices], a row for each axis in
        the volume's order, with NaN beyond the end of a shorter one. Of BiomedParse
        v1, see `p_values`.
    parameters : dict
        Everything that the labels depend on, as plain JSON types.
    instances : int32 ndarray like `labels`, optional
        0 is background, every object has a number of its own; those of a series are
        numbered anew at each time point.
    owners : Owners, optional
        The prompt of each object; of a series, those that are the same at all time
        points.
    """

    labels: Any
    existence: npt.NDArray[np.float32]
    prompts: PromptSet
    parameters: Mapping[str, Any]
    instances: npt.NDArray[np.int32] | None = None
    owners: Owners | None = None

    @property
    def ids(self) -> tuple[int, ...]:
        """Label id of each prompt."""
        return self.prompts.ids

    @property
    def p_values(self) -> npt.NDArray[np.float32] | None:
        """How well masks of BiomedParse v1 look like their targets, as `existence`.

        NaN where the table does not have the target. None of other networks.
        """
        return self.existence if P_VALUES in self.parameters else None
