"""What a run found for each prompt, and the time it has left."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_biomedparse.pipeline.plan import spans

if TYPE_CHECKING:
    from napari_biomedparse.data.prompts import Prompt, PromptSet
    from napari_biomedparse.data.results import SegmentedSlices


@dataclass(frozen=True)
class Finding:
    """What a run found for one prompt."""

    prompt: Prompt
    slices: int  # number of slices with voxels of the prompt
    first: int | None  # the first of these slices, if there are any
    last: int | None
    best: float  # highest score, 0 to 1; NaN before the first slice, or without a table
    best_slice: int | None  # the slice with this probability
    voxels: int


def count_voxels(
    plane: npt.NDArray[np.integer[Any]], ids: tuple[int, ...]
) -> npt.NDArray[np.int64]:
    """Count the voxels of each label id, which ascend, in a plane [Y, X]."""
    return np.bincount(plane.ravel(), minlength=ids[-1] + 1)[list(ids)]


class Tally:
    """Counts what is found, slice by slice of `depth`, in any order."""

    def __init__(self, prompts: PromptSet, depth: int) -> None:
        self.prompts = prompts
        self.existence = np.full((len(prompts), depth), np.nan, np.float32)
        self.doubt = np.full_like(self.existence, np.nan)
        self._voxels = np.zeros((len(prompts), depth), np.int64)
        self._done = np.zeros(depth, bool)

    def add(self, part: SegmentedSlices) -> None:
        """Count finished slices, whose labels are prompt ids."""
        self.existence[:, part.start : part.stop] = part.existence
        self._done[part.start : part.stop] = True
        if part.doubt is not None:
            self.doubt[:, part.start : part.stop] = part.doubt
        planes = np.moveaxis(part.labels, part.axis - 3, 0)
        for at, plane in enumerate(planes, start=part.start):
            self._voxels[:, at] = count_voxels(plane, self.prompts.ids)

    @property
    def done(self) -> list[tuple[int, int]]:
        """Starts and stops of the slices that were counted."""
        return spans(np.flatnonzero(self._done).tolist())

    def findings(self) -> tuple[Finding, ...]:
        """Return what has been found so far, one entry per prompt."""
        return findings(self.prompts, self.existence, self._voxels)


def findings(
    prompts: PromptSet,
    existence: npt.NDArray[np.float32],
    voxels: npt.NDArray[np.int64],
) -> tuple[Finding, ...]:
    """Return what was found, one entry per prompt.

    `existence` [P, slices] are probabilities, NaN where not run; `voxels` [P, slices]
    their numbers.
    """
    found = []
    for prompt, scores, counts in zip(prompts.prompts, existence, voxels, strict=True):
        where, known = np.flatnonzero(counts), np.flatnonzero(np.isfinite(scores))
        best_slice = int(known[np.argmax(scores[known])]) if known.size else None
        found.append(
            Finding(
                prompt=prompt,
                slices=len(where),
                first=int(where[0]) if where.size else None,
                last=int(where[-1]) if where.size else None,
                best=math.nan if best_slice is None else float(scores[best_slice]),
                best_slice=best_slice,
                voxels=int(counts.sum()),
            )
        )
    return tuple(found)


def combine_findings(parts: Sequence[Sequence[Finding]]) -> tuple[Finding, ...]:
    """Combine the findings of several time points, for the same prompts.

    Slices and voxels are added up; the best slice is that of the time point with the
    highest probability.
    """
    return tuple(
        replace(
            max(same, key=lambda one: np.nan_to_num(one.best, nan=-1.0)),
            slices=sum(one.slices for one in same),
            first=min((f.first for f in same if f.first is not None), default=None),
            last=max((f.last for f in same if f.last is not None), default=None),
            voxels=sum(one.voxels for one in same),
        )
        for same in zip(*parts, strict=True)
    )


def truncation_warning(truncated: Sequence[str]) -> str:
    """Return a sentence about prompts that are longer than the network reads."""
    quoted = ", ".join(repr(text[:40] + "…") for text in truncated)
    return (
        f"The network reads only the first 77 tokens of a prompt; truncated: {quoted}. "
        "Put the most important words first."
    )


class TimeLeft:
    """Estimates the rest of a run from the pace of its slices.

    The time before the first slices is ignored: loading a model says nothing about
    the pace.
    """

    def __init__(self) -> None:
        self._first: tuple[int, float] | None = None

    def update(self, done: int, total: int, now: float) -> float | None:
        """Return the seconds left, or None while there is no pace yet.

        `done` and `total` are slices; `now` is in seconds, of any clock.
        """
        if self._first is None:
            self._first = (done, now)
        first_done, first_time = self._first
        if done <= first_done:
            return None
        return (now - first_time) / (done - first_done) * (total - done)


def count(number: int, noun: str) -> str:
    """Return a number of things, such as "1 slice" or "2 slices"."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def duration(seconds: float) -> str:
    """Format a duration, for example ``"2 min 05 s"``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
