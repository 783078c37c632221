"""The estimate of what a run will take."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import QObject, Signal

from napari_biomedparse.process.messages import Failed, Status
from napari_biomedparse.widgets.shared.task import Task, TaskThread

if TYPE_CHECKING:
    from napari_biomedparse.widgets.segment.run_view import RunView
    from napari_biomedparse.widgets.shared.task import Step


class Estimation(QObject):
    """Shows the model process's estimate of a run."""

    activity = "for an estimate"
    finished = Signal()

    def __init__(self, task: Task, view: RunView) -> None:
        super().__init__(view)
        self.task = task
        self._view = view
        self._thread = TaskThread(task, self._on_step, self._on_finished)
        self._last = ""

    def start(self) -> None:
        """Start it."""
        self._view.begin()
        self._view.show_activity(self.activity)
        self._thread.start()

    def cancel(self) -> None:
        """Stop."""
        self.task.cancel()

    def _on_step(self, step: Step) -> None:
        if isinstance(step, Status):
            self._last = step.text
            self._view.say(step.text)
        elif isinstance(step, Failed):
            self._last = ""
            self._view.problem.fail(str(step.error))

    def _on_finished(self) -> None:
        self._view.end("" if self.task.cancelled else self._last)
        self.finished.emit()
