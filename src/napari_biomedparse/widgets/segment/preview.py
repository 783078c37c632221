"""The preview of the slice in view, updated whenever something changes."""

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
"""Milliseconds without a change before a preview is requested."""


class PreviewTask(Task):
    """Segments one slice."""

    def __init__(self, begin: Callable[[], RunHandle]) -> None:
        super().__init__()
        self._begin = begin

    def _follow_all(self) -> Iterator[Step]:
        for event in self._events(self._begin):
            if isinstance(event, Status | Previewed):
                yield event


class LivePreview(QObject):
    """Requests one slice at a time; outdated results are not shown."""

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
        self._make_request = request
        self._slice_in_view = slice_in_view
        self._say = say
        self._on = self._held = self._stale = self._probabilities = False
        self._task: PreviewTask | None = None
        self._thread: TaskThread | None = None
        self._requested: Request | None = None
        self._began = 0.0
        self._pause = QTimer(self)
        self._pause.setSingleShot(True)
        self._pause.setInterval(PAUSE)
        self._pause.timeout.connect(self._ask)

    def switch(self, on: bool, *, probabilities: bool) -> None:
        """Turn the preview on or off, with or without probabilities."""
        self._on, self._probabilities = on, probabilities
        if on:
            self._pause.start(0)
        else:
            self._drop()
            self.layers.clear()

    def hold(self, held: bool) -> None:
        """Pause for a run, which clears the layers; or continue after it."""
        self._held = held
        if held:
            self._drop()

    def changed(self) -> None:
        """Update after a change of the slice, the prompts or the options."""
        if self._on and not self._held:
            if self._task is not None:
                self._task.cancel()
            self._pause.start()

    def close(self) -> None:
        """Stop for good; Qt may already have deleted the timer."""
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
        if self._task is not None:  # one at a time: the process works in order
            self._stale = True
            return
        try:
            request = self._make_request()
            request.hold()
        except BiomedParseError as error:
            self.layers.clear()
            self._say(f"No preview: {error}")
            return
        at, moment = self._slice_in_view(request)
        probabilities = self._probabilities
        options = request.options
        if request.separate:
            options = replace(options, overlaps="score")
        task = PreviewTask(
            lambda: self._session.start(
                PreviewRequest(
                    volume=request.volumes[moment],
                    prompts=request.prompts_by_label,
                    options=options,
                    model=request.model,
                    device=request.device,
                    index=at,
                    probabilities=probabilities,
                )
            )
        )
        self._requested, self._task, self._began = request, task, time.monotonic()
        self._thread = TaskThread(task)
        self._thread.stepped.connect(self._on_step)
        self._thread.finished.connect(self._on_finished)
        self._thread.start()

    def _on_step(self, step: object) -> None:
        task, request = self._task, self._requested
        if task is None or request is None or task.cancelled:
            return
        if isinstance(step, Status):
            self._say(step.text)
        elif isinstance(step, Failed):
            self._say(f"No preview: {step.error}")
        elif isinstance(step, Previewed):
            self.layers.show(request, step)
            took = time.monotonic() - self._began
            self._say(f"Preview of slice {step.slices.start} in {took:.1f} s.")

    def _on_finished(self) -> None:
        self._task = self._thread = None
        if self._stale:
            self._stale = False
            self._ask()
