"""The lower part of the Segment widget: buttons, progress and results."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from html import escape
from typing import TYPE_CHECKING

from napari.utils import progress
from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QApplication,
    QCheckBox,
    QLabel,
    QMenu,
    QProgressBar,
    QSizePolicy,
    QToolButton,
    QWidget,
)
from superqt import QElidingLabel

from napari_biomedparse.report.findings import duration
from napari_biomedparse.widgets.segment.doctor import Doctor
from napari_biomedparse.widgets.segment.existence_plot import ExistencePlot
from napari_biomedparse.widgets.segment.recognition import Outcomes
from napari_biomedparse.widgets.shared.form import Problem, tell_key
from napari_biomedparse.widgets.shared.parts import button, column, plain_text, row

if TYPE_CHECKING:
    from qtpy.QtGui import QMovie

    from napari_biomedparse.widgets.segment.request import Request

RUN_KEY = "Ctrl+Return"
COMMAND, PYTHON = "a command", "Python"
SPINNER_SPEED = 5
"""Percentage of napari's own speed during a run. Each frame of the spinner repaints the
whole window, 33 times per second: without a graphics card, that takes a third of a
processor core away from the network."""
SHORTEST_PAUSE = 0.1
"""Minimum number of seconds between two updates of the progress."""
PAUSE_FACTOR = 4
"""How many times longer pauses are than an update: napari repaints the whole window for
each step of its progress, which takes longer than a slice of a small network."""


class RunQueue(QWidget):
    """The requests that wait, in order; hidden while there are none."""

    def __init__(self) -> None:
        super().__init__()
        self._waiting: deque[tuple[Request, QWidget]] = deque()
        self._layout = column(self)
        self._layout.setSpacing(0)
        self.setAccessibleName("Queued runs")
        self.hide()

    def __len__(self) -> int:
        """Return the number of requests."""
        return len(self._waiting)

    def add(self, request: Request) -> None:
        """Append a request."""
        entry = self._entry(request)
        self._waiting.append((request, entry))
        self._layout.addWidget(entry)
        self.show()

    def take(self) -> Request:
        """Remove and return the request that has waited longest."""
        request, entry = self._waiting[0]
        self._remove(entry)
        return request

    def _entry(self, request: Request) -> QWidget:
        entry = QWidget()
        title = f"{request.image.name}: {', '.join(request.prompts.texts)}"
        text = QElidingLabel(f"Queued: {title}")
        text.setTextFormat(Qt.TextFormat.PlainText)
        text.setElideMode(Qt.TextElideMode.ElideMiddle)
        text.setToolTip(f"<p>{escape(text.text())}</p>")  # as HTML, which is wrapped
        remove = QToolButton()
        remove.setText("✕")
        remove.setToolTip("Remove this run from the queue.")
        remove.setAccessibleName(f"Remove queued run {title}")
        remove.clicked.connect(lambda: self._remove(entry))
        column(entry, row((text, 1), remove))
        return entry

    def _remove(self, entry: QWidget) -> None:
        self._waiting = deque(one for one in self._waiting if one[1] is not entry)
        self._layout.removeWidget(entry)
        entry.deleteLater()
        self.setVisible(bool(self._waiting))


class RunView(QWidget):
    """The buttons of a run, its progress and its results."""

    def __init__(self) -> None:
        super().__init__()
        self.run_button = button("Run", "")
        self.cancel_button = button("Cancel", "Stop the run. Finished slices are kept.")
        self.resume_button = button("Resume", "Continue the run that was stopped.")
        self.copy_button = button(
            "Copy",
            "Copy this run as a command or as Python code that gives the same labels.",
        )
        self.estimate_button = button(
            "Estimate",
            "Try a few slices to estimate the time, memory and disk space of the run.",
        )
        self.save_button = button(
            "Save…", "Save the labels of the last run.", enabled=False
        )
        self.copy_menu = QMenu(self.copy_button)
        for language in (COMMAND, PYTHON):
            action = self.copy_menu.addAction(f"Copy as {language}")
            assert action is not None
            action.setData(language)
        self.copy_button.setMenu(self.copy_menu)
        self.preview_box = QCheckBox("Preview")
        self.preview_box.setToolTip(
            "Segment the slice in view, and update it when you move to another slice "
            "or change the prompts."
        )
        self.probability_box = QCheckBox("with probabilities")
        self.probability_box.setToolTip(
            "Also show the probability that each pixel belongs to any of the prompts."
        )
        self.probability_box.setEnabled(False)
        self.preview_box.toggled.connect(self.probability_box.setEnabled)
        self.queue = RunQueue()
        self.plot = ExistencePlot()
        self.plot.hide()
        self.bar = QProgressBar()
        self.status = plain_text()
        self.problem = Problem()
        self.doctor = Doctor()
        self.outcomes = Outcomes()
        self._activity: progress | None = None
        self._told_next = 0.0
        self._ending = self._other = ""
        self._what = "slice"
        self.results = QWidget()
        column(self.results, (self.plot, 1), self.outcomes, self.doctor, 0)
        column(
            self,
            (self.results, 1),
            0,  # the buttons stay at the bottom, whatever is above
            self.queue,
            self.bar,
            self.problem,
            self.status,
            row(self.preview_box, self.probability_box, 1),
            row(
                (self.run_button, 2),
                (self.cancel_button, 1),
                (self.resume_button, 1),
                (self.estimate_button, 1),
                (self.copy_button, 1),
                (self.save_button, 1),
            ),
        )
        # Else napari adds a stretch below, that grows with the docks it has opened.
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Expanding)
        self.set_running(False)

    def set_running(self, running: bool, *, can_resume: bool = False) -> None:
        """Enable what can be done now."""
        self.run_button.setText("Queue" if running else "Run")
        self.run_button.setToolTip(
            "Start this run when the current one has finished."
            if running
            else "Segment. Labels appear slice by slice, starting with the one in view."
        )
        tell_key(self.run_button, RUN_KEY)
        self.estimate_button.setEnabled(not running)
        self.cancel_button.setEnabled(running)
        self.cancel_button.setVisible(not can_resume)
        self.resume_button.setVisible(can_resume)
        self.bar.setVisible(running)

    def begin(self) -> None:
        """Show that a run starts; its number of slices comes later."""
        self.bar.setRange(0, 0)
        self.bar.setValue(0)  # while hidden: else the whole window is repainted
        self.doctor.show_causes(())
        self.problem.tell("")
        self.set_running(True)
        self._told_next = 0.0

    def show_activity(self, name: str) -> None:
        """Show the run in napari's activity dock, which takes a moment."""
        if self._activity is None:
            self._activity = progress(desc=f"Segmenting {name}")
            _set_spinners(SPINNER_SPEED)
            if self.bar.maximum():
                self._activity.reset(self.bar.maximum())

    def say(self, text: str) -> None:
        """Show a status message."""
        self.status.setText(text)

    def show_results_of(self, other: str) -> None:
        """Show the results, or only say that they are those of another image."""
        self._other = other
        self.results.setVisible(not other)
        self._name_bar()
        if not self.cancel_button.isEnabled():  # no run says how far it is
            self._say_ending()

    def _name_bar(self) -> None:
        of = f" of {self._other}" if self._other else ""
        self.bar.setFormat(f"%v of %m {self._what}s{of}")

    def set_total(self, total: int, what: str = "slice") -> None:
        """Set the number of slices, or of what else is counted."""
        self._what = what
        self._name_bar()
        self.bar.setRange(0, total)
        if self._activity is not None:
            self._activity.reset(total)

    def set_done(self, done: int, seconds_left: float | None) -> None:
        """Show the progress, unless slices come faster than a window is repainted."""
        began = time.monotonic()
        if began < self._told_next and done < self.bar.maximum():
            return
        self.bar.setValue(done)
        if seconds_left is not None:
            self.say(f"About {duration(seconds_left)} left")
        if self._activity is not None:
            self._activity.update(done - self._activity.n)
        ended = time.monotonic()
        pause = max(SHORTEST_PAUSE, PAUSE_FACTOR * (ended - began))
        self._told_next = ended + pause

    def end(self, text: str, *, can_resume: bool = False) -> None:
        """Show how the run ended, and whether it can be resumed."""
        if self._activity is not None:
            self._activity.close()
            self._activity = None
            _set_spinners(100)
        self.set_running(False, can_resume=can_resume)
        self._ending = text
        self._say_ending()

    def _say_ending(self) -> None:
        other = f"Results of {self._other} are hidden; choose it under Image."
        self.say(other if self._other else self._ending)


def _set_spinners(speed: int) -> None:
    """Set the speed, in percent, of the animations in all labels."""
    for movie in _spinners():
        movie.setSpeed(speed)


def _spinners() -> Iterator[QMovie]:
    for window in QApplication.topLevelWidgets():
        for label in window.findChildren(QLabel):
            if (movie := label.movie()) is not None:
                yield movie
