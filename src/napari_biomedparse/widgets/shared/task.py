"""Follows a run in a thread beside the GUI's: its events in, steps out.

Not napari's `thread_worker`: while one works, it turns every warning of the whole
process into a notification, and it hides errors that are a `RuntimeError`.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QObject, Signal

from napari_biomedparse.errors import BiomedParseError
from napari_biomedparse.process.messages import Failed

if TYPE_CHECKING:
    import numpy.typing as npt

    from napari_biomedparse.data.options import SegmentOptions
    from napari_biomedparse.data.prompts import PromptSet
    from napari_biomedparse.data.results import Owners
    from napari_biomedparse.process import RunHandle
    from napari_biomedparse.process.messages import Event, Planned
    from napari_biomedparse.report.findings import Finding


@dataclass(frozen=True)
class Changed:
    """Labels changed in a range of slices."""

    axis: int
    start: int
    stop: int
    done: int
    """Number of finished slices."""
    time: int | None = None
    """Time point of a series."""


if TYPE_CHECKING:
    Step = Event | Changed | Failed


class Task:
    """What the model process does for a widget, followed until its end.

    `begin`, which may take a second, starts the run whose events are the steps; a
    subclass may follow several runs instead.
    """

    def __init__(self, begin: Callable[[], RunHandle] | None = None) -> None:
        self._begin = begin
        self._run: RunHandle | None = None
        self._cancelled = threading.Event()

    def _follow_all(self) -> Iterator[Step]:
        """Do it and yield what is new."""
        assert self._begin is not None
        return self._events(self._begin)

    @property
    def cancelled(self) -> bool:
        """Whether the rest is no longer wanted."""
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

    def _events(self, begin: Callable[[], RunHandle]) -> Iterator[Event]:
        """Yield a run's events until its end or until this is cancelled."""
        with closing(begin()) as run:
            self._run = run
            for event in run.polled():
                if event is not None:
                    yield event
                if self.cancelled:
                    return


class SegmentTask(Task, ABC):
    """A run, and what is known of it."""

    def __init__(
        self, prompts: PromptSet, begin: Callable[[], RunHandle] | None = None
    ) -> None:
        super().__init__(begin)
        self.prompts = prompts
        self.plan: Planned | None = None
        self.runs = 1
        """Number of runs in the model process that it consists of."""
        self.owners: Owners | None = None
        self.front: int | None = None

    @property
    def total(self) -> int:
        """Number of slices of all runs; 0 before the first one is planned."""
        return 0 if self.plan is None else self.plan.total * self.runs

    @property
    @abstractmethod
    def existence(self) -> npt.NDArray[np.float32] | None:
        """Existence probabilities [P, slices], of a series [P, T, slices]."""

    @abstractmethod
    def findings(self) -> tuple[Finding, ...]:
        """Return the results so far, one entry for each prompt, or nothing yet."""

    @property
    def instance_counts(self) -> dict[int, int] | None:
        """Number of objects by label id, once they are separated."""
        if self.owners is None:
            return None
        owners = self.owners.labels[1:]
        numbers = np.bincount(owners, minlength=self.prompts.ids[-1] + 1)
        return {label: int(numbers[label]) for label in self.prompts.ids}

    @property
    @abstractmethod
    def can_resume(self) -> bool:
        """Whether a part of it was finished, and the rest can be."""

    def commit(self) -> None:
        """Conclude in the GUI's thread, after the end."""

    def retune(self, options: SegmentOptions) -> None:
        """Apply other thresholds to finished slices and to those to come."""
        if (run := self._run) is not None:
            run.retune(options)

    def look_at(self, at: int) -> None:
        """Have the slices nearest to one processed first; from any thread."""
        self.front = at
        if (run := self._run) is not None:
            run.look_at(at)


class TaskThread(QObject):
    """Follows a task in a thread and emits its steps in the GUI's thread."""

    stepped = Signal(object)
    finished = Signal()

    def __init__(
        self,
        task: Task,
        on_step: Callable[[Any], None],
        on_finished: Callable[[], None],
    ) -> None:
        super().__init__()
        self._task = task
        self.stepped.connect(on_step)
        self.finished.connect(on_finished)
        self._thread = threading.Thread(
            target=self._work, name="biomedparse-run", daemon=True
        )

    def start(self) -> None:
        """Start; `finished` comes after the last `stepped`."""
        self._thread.start()

    def _work(self) -> None:
        try:
            for step in self._task.steps():
                self.stepped.emit(step)
        finally:
            self.finished.emit()
