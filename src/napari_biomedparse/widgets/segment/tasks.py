"""A run that fills an array in memory, followed from the window."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_biomedparse.data.results import SegmentedSlices
from napari_biomedparse.process import Objects, Planned, Run, Status, Voted
from napari_biomedparse.report.findings import Finding, Tally, combine_findings
from napari_biomedparse.widgets.shared.task import Changed, SegmentTask, Step

if TYPE_CHECKING:
    import numpy.typing as npt

    from napari_biomedparse.data.prompts import PromptSet
    from napari_biomedparse.process.handle import Event
    from napari_biomedparse.widgets.segment.written_labels import Select, WrittenLabels

Ranges = Sequence[tuple[int, int]]
"""Starts and stops of slices."""


@dataclass(frozen=True)
class Part:
    """One run in the model process, and the array it fills.

    Parameters
    ----------
    begin : callable
        Starts the run, told which slices need not be done again and which one is in
        view; may take a second.
    whole : WrittenLabels
        Filled slice by slice.
    select : callable
        Returns the view of the whole that it fills: [Z, Y, X] or, if prompts may
        overlap, [P, Z, Y, X].
    time : int, optional
        Which point of a time series it is.
    """

    begin: Callable[[Ranges, int | None], Run]
    whole: WrittenLabels
    select: Select
    time: int | None = None

    @property
    def labels(self) -> npt.NDArray[Any]:
        """What it fills."""
        return self.select(self.whole.labels)

    def write(
        self, where: Any, new: npt.NDArray[Any], *, over_painted: bool = False
    ) -> None:
        """Put new labels somewhere; see `WrittenLabels.write`."""
        self.whole.write(
            lambda labels: self.select(labels)[where], new, over_painted=over_painted
        )


class ArrayTask(SegmentTask):
    """One run that fills an array, or one for each point of a time series.

    Parameters
    ----------
    parts : sequence of Part
        Done one after the other.
    prompts : PromptSet
        What is looked for.
    before : ArrayTask, optional
        One that was stopped, on the same arrays: what it did is not done again.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        prompts: PromptSet,
        *,
        before: ArrayTask | None = None,
    ) -> None:
        super().__init__(prompts)
        self._parts = parts
        self._finished = 0
        self._tallies: list[Tally] = []
        self._done = 0
        self._counted: set[tuple[int, int]] = set()
        self._numbers: dict[int, int] = {}
        if before is not None:
            self._finished, self._tallies = before._finished, before._tallies
            self._numbers = before._numbers.copy()

    def number_of(self, at: int) -> int | None:
        """By which number the process knows a part's run, or None before it began."""
        return self._numbers.get(at)

    @property
    def can_resume(self) -> bool:
        """Whether a part of it was done, and the rest can be."""
        return bool(self._tallies) and self._finished < len(self._parts)

    @property
    def can_redo(self) -> bool:
        """Whether other thresholds can be applied to what was done."""
        return bool(self._tallies)

    @property
    def total(self) -> int:
        """Slices of all parts; 0 before the first one is planned."""
        return 0 if self.plan is None else self.plan.total * len(self._parts)

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

    def findings(self) -> tuple[Finding, ...]:
        """Return what was found so far, one entry a prompt; empty if nothing was."""
        return combine_findings([tally.findings() for tally in self._tallies])

    def _follow_all(self) -> Iterator[Step]:
        for at, part in enumerate(self._parts):
            if at >= self._finished and not self.cancelled:
                yield from self._follow(at, part)
                self._finished += not self.cancelled

    def _follow(self, at: int, part: Part) -> Iterator[Step]:
        """Do one part, or what is left of it."""
        for event in self._part_events(at, part):
            if isinstance(event, Status):
                yield event
            elif isinstance(event, Planned):
                if not event.kept:
                    depth = part.labels.shape[event.axis - 3]
                    self._tallies[at:] = [Tally(self.prompts, depth)]
                kept = sum(stop - start for start, stop in event.kept)
                self._done = self._finished * event.total + kept
                self._counted.clear()
                if self.plan is None:
                    self.plan = event
                    yield event
            elif isinstance(event, SegmentedSlices | Voted | Objects):
                yield self._take(event, at, part)

    def _part_events(self, at: int, part: Part) -> Iterator[Event]:
        """Begin one part, or what is left of it, and yield what its run tells."""
        done = self._tallies[at].done if at < len(self._tallies) else ()

        def begin() -> Run:
            run = part.begin(done, self.front)
            self._numbers[at] = run.number
            return run

        return self._events(begin)

    def _take(
        self, event: SegmentedSlices | Voted | Objects, at: int, part: Part
    ) -> Changed:
        """Put new labels where they belong."""
        if isinstance(event, Objects):
            stop = event.start + len(event.labels)
            # Objects are numbered anew: what was painted has no meaning any more.
            part.write(slice(event.start, stop), event.labels, over_painted=True)
            if part.time is None:  # a series is numbered anew at each time point
                self.owners = event.owners
            if part.labels.ndim == 4:  # by prompts, not by slices
                return Changed(0, 0, part.labels.shape[1], self._done, part.time)
            return Changed(0, event.start, stop, self._done, part.time)
        slices = event.slices if isinstance(event, Voted) else event
        here: Any = (..., *slices.where)
        part.write(here, slices.labels)
        if self.plan is not None and slices.axis == self.plan.axis:
            self._tallies[at].add(slices)
        where = (slices.axis, slices.start)
        if not isinstance(event, Voted) and where not in self._counted:
            self._counted.add(where)  # with other thresholds it may come again
            self._done += slices.stop - slices.start
        return Changed(slices.axis, slices.start, slices.stop, self._done, part.time)


class AgainTask(ArrayTask):
    """The finished slices of a task, with other thresholds, mostly without the network.

    Parameters
    ----------
    parts : sequence of Part
        Begin it.
    prompts : PromptSet
        What was looked for.
    before : ArrayTask
        What was done.
    """

    def __init__(
        self, parts: Sequence[Part], prompts: PromptSet, before: ArrayTask
    ) -> None:
        super().__init__(parts, prompts, before=before)
        done = [span for tally in self._tallies for span in tally.done]
        self._slices = sum(stop - start for start, stop in done)

    @property
    def total(self) -> int:
        """Slices that are done."""
        return self._slices

    def _follow_all(self) -> Iterator[Step]:
        for at, part in enumerate(self._parts[: len(self._tallies)]):
            self._counted.clear()
            for event in () if self.cancelled else self._part_events(at, part):
                if isinstance(event, Planned) and self.plan is None:
                    self.plan = event
                    yield event
                elif isinstance(event, Status):
                    yield event
                elif isinstance(event, SegmentedSlices | Objects):
                    yield self._take(event, at, part)
