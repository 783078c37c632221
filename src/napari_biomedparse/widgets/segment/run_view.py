"""Run, Cancel, progress and results: the lower part of the Segment widget."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from napari.utils import progress
from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QAction
from qtpy.QtWidgets import (
    QApplication,
    QCheckBox,
    QHBoxLayout,
    QLabel,
    QMenu,
    QProgressBar,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from napari_biomedparse.report.findings import duration
from napari_biomedparse.widgets.segment.doctor import Doctor
from napari_biomedparse.widgets.segment.existence_plot import ExistencePlot
from napari_biomedparse.widgets.segment.queue import RunQueue
from napari_biomedparse.widgets.shared.keys import RUN, tell_key

if TYPE_CHECKING:
    from qtpy.QtGui import QMovie

COMMAND, PYTHON = "a command", "Python"
SPINNER_SPEED = 5
"""Per cent of napari's own speed while a run lasts. Each picture of the spinner has the
whole window composed anew, 33 times a second: without a graphics card, that takes a
third of a processor core away from the network."""
SHORTEST_PAUSE = 0.1
"""Seconds between two pictures of the progress, at least."""
PAUSE_FACTOR = 4
"""Pauses are so many times longer than what they follow: napari has the whole window
drawn for each step of its progress, which takes longer than a slice of a small
network."""


class RunView(QWidget):
    """Asks for a run, or for its end, and shows how it goes and what it found."""

    run_requested = Signal()
    cancel_requested = Signal()
    resume_requested = Signal()
    copy_requested = Signal(str)
    estimate_requested = Signal()
    preview_switched = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.run_button = QPushButton("Run")
        self.cancel_button = QPushButton("Cancel")
        self.cancel_button.setToolTip("Stop; finished slices are kept.")
        self.resume_button = QPushButton("Resume")
        self.resume_button.setToolTip("Go on where the last run was stopped.")
        self.copy_button = QPushButton("Copy")
        self.copy_button.setToolTip(
            "Copy this run as a command line or as Python: it gives the same labels."
        )
        self.estimate_button = QPushButton("Estimate")
        self.estimate_button.setToolTip(
            "Try a few slices, and tell what the run will take: time, memory, disk."
        )
        menu = QMenu(self.copy_button)
        for language in (COMMAND, PYTHON):
            action = QAction(f"Copy as {language}", menu)
            action.triggered.connect(
                lambda *_, language=language: self.copy_requested.emit(language)
            )
            menu.addAction(action)
        self.copy_button.setMenu(menu)
        self.preview_box = QCheckBox("Preview")
        self.preview_box.setToolTip(
            "Segment the slice in view at once, and again when you go to another one "
            "or change the prompts."
        )
        self.probability_box = QCheckBox("with probabilities")
        self.probability_box.setToolTip(
            "Show, too, how probable each pixel is to belong to any of the prompts."
        )
        self.probability_box.setEnabled(False)
        self.queue = RunQueue()
        self.plot = ExistencePlot()
        self.bar = QProgressBar()
        self.bar.setFormat("%v of %m slices")
        self.status = _text()
        self.doctor = Doctor()
        self._activity: progress | None = None
        self._told_next = 0.0
        buttons = QHBoxLayout()
        buttons.addWidget(self.run_button, 2)
        buttons.addWidget(self.cancel_button, 1)
        buttons.addWidget(self.resume_button, 1)
        buttons.addWidget(self.estimate_button, 1)
        buttons.addWidget(self.copy_button, 1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        previews = QHBoxLayout()
        previews.addWidget(self.preview_box)
        previews.addWidget(self.probability_box)
        previews.addStretch(1)
        layout.addLayout(previews)
        layout.addLayout(buttons)
        layout.addWidget(self.queue)
        layout.addWidget(self.bar)
        layout.addWidget(self.status)
        layout.addWidget(self.plot)
        layout.addWidget(self.doctor)
        layout.addStretch(1)
        self.run_button.clicked.connect(self.run_requested)
        self.cancel_button.clicked.connect(self.cancel_requested)
        self.resume_button.clicked.connect(self.resume_requested)
        self.estimate_button.clicked.connect(self.estimate_requested)
        self.preview_box.toggled.connect(self.probability_box.setEnabled)
        for box in (self.preview_box, self.probability_box):
            box.toggled.connect(self.preview_switched)
        self.plot.hide()
        self.set_running(False)

    def set_running(self, running: bool, *, can_resume: bool = False) -> None:
        """Offer what can be done now.

        Parameters
        ----------
        running : bool
            Whether there is something to cancel, and another run would have to wait.
        can_resume : bool
            Whether the last run can go on.
        """
        self.run_button.setText("Queue" if running else "Run")
        self.run_button.setToolTip(
            "Segment this, too, when the run in progress is over."
            if running
            else "Segment; the labels appear slice by slice, from the one in view on."
        )
        tell_key(self.run_button, RUN)
        self.estimate_button.setEnabled(not running)
        self.cancel_button.setEnabled(running)
        self.cancel_button.setVisible(not can_resume)
        self.resume_button.setVisible(can_resume)
        self.bar.setVisible(running)

    def begin(self) -> None:
        """Show that a run starts; how long it is comes later."""
        self.bar.setRange(0, 0)
        self.bar.setValue(0)  # while hidden: else the whole window is drawn at once
        self.doctor.show_causes(())
        self.set_running(True)
        self._told_next = 0.0

    def show_activity(self, name: str) -> None:
        """Show the run in napari's activity dock, too, which takes a moment."""
        if self._activity is None:
            self._activity = progress(desc=f"Segmenting {name}")
            _set_spinners(SPINNER_SPEED)
            if self.bar.maximum():
                self._activity.reset(self.bar.maximum())

    def say(self, text: str) -> None:
        """Show one line of status."""
        self.status.setText(text)

    def set_total(self, total: int) -> None:
        """Learn the number of slices."""
        self.bar.setRange(0, total)
        if self._activity is not None:
            self._activity.reset(total)

    def set_done(self, done: int, seconds_left: float | None) -> None:
        """Show how many slices are finished, and how long the rest takes.

        Not each time, where slices come faster than a window is drawn.
        """
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
        """Show that the run is over, how it ended, and whether it can go on."""
        if self._activity is not None:
            self._activity.close()
            self._activity = None
            _set_spinners(100)
        self.set_running(False, can_resume=can_resume)
        self.say(text)


def _set_spinners(speed: int) -> None:
    """Set the speed, in per cent, of every animated picture beside a text."""
    for movie in _spinners():
        movie.setSpeed(speed)


def _spinners() -> Iterator[QMovie]:
    for window in QApplication.topLevelWidgets():
        for label in window.findChildren(QLabel):
            if (movie := label.movie()) is not None:
                yield movie


def _text() -> QLabel:
    label = QLabel()
    label.setAlignment(Qt.AlignmentFlag.AlignTop | Qt.AlignmentFlag.AlignLeft)
    label.setWordWrap(True)
    label.setTextFormat(Qt.TextFormat.AutoText)
    return label
