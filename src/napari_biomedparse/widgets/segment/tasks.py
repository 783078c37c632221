"""Runs that are followed from the window: one fills an array, one writes a folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_biomedparse.data.results import Owners, SegmentedSlices
from napari_biomedparse.process.messages import (
    Counted,
    FolderResult,
    Instances,
    Planned,
    Recognized,
    Status,
    Voted,
)
from napari_biomedparse.report.findings import (
    Finding,
    Tally,
    combine_findings,
    findings,
)
from napari_biomedparse.widgets.shared.task import Changed, SegmentTask

if TYPE_CHECKING:
    import numpy.typing as npt

    from napari_biomedparse.data.prompts import PromptSet
    from napari_biomedparse.data.results import Span
    from napari_biomedparse.process import RunHandle
    from napari_biomedparse.widgets.segment.written_labels import Window, WrittenLabels
    from napari_biomedparse.widgets.shared.task import Step


@dataclass(frozen=True)
class ArrayPart:
    """One run in the model process, and the array it fills."""

    begin: Callable[[tuple[Span, ...], int | None], RunHandle]
    """Starts the run, given the finished slices and the one in view."""
    whole: WrittenLabels
    window: Window
    """The part of the labels [T, Z, Y, X] or, if prompts may overlap, [T, P, Z, Y, X]
    that it fills: one time point."""
    time: int | None = None
    """Time point of a series."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of what it fills, without time."""
        return self.whole.labels[self.window].shape[1:]

    def write(self, where: tuple[slice, ...], new: npt.NDArray[Any]) -> None:
        """Write new labels somewhere along the axes of space."""
        pairs = zip(self.window[-3:], self.whole.labels.shape[-3:], strict=True)
        every = (range(*axis.indices(size)) for axis, size in pairs)
        inside = [axis[inner] for axis, inner in zip(every, where, strict=True)]
        spans = (slice(axis.start, axis.stop) for axis in inside)
        self.whole.write((*self.window[:-3], *spans), new)


class ArrayTask(SegmentTask):
    """One run that fills an array, or one for each time point of a series.

    `before` is one that was stopped, on the same arrays: its slices are not done again.
    `begin` is called first, in the thread of the run, if the labels are shown already.
    """

    def __init__(
        self,
        parts: Sequence[ArrayPart],
        prompts: PromptSet,
        *,
        before: ArrayTask | None = None,
        begin: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(prompts)
        self._parts, self._first, self.runs = parts, begin, len(parts)
        self._objects: npt.NDArray[np.int32] | None = None
        self._finished = 0
        self._tallies: list[Tally] = []
        self._done = 0
        self._counted: set[tuple[int, int]] = set()
        self._numbers: dict[int, int] = {}
        if before is not None:
            self._finished, self._tallies = before._finished, before._tallies
            self._numbers, self.front = before._numbers.copy(), before.front

    def number_of(self, at: int) -> int | None:
        """Return the number of a part's run, or None before it began."""
        return self._numbers.get(at)

    @property
    def can_resume(self) -> bool:
        """Whether a part of it was finished, and the rest can be."""
        return bool(self._tallies) and self._finished < len(self._parts)

    @property
    def can_redo(self) -> bool:
        """Whether other thresholds can be applied to finished slices."""
        return bool(self._tallies)

    @property
    def existence(self) -> npt.NDArray[np.float32] | None:
        """Existence probabilities [P, slices], of a series [P, T, slices]."""
        if not self._tallies:
            return None
        if self._parts[0].time is None:
            return self._tallies[0].existence
        unknown = np.full_like(self._tallies[0].existence, np.nan)
        rest = [unknown] * (len(self._parts) - len(self._tallies))
        return np.stack([*(tally.existence for tally in self._tallies), *rest], axis=1)

    @property
    def doubt(self) -> npt.NDArray[np.float32] | None:
        """Expected share of wrong voxels [P, slices]; None of a series."""
        only = len(self._parts) == len(self._tallies) == 1
        return self._tallies[0].doubt if only else None

    def commit(self) -> None:
        """Have napari undo it in one step."""
        self._parts[0].whole.commit()

    def findings(self) -> tuple[Finding, ...]:
        """Return the results so far, one entry for each prompt, or nothing yet."""
        return combine_findings([tally.findings() for tally in self._tallies])

    def _follow_all(self) -> Iterator[Step]:
        if self._first is not None:
            self._first()
        try:
            yield from self._follow_parts()
        finally:
            self._parts[0].whole.end()

    def _follow_parts(self) -> Iterator[Step]:
        for at, part in enumerate(self._parts):
            if at >= self._finished and not self.cancelled:
                yield from self._follow(at, part)
                self._finished += not self.cancelled

    def _follow(self, at: int, part: ArrayPart) -> Iterator[Step]:
        """Do one part, or what is left of it."""
        done = tuple(self._tallies[at].done) if at < len(self._tallies) else ()

        def begin() -> RunHandle:
            run = part.begin(done, self.front)
            self._numbers[at] = run.number
            return run

        self._counted.clear()
        for event in self._events(begin):
            if isinstance(event, Status | Counted | Recognized):
                yield event
            elif isinstance(event, Planned):
                self._begin_part(event, at, part)
                if self.plan is None:
                    self.plan = event
                    yield event
            elif isinstance(event, Instances):
                yield from self._take_objects(event, part)
            elif isinstance(event, SegmentedSlices | Voted):
                yield self._take(event, at, part)

    def _begin_part(self, plan: Planned, at: int, part: ArrayPart) -> None:
        """Count what is done already."""
        if not plan.kept:
            depth = part.shape[plan.axis - 3]
            self._tallies[at:] = [Tally(self.prompts, depth)]
        kept = sum(stop - start for start, stop in plan.kept)
        self._done = self._finished * plan.total + kept

    def _take_objects(self, event: Instances, part: ArrayPart) -> Iterator[Changed]:
        """Write objects once all of them are here."""
        if self._objects is None or event.start == 0:
            self._objects = np.empty(part.shape, np.int32)
        stop = event.start + len(event.labels)
        self._objects[event.start : stop] = event.labels
        if stop < len(self._objects):
            return
        owners = part.whole.write_objects(
            part.window, self._objects, event.owners, self.prompts.ids, event.scores
        )
        self._objects = None
        if part.time is None:  # a series has other objects at each time point
            self.owners = Owners(owners, part.whole.scores)
        yield Changed(0, 0, part.shape[-3], self._done, part.time)

    def _take(
        self, event: SegmentedSlices | Voted, at: int, part: ArrayPart
    ) -> Changed:
        """Write new labels where they belong."""
        slices = event.slices if isinstance(event, Voted) else event
        part.write(slices.where, slices.labels)
        if self.plan is not None and slices.axis == self.plan.axis:
            self._tallies[at].add(slices)
        where = (slices.axis, slices.start)
        if not isinstance(event, Voted) and where not in self._counted:
            self._counted.add(where)  # with other thresholds it may come again
            self._done += slices.stop - slices.start
        return Changed(slices.axis, slices.start, slices.stop, self._done, part.time)


class AgainTask(ArrayTask):
    """Finished slices of a task, with other thresholds, mostly without the network."""

    def __init__(
        self,
        parts: Sequence[ArrayPart],
        prompts: PromptSet,
        before: ArrayTask,
        begin: Callable[[], None],
    ) -> None:
        super().__init__(parts, prompts, before=before, begin=begin)
        done = [span for tally in self._tallies for span in tally.done]
        self._slices = sum(stop - start for start, stop in done)

    @property
    def total(self) -> int:
        """Number of finished slices."""
        return self._slices

    def _follow_parts(self) -> Iterator[Step]:
        for at, part in enumerate(self._parts[: len(self._tallies)]):
            if not self.cancelled:
                yield from self._follow(at, part)

    def _begin_part(self, plan: Planned, at: int, part: ArrayPart) -> None:
        """Keep what is done: it comes again."""


class FolderTask(SegmentTask):
    """One run whose labels are written to a folder; `begin` may take a second."""

    def __init__(self, begin: Callable[[], RunHandle], prompts: PromptSet) -> None:
        super().__init__(prompts, begin)
        self._result: FolderResult | None = None

    @property
    def existence(self) -> npt.NDArray[np.float32] | None:
        """Existence probabilities, once all slices are finished."""
        return None if self._result is None else self._result.existence

    @property
    def can_resume(self) -> bool:
        """Whether it has begun: the folder records how far it is."""
        return self.plan is not None and self._result is None

    def findings(self) -> tuple[Finding, ...]:
        """Return the results, one entry for each prompt; nothing before the end."""
        if self._result is None:
            return ()
        scores, voxels = self._result.existence, self._result.voxels
        if scores.ndim == 2:
            return findings(self.prompts, scores, voxels)
        times = range(scores.shape[1])
        parts = [findings(self.prompts, scores[:, t], voxels[:, t]) for t in times]
        return combine_findings(parts)

    def _follow_all(self) -> Iterator[Step]:
        for event in super()._follow_all():
            if isinstance(event, Planned):
                self.plan = event
            elif isinstance(event, FolderResult):
                self._result = event
            yield event
