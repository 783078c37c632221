"""What happens in the viewer between Run and the last slice."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.utils.notifications import show_error, show_warning
from qtpy.QtCore import QObject, QTimer, Signal

from napari_biomedparse.process.messages import Failed, Planned, Status, Written
from napari_biomedparse.report.findings import TimeLeft, duration, truncation_warning
from napari_biomedparse.viewer.layers import METADATA_KEY
from napari_biomedparse.widgets.segment.folder_layers import FolderLayers
from napari_biomedparse.widgets.segment.live_labels import LiveLabels
from napari_biomedparse.widgets.segment.score_plot import ScorePlot
from napari_biomedparse.widgets.shared.task import (
    Changed,
    SegmentTask,
    Step,
    TaskThread,
)

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Labels

    from napari_biomedparse.widgets.segment.request import Request
    from napari_biomedparse.widgets.segment.run_view import RunView
    from napari_biomedparse.widgets.shared.eye import Eye
LATE = 500
"""Milliseconds until a run appears in napari's activity dock, which has the whole
window drawn twice: the first labels go before it."""


class LiveRun(QObject):
    """Carries what a task does into its Labels layer and the widget.

    Parameters
    ----------
    viewer : napari.Viewer
    shown : callable, or FolderLayers
        Makes or returns the layers of the array that the task fills, one or one a
        prompt, once the task has begun: napari takes longer for a new layer than a
        small network for a slice. Or what makes the layers of the folder that it
        writes.
    task : SegmentTask
    view : RunView
        Also the parent: nothing is shown any more once it is gone.
    eye : Eye
        Slices next to where it looks are done first.
    asked : Request
        What the task does.
    """

    finished = Signal()
    found = Signal(object, object)
    """What was found, an entry a prompt, and the number of objects by label id."""

    def __init__(
        self,
        viewer: Viewer,
        shown: Callable[[], Sequence[Labels]] | FolderLayers,
        task: SegmentTask,
        view: RunView,
        eye: Eye,
        asked: Request,
    ) -> None:
        super().__init__(view)
        self.task = task
        self.asked = asked
        self.layers: tuple[Labels, ...] = ()
        self._viewer = viewer
        self._view = view
        self._shown = shown
        self._folder = shown if isinstance(shown, FolderLayers) else None
        self._news: deque[Callable[[], None]] = deque()
        self._ready = False
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.setInterval(0)
        self._soon.timeout.connect(self._catch_up)
        self._late = QTimer(self)
        self._late.setSingleShot(True)
        self._late.setInterval(LATE)
        self._late.timeout.connect(self._on_late)
        self.destroyed.connect(lambda *_, news=self._news: news.clear())
        self._live: list[LiveLabels] = []
        self._eye = eye
        self._flat = asked.volumes[0].flat
        self._scores = ScorePlot(
            view.plot, eye, task, flat=self._flat, why_fixed=asked.why_fixed
        )
        self._thread = TaskThread(task)
        self._began = time.monotonic()
        self._time_left = TimeLeft()
        self._done = self._total = 0
        self._failed = self._over = False
        self._thread.stepped.connect(self._on_step)
        self._thread.finished.connect(self._on_finished)

    def start(self) -> None:
        """Start the task, and then show what it fills."""
        self._thread.start()
        self._eye.moved.connect(self._on_eye_moved)
        try:
            self._view.begin()
            if not isinstance(self._shown, FolderLayers):
                self._show(*self._shown())
        except BaseException:
            self.task.cancel()
            raise
        finally:
            self._ready = True
            self._catch_up()
        self._late.start()

    def cancel(self) -> None:
        """Stop; what is done stays."""
        self.task.cancel()
        self._view.say("Cancelling…")

    def retune(self, asked: Request) -> None:
        """Apply other thresholds to what is done and what comes."""
        self.asked = asked
        self.task.retune(asked.options)

    def release(self) -> None:
        """Leave the widget to another run."""
        self._scores.release()

    @property
    def can_resume(self) -> bool:
        """Whether it was stopped, and can go on."""
        return self.is_shown and self.task.can_resume

    @property
    def is_shown(self) -> bool:
        """Whether the viewer still has a layer of it."""
        return any(layer in self._viewer.layers for layer in self.layers)

    def _show(self, *layers: Labels) -> None:
        """Keep layers up to date, and stop when they are deleted."""
        self.layers = layers
        for layer in layers:
            live = LiveLabels(self._viewer, layer, flat=self._flat)
            live.removed.connect(self._on_layer_removed)
            self._live.append(live)
            # Objects replace all labels at the end, painted ones included.
            layer.editable = self._folder is None and not self.task.prompts.instance

    def _on_layer_removed(self) -> None:
        if not self.is_shown:
            self.task.cancel()

    def _on_step(self, step: Step) -> None:
        self._news.append(partial(self._take, step))
        self._catch_up()

    def _on_late(self) -> None:
        self._news.append(self._show_activity)
        self._catch_up()

    def _show_activity(self) -> None:
        if not self._over:
            self._view.show_activity(self.asked.image.name)

    def _on_finished(self) -> None:
        self._news.append(self._end)
        self._catch_up()

    def _catch_up(self) -> None:
        """Show what is new, unless the layers are only being made.

        Nor while something is being shown: napari's progress processes events, and
        what comes then waits until Qt's own loop has its turn again.
        """
        if not (self._ready and self._news):
            return
        self._ready = False
        try:
            # All there is now: drawing the window takes its turn between two timers.
            for _ in range(len(self._news)):
                self._news.popleft()()
        finally:
            self._ready = True
            if self._news:
                self._soon.start()

    def _take(self, step: Step) -> None:
        if isinstance(step, Status):
            self._view.say(step.text)
        elif isinstance(step, Planned):
            self._on_planned(step)
        elif isinstance(step, Changed):
            self._on_changed(step)
        elif isinstance(step, Written):
            for live in self._live:
                live.changed_anywhere()
            self._on_progress(step.done)
        elif isinstance(step, Failed):
            self._failed = True
            show_error(str(step.error))

    def _on_planned(self, plan: Planned) -> None:
        self._total = self.task.total
        self._view.set_total(self._total)
        self._view.say("The first slices are on their way…")
        if self._folder is not None:
            self._show(self._folder.add_labels())
        self._remember(complete=False)
        if self.layers:
            self._scores.begin(self.layers[0], plan)
        if plan.truncated:
            show_warning(truncation_warning(plan.truncated))

    def _on_changed(self, step: Changed) -> None:
        for live in self._live:
            live.changed(step.axis, step.start, step.stop, step.time)
        self._scores.update()
        self._on_progress(step.done)

    def _on_progress(self, done: int) -> None:
        """Show how far it is; last, as napari processes events and all may be gone."""
        self._done = done
        left = self._time_left.update(done, self._total, time.monotonic())
        self._view.set_done(done, left)

    def _on_eye_moved(self) -> None:
        if self.layers and self.task.plan is not None:
            axis = self.task.plan.axis
            at = self._eye.slice_of(self.layers[0], axis, flat=self._flat)
            self.task.look_at(at)

    def _end(self) -> None:
        try:
            self._conclude()
        finally:
            self.finished.emit()

    def _conclude(self) -> None:
        self._over = True
        self._eye.moved.disconnect(self._on_eye_moved)
        complete = self._total > 0 and not (self._failed or self.task.cancelled)
        for live in self._live:
            live.release()
        for layer in self.layers if self._folder is None else ():
            layer.editable = True
        self._remember(complete=complete and not self.task.can_resume)
        self._name_objects()
        if self._folder is not None and complete and self.task.prompts.instance:
            self._folder.add_objects()
        self._view.end(self._ending(complete), can_resume=self.can_resume)
        self._scores.update()
        self._show_findings()

    def _ending(self, complete: bool) -> str:
        if not self._total:
            return "Nothing was computed."
        seconds = time.monotonic() - self._began
        took = duration(seconds) if seconds >= 1 else "less than a second"
        if complete:
            parameters = self._parameters()
            model = parameters["model"].split()[0]  # the checksum is in the metadata
            return (
                f"Done: {self._total} slices in {took} by {model} on "
                f"{parameters['device']}."
            )
        how = "Stopped by an error" if self._failed else "Cancelled"
        return f"{how}: {self._done} of {self._total} slices are done and kept."

    def _show_findings(self) -> None:
        plan, task, asked = self.task.plan, self.task, self.asked
        if plan is None or not self._done:
            return
        findings = task.findings()
        self.found.emit(findings, task.instance_counts)
        existence = task.existence
        if existence is None or any(finding.voxels for finding in findings):
            return
        from napari_biomedparse.report.why_empty import why_empty

        volumes, scores = asked.volumes, existence
        if scores.ndim == 3:  # of a series, the time point that comes nearest
            time = int(np.nan_to_num(scores, nan=-1.0).max(axis=(0, 2)).argmax())
            volumes, scores = volumes[time:], scores[:, time]
        self._view.doctor.examine(
            lambda: why_empty(volumes[0], asked.prompts, asked.options, scores)
        )

    def _name_objects(self) -> None:
        """Let the status bar tell which prompt an object belongs to."""
        owners = self.task.owners
        if owners is None:
            return
        texts = {0: "background"}
        texts |= dict(zip(self.task.prompts.ids, self.task.prompts.texts, strict=True))
        for layer in self.layers:
            layer.features = {
                "index": range(len(owners)),
                "prompt": [texts[int(owner)] for owner in owners],
            }

    def _parameters(self) -> dict[str, Any]:
        return {} if self.task.plan is None else self.task.plan.parameters

    def _remember(self, *, complete: bool) -> None:
        """Write into the layers how they were made."""
        for layer in self.layers:
            known = layer.metadata.setdefault(METADATA_KEY, {})
            known["parameters"] = self._parameters()
            known["complete"] = complete
            if self.task.plan is not None:
                known["provenance"] = self.task.plan.provenance
            if (existence := self.task.existence) is not None:
                known["existence"] = existence
