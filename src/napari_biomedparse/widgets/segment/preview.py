"""The slice in view, segmented at once and again whenever something changes."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from qtpy.QtCore import QObject, QTimer

from napari_biomedparse.errors import BiomedParseError
from napari_biomedparse.process.messages import (
    Failed,
    Previewed,
    PreviewRequest,
    Status,
)
from napari_biomedparse.widgets.segment.preview_layers import PreviewLayers
from napari_biomedparse.widgets.shared.task import Task, TaskThread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from napari import Viewer

    from napari_biomedparse.process import RunHandle, Session
    from napari_biomedparse.widgets.segment.request import Request
    from napari_biomedparse.widgets.shared.task import Step

PAUSE = 300
"""Milliseconds without a change before a preview is asked for."""


class PreviewTask(Task):
    """One slice.

    Parameters
    ----------
    begin : callable
        Has the model process segment it.
    """

    def __init__(self, begin: Callable[[], RunHandle]) -> None:
        super().__init__()
        self._begin = begin

    def _follow_all(self) -> Iterator[Step]:
        for event in self._events(self._begin):
            if isinstance(event, Status | Previewed):
                yield event


class Preview(QObject):
    """Asks for one slice at a time; what is not wanted any more is not shown.

    Parameters
    ----------
    viewer : napari.Viewer
    session : Session
        The model process.
    request : callable
        Returns what the form asks for, or raises a BiomedParseError.
    slice_in_view : callable
        Returns which slice and which time point of a request are in view.
    say : callable
        Tells the user how it goes.
    parent : QObject
        Nothing is asked for any more once it is gone.
    """

    def __init__(
        self,
        viewer: Viewer,
        session: Session,
        request: Callable[[], Request],
        slice_in_view: Callable[[Request], tuple[int, int]],
        say: Callable[[str], None],
        parent: QObject,
    ) -> None:
        super().__init__(parent)
        self.layers = PreviewLayers(viewer)
        self._session = session
        self._request = request
        self._slice_in_view = slice_in_view
        self._say = say
        self._on = self._held = self._stale = self._probabilities = False
        self._task: PreviewTask | None = None
        self._thread: TaskThread | None = None
        self._asked: Request | None = None
        self._began = 0.0
        self._pause = QTimer(self)
        self._pause.setSingleShot(True)
        self._pause.setInterval(PAUSE)
        self._pause.timeout.connect(self._ask)

    def switch(self, on: bool, *, probabilities: bool) -> None:
        """Begin or end; say whether probabilities are to be shown, too."""
        self._on, self._probabilities = on, probabilities
        if on:
            self._pause.start(0)
        else:
            self._drop()
            self.layers.clear()

    def hold(self, held: bool) -> None:
        """Make way for a run, which has to clear the layers; or come back later."""
        self._held = held
        if held:
            self._drop()

    def changed(self) -> None:
        """Take note that another slice, or other prompts, are wanted."""
        if self._on and not self._held:
            if self._task is not None:
                self._task.cancel()
            self._pause.start()

    def close(self) -> None:
        """End for good; Qt may have deleted the timer before."""
        self._on = False
        self._cancel()
        self.layers.disconnect_viewer()

    def _drop(self) -> None:
        self._pause.stop()
        self._cancel()

    def _cancel(self) -> None:
        self._stale = False
        if self._task is not None:
            self._task.cancel()

    def _ask(self) -> None:
        if self._task is not None:  # one at a time: the process does them in order
            self._stale = True
            return
        try:
            asked = self._request()
            asked.hold()
        except BiomedParseError as error:
            self.layers.clear()
            self._say(f"No preview: {error}")
            return
        at, moment = self._slice_in_view(asked)
        probabilities = self._probabilities
        options = replace(asked.options, overlaps="score") if asked.separate else None
        task = PreviewTask(
            lambda: self._session.start(
                PreviewRequest(
                    volume=asked.volumes[moment],
                    prompts=asked.prompts_by_label,
                    options=options or asked.options,
                    model=asked.model,
                    device=asked.device,
                    index=at,
                    probabilities=probabilities,
                )
            )
        )
        self._asked, self._task, self._began = asked, task, time.monotonic()
        self._thread = TaskThread(task)
        self._thread.stepped.connect(self._on_step)
        self._thread.finished.connect(self._on_finished)
        self._thread.start()

    def _on_step(self, step: object) -> None:
        task, asked = self._task, self._asked
        if task is None or asked is None or task.cancelled:
            return
        if isinstance(step, Status):
            self._say(step.text)
        elif isinstance(step, Failed):
            self._say(f"No preview: {step.error}")
        elif isinstance(step, Previewed):
            self.layers.show(asked, step)
            took = time.monotonic() - self._began
            self._say(f"Preview of slice {step.slices.start} in {took:.1f} s.")

    def _on_finished(self) -> None:
        self._task = self._thread = None
        if self._stale:
            self._stale = False
            self._ask()
