"""A run in a thread beside the GUI's: events in, an array filled, steps out.

Not napari's `thread_worker`: for as long as one works it turns every warning of the
whole process into a notification, and it hides errors that are a `RuntimeError`.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QObject, Signal

from napari_biomedparse.errors import BiomedParseError
from napari_biomedparse.remote import (
    Found,
    Objects,
    Planned,
    Run,
    Status,
    Voted,
    Written,
)
from napari_biomedparse.report import Finding, Tally, findings, together
from napari_biomedparse.slices import SegmentedSlices

if TYPE_CHECKING:
    import numpy.typing as npt

    from napari_biomedparse.prompts import PromptSet
    from napari_biomedparse.remote.run import Event

POLL_SECONDS = 0.1
"""How often a run looks whether it was cancelled while nothing happens."""


@dataclass(frozen=True)
class Changed:
    """A part of the labels that is new.

    Parameters
    ----------
    axis, start, stop : int
        Where, in the volume.
    done : int
        Slices finished so far.
    time : int, optional
        At which point of a time series.
    """

    axis: int
    start: int
    stop: int
    done: int
    time: int | None = None


@dataclass(frozen=True)
class Failed:
    """What went wrong; the last step.

    Parameters
    ----------
    error : BiomedParseError
        Its message is meant for the user.
    """

    error: BiomedParseError


Step = Status | Planned | Changed | Written | Failed


@dataclass(frozen=True)
class Part:
    """One run in the model process, and the array it fills.

    Parameters
    ----------
    begin : callable
        Starts the run; may take a second.
    labels : ndarray [Z, Y, X]
        Filled slice by slice.
    time : int, optional
        Which point of a time series it is.
    """

    begin: Callable[[], Run]
    labels: npt.NDArray[Any]
    time: int | None = None


class Task(ABC):
    """Something that the model process does, and what is known of it.

    Parameters
    ----------
    prompts : PromptSet
        What is looked for.
    """

    def __init__(self, prompts: PromptSet) -> None:
        self.prompts = prompts
        self.plan: Planned | None = None
        self.owners: npt.NDArray[Any] | None = None
        self._cancelled = threading.Event()

    @property
    @abstractmethod
    def total(self) -> int:
        """Slices to be done; 0 before that is planned."""

    @property
    @abstractmethod
    def existence(self) -> npt.NDArray[np.float32] | None:
        """Existence probabilities [P, slices], of a series [P, T, slices]."""

    @abstractmethod
    def findings(self) -> tuple[Finding, ...]:
        """Return what was found so far, one entry a prompt; empty if nothing was."""

    @abstractmethod
    def _follow_all(self) -> Iterator[Step]:
        """Do it and yield what is new."""

    @property
    def cancelled(self) -> bool:
        """Whether the rest is not wanted any more."""
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """Stop soon, wherever the network is; from any thread."""
        self._cancelled.set()

    def steps(self) -> Iterator[Step]:
        """Do it to its end and yield what is new."""
        try:
            yield from self._follow_all()
        except BiomedParseError as error:
            yield Failed(error)

    def _events(self, begin: Callable[[], Run]) -> Iterator[Event]:
        """Yield what a run tells, until its end or until this is cancelled."""
        with closing(begin()) as run:
            while not self.cancelled:
                try:
                    event = run.poll(POLL_SECONDS)
                except StopIteration:
                    return
                if event is not None:
                    yield event


class ArrayTask(Task):
    """One run that fills an array, or one for each point of a time series.

    Parameters
    ----------
    parts : sequence of Part
        Done one after the other.
    prompts : PromptSet
        What is looked for.
    """

    def __init__(self, parts: Sequence[Part], prompts: PromptSet) -> None:
        super().__init__(prompts)
        self._parts = parts
        self._tallies: list[Tally] = []
        self._done = 0

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
        return together([tally.findings() for tally in self._tallies])

    def _follow_all(self) -> Iterator[Step]:
        for part in self._parts:
            for event in () if self.cancelled else self._events(part.begin):
                if isinstance(event, Status):
                    yield event
                elif isinstance(event, Planned):
                    depth = part.labels.shape[event.axis]
                    self._tallies.append(Tally(self.prompts, depth))
                    if self.plan is None:
                        self.plan = event
                        yield event
                elif isinstance(event, SegmentedSlices | Voted | Objects):
                    yield self._take(event, part)

    def _take(self, event: SegmentedSlices | Voted | Objects, part: Part) -> Changed:
        """Put new labels where they belong."""
        if isinstance(event, Objects):
            stop = event.start + len(event.labels)
            part.labels[event.start : stop] = event.labels
            if part.time is None:  # a series is numbered anew at each time point
                self.owners = event.owners
            return Changed(0, event.start, stop, self._done, part.time)
        slices = event.slices if isinstance(event, Voted) else event
        part.labels[slices.where] = slices.labels
        if self.plan is not None and slices.axis == self.plan.axis:
            self._tallies[-1].add(slices)
        if not isinstance(event, Voted):
            self._done += slices.stop - slices.start
        return Changed(slices.axis, slices.start, slices.stop, self._done, part.time)


class FolderTask(Task):
    """One run whose labels are written to a folder.

    Parameters
    ----------
    begin : callable
        Starts the run; may take a second.
    prompts : PromptSet
        What is looked for.
    """

    def __init__(self, begin: Callable[[], Run], prompts: PromptSet) -> None:
        super().__init__(prompts)
        self._begin = begin
        self._found: Found | None = None

    @property
    def total(self) -> int:
        """Slices of the run; 0 before it is planned."""
        return 0 if self.plan is None else self.plan.total

    @property
    def existence(self) -> npt.NDArray[np.float32] | None:
        """Existence probabilities, once all is done."""
        return None if self._found is None else self._found.existence

    def findings(self) -> tuple[Finding, ...]:
        """Return what was found, one entry a prompt; empty before the end."""
        if self._found is None:
            return ()
        scores, voxels = self._found.existence, self._found.voxels
        if scores.ndim == 2:
            return findings(self.prompts, scores, voxels)
        times = range(scores.shape[1])
        parts = [findings(self.prompts, scores[:, t], voxels[:, t]) for t in times]
        return together(parts)

    def _follow_all(self) -> Iterator[Step]:
        for event in self._events(self._begin):
            if isinstance(event, Planned):
                self.plan = event
            if isinstance(event, Found):
                self._found = event
            if isinstance(event, Status | Planned | Written):
                yield event


class TaskThread(QObject):
    """Follows a task in a thread and tells the GUI's thread what is new.

    Parameters
    ----------
    task : Task
    """

    stepped = Signal(object)
    finished = Signal()

    def __init__(self, task: Task) -> None:
        super().__init__()
        self._task = task
        self._thread = threading.Thread(
            target=self._work, name="biomedparse-run", daemon=True
        )

    def start(self) -> None:
        """Start; `finished` comes after the last `stepped`."""
        self._thread.start()

    def join(self, timeout: float) -> None:
        """Wait for the end, without the GUI being told."""
        self._thread.join(timeout)

    def _work(self) -> None:
        try:
            for step in self._task.steps():
                self.stepped.emit(step)
        finally:
            self.finished.emit()
