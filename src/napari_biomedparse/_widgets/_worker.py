"""A run in a thread beside the GUI's: events in, an array filled, steps out.

Not napari's `thread_worker`: for as long as one works it turns every warning of the
whole process into a notification, and it hides errors that are a `RuntimeError`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject, Signal

from napari_biomedparse.errors import BiomedParseError
from napari_biomedparse.remote import Objects, Planned, Run, Status
from napari_biomedparse.report import Tally

if TYPE_CHECKING:
    import numpy.typing as npt

    from napari_biomedparse.prompts import PromptSet

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
    """

    axis: int
    start: int
    stop: int
    done: int


@dataclass(frozen=True)
class Failed:
    """What went wrong; the last step.

    Parameters
    ----------
    error : BiomedParseError
        Its message is meant for the user.
    """

    error: BiomedParseError


Step = Status | Planned | Changed | Failed


class Task:
    """One run that fills an array.

    Parameters
    ----------
    begin : callable
        Starts the run in the model process; may take a second.
    prompts : PromptSet
        What is looked for.
    labels : ndarray [Z, Y, X]
        Filled slice by slice.
    """

    def __init__(
        self,
        begin: Callable[[], Run],
        prompts: PromptSet,
        labels: npt.NDArray[Any],
    ) -> None:
        self.prompts = prompts
        self.labels = labels
        self.plan: Planned | None = None
        self.tally: Tally | None = None
        self.owners: npt.NDArray[Any] | None = None
        self._begin = begin
        self._cancelled = threading.Event()

    @property
    def cancelled(self) -> bool:
        """Whether the rest is not wanted any more."""
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """Stop soon, wherever the network is; from any thread."""
        self._cancelled.set()

    def steps(self) -> Iterator[Step]:
        """Follow the run to its end and yield what is new."""
        try:
            with closing(self._begin()) as run:
                yield from self._follow(run)
        except BiomedParseError as error:
            yield Failed(error)

    def _follow(self, run: Run) -> Iterator[Step]:
        done = 0
        while not self.cancelled:
            try:
                event = run.poll(POLL_SECONDS)
            except StopIteration:
                return
            if event is None:
                continue
            if isinstance(event, Status):
                yield event
            elif isinstance(event, Planned):
                self.plan = event
                self.tally = Tally(self.prompts, self.labels.shape[event.axis])
                yield event
            elif isinstance(event, Objects):
                stop = event.start + len(event.labels)
                self.labels[event.start : stop] = event.labels
                self.owners = event.owners
                yield Changed(0, event.start, stop, done)
            else:
                self.labels[event.where] = event.labels
                if self.tally is not None:
                    self.tally.add(event)
                done += event.stop - event.start
                yield Changed(event.axis, event.start, event.stop, done)


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
