"""A run in the viewer, from the Run button to the last slice."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.utils.notifications import show_warning
from qtpy.QtCore import QObject, Signal
from qtpy.QtGui import QColor

from napari_biomedparse.data.prompts import label_colour
from napari_biomedparse.data.results import score_of
from napari_biomedparse.process.messages import (
    Counted,
    Failed,
    Planned,
    Recognized,
    Status,
    Warned,
)
from napari_biomedparse.report.findings import (
    TimeLeft,
    count,
    duration,
    truncation_warning,
)
from napari_biomedparse.viewer.layers import METADATA_KEY, object_features
from napari_biomedparse.widgets.segment.folder_layers import add_objects_of_folder
from napari_biomedparse.widgets.segment.live_labels import LiveLabels
from napari_biomedparse.widgets.shared.parts import pause
from napari_biomedparse.widgets.shared.task import Changed, SegmentTask, TaskThread

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Labels

    from napari_biomedparse.report.findings import Finding
    from napari_biomedparse.widgets.segment.request import Request
    from napari_biomedparse.widgets.segment.run_view import RunView
    from napari_biomedparse.widgets.shared.position import Eye
    from napari_biomedparse.widgets.shared.task import Step
LATE = 500
"""Milliseconds until a run appears in napari's activity dock. That repaints the whole
window twice, so the first labels come before it."""


class LiveRun(QObject):
    """Shows what a task does in its layers and in the widget.

    `shown` adds the layers, or finds them. It is called once the task has started, as
    napari needs longer for a new layer than a small network for a slice; of a folder,
    once its labels are there. The view is the parent: nothing is shown once it is gone.
    """

    finished = Signal()
    found = Signal()
    """The results are known."""

    def __init__(
        self,
        viewer: Viewer,
        shown: Callable[[], Sequence[Labels]],
        task: SegmentTask,
        view: RunView,
        eye: Eye,
        request: Request,
    ) -> None:
        super().__init__(view)
        self.task = task
        self.request = request
        self.layers: tuple[Labels, ...] = ()
        self.results: tuple[Sequence[Finding], dict[int, int] | None, str] | None = None
        """The findings, one per prompt, number of objects by label id, and score."""
        self.recognized: Recognized | None = None
        self._viewer = viewer
        self._view = view
        self._shown = shown
        self._in_folder = request.folder is not None
        self._news: deque[Callable[[], None]] = deque()
        self._ready = False
        self._soon = pause(self, 0, self._catch_up)
        self._late = pause(self, LATE, lambda: self._tell(self._show_activity))
        self.destroyed.connect(lambda *_, news=self._news: news.clear())
        self._live: list[LiveLabels] = []
        self._eye = eye
        self._flat = request.volumes[0].flat
        self._plots = not (self._flat or request.kind)
        self._what = "target" if request.kind else "slice"
        self._thread = TaskThread(task, self._on_step, self._on_finished)
        self._began = time.monotonic()
        self._time_left = TimeLeft()
        self._done = self._total = 0
        self._failed = self._over = False
        self.warned = set[str]()

    def start(self) -> None:
        """Start the task, and then show the layers that it fills."""
        self._thread.start()
        try:
            self._view.begin()
            if not self._in_folder:
                self._show(*self._shown())
        except BaseException:
            self.task.cancel()
            raise
        finally:
            self._ready = True
            self._catch_up()
        self._late.start()

    def cancel(self) -> None:
        """Stop; finished slices are kept."""
        self.task.cancel()
        self._view.say("Cancelling…")

    def retune(self, request: Request) -> None:
        """Apply other thresholds to finished slices and those to come."""
        self.request = request
        self.task.retune(request.options)

    def look(self) -> None:
        """Follow the eye: have what is in view done first, and show its scores."""
        if self.layers and self.task.plan is not None:
            at = self._eye.slice_of(
                self.layers[0], self.task.plan.axis, flat=self._flat
            )
            if not self._over:
                self.task.look_at(at)
            self._show_scores()

    @property
    def score(self) -> tuple[str, str]:
        """What its scores are, and the option that is their threshold."""
        return score_of(self._parameters())

    @property
    def can_resume(self) -> bool:
        """Whether it was stopped and can be resumed."""
        return self.is_shown and self.task.can_resume and not self.request.kind

    @property
    def is_shown(self) -> bool:
        """Whether one of its layers is in the viewer."""
        return any(layer in self._viewer.layers for layer in self.layers)

    def _show(self, *layers: Labels) -> None:
        """Keep layers up to date, and stop when all of them are deleted."""
        self.layers = layers
        for layer in layers:
            live = LiveLabels(self._viewer, layer, flat=self._flat)
            live.removed.connect(self._on_layer_removed)
            self._live.append(live)
            layer.editable = not self._in_folder

    def _on_layer_removed(self) -> None:
        if not self.is_shown:
            self.task.cancel()

    def _on_step(self, step: Step) -> None:
        self._tell(partial(self._take, step))

    def _on_finished(self) -> None:
        self._tell(self._end)

    def _tell(self, news: Callable[[], None]) -> None:
        self._news.append(news)
        self._catch_up()

    def _show_activity(self) -> None:
        if not self._over:
            self._view.show_activity(self.request.image.name)

    def _catch_up(self) -> None:
        """Show what is new, unless the layers are still being made.

        napari's progress processes events: what arrives while something is being shown
        waits until Qt's own loop continues.
        """
        if not (self._ready and self._news):
            return
        self._ready = False
        try:
            # All there is now: the window is repainted between two timers.
            for _ in range(len(self._news)):
                self._news.popleft()()
        finally:
            self._ready = True
            if self._news:
                self._soon.start()

    def _take(self, step: Step) -> None:
        if isinstance(step, Warned):
            if step.text not in self.warned:
                self.warned.add(step.text)
                show_warning(step.text)
        elif isinstance(step, Status):
            self._view.say(step.text)
        elif isinstance(step, Planned):
            self._on_planned(step)
        elif isinstance(step, Changed):
            self._on_changed(step)
        elif isinstance(step, Counted):
            for live in self._live:
                live.changed_anywhere()
            self._on_progress(step.done)
        elif isinstance(step, Recognized):
            self.recognized = step
        elif isinstance(step, Failed):
            self._failed = True
            self._view.problem.fail(str(step.error))

    def _on_planned(self, plan: Planned) -> None:
        self._total = self.task.total
        self._view.set_total(self._total, self._what)
        does = "Looking for" if self.request.kind else "Segmenting"
        self._view.say(f"{does} the first {self._what}s…")
        if self._in_folder:
            self._show(*self._shown())
        self._remember(complete=False)
        if not self._plots:
            self._view.plot.show_scores(np.empty((0, 0), np.float32), (), ())
        self._view.plot.fix_threshold(self.request.why_fixed)
        self._view.plot.show_threshold(plan.parameters[self.score[1]])
        self._show_scores()
        if plan.truncated:
            show_warning(truncation_warning(plan.truncated))

    def _on_changed(self, step: Changed) -> None:
        for live in self._live:
            live.changed(step.axis, step.start, step.stop, step.time)
        self._show_scores()
        if not self.request.kind:  # whose targets are counted, and not its slice
            self._on_progress(step.done)

    def _on_progress(self, done: int) -> None:
        """Show the progress; last, as napari processes events and all may be gone."""
        self._done = done
        left = self._time_left.update(done, self._total, time.monotonic())
        self._view.set_done(done, left)

    def _show_scores(self) -> None:
        """Show the scores so far of the time in view, and the slice in view."""
        scores, plan = self.task.existence, self.task.plan
        if scores is None or plan is None or not (self._plots and self.layers):
            return
        layer, prompts = self.layers[0], self.task.prompts
        if scores.ndim == 3:
            scores = scores[:, min(self._eye.time_of(layer), scores.shape[1] - 1)]
        colours = [QColor(*label_colour(number)) for number in prompts.ids]
        self._view.plot.show_scores(scores, prompts.texts, colours, self.score[0])
        self._view.plot.show_current(self._eye.slice_of(layer, plan.axis))

    def _end(self) -> None:
        try:
            self._conclude()
        finally:
            self.task.commit()
            self.finished.emit()

    def _conclude(self) -> None:
        self._over = True
        complete = self._total > 0 and not (self._failed or self.task.cancelled)
        for live in self._live:
            live.release()
        for layer in self.layers if self._in_folder else ():
            layer.editable = not layer.multiscale
        self._remember(complete=complete and not self.task.can_resume)
        self._name_objects()
        if self._in_folder and complete and self.task.prompts.instance:
            add_objects_of_folder(self._viewer, self.request)
        self._view.end(self._ending(complete), can_resume=self.can_resume)
        self._show_scores()
        self._show_findings()

    def _ending(self, complete: bool) -> str:
        if not self._total:
            return "Nothing was segmented."
        seconds = time.monotonic() - self._began
        took = duration(seconds) if seconds >= 1 else "less than a second"
        name, looked = self.request.image.name, "looked for " * bool(self.request.kind)
        if complete:
            parameters = self._parameters()
            model = parameters["model"].split()[0]  # the checksum is in the metadata
            return (
                f"Done: {looked}{count(self._total, self._what)} of {name} in {took} "
                f"by {model} on {parameters['device']}."
            )
        how = "Stopped by an error" if self._failed else "Cancelled"
        done = f"{self._done} of {count(self._total, self._what)} of {name}"
        return f"{how}: {looked}{done}{'' if looked else ' finished and kept'}."

    def _show_findings(self) -> None:
        plan, task, request = self.task.plan, self.task, self.request
        if plan is None or not self._done:
            return
        findings = task.findings()
        self.results = findings, task.instance_counts, self.score[0]
        self.found.emit()
        existence = task.existence
        there = any(finding.voxels for finding in findings)
        if existence is None or there or request.kind:  # whose table says why
            return
        from napari_biomedparse.report.why_empty import why_series_empty

        volumes, prompts, used = request.volumes, request.prompts, plan.parameters
        made = request.options, existence, request.model, used
        self._view.doctor.examine(lambda: why_series_empty(volumes, prompts, *made))

    def _name_objects(self) -> None:
        """Show in the status bar which prompt an object belongs to."""
        owners = self.task.owners
        if owners is None:
            return
        for layer in self.layers:
            layer.features = object_features(owners, self.task.prompts)

    def _parameters(self) -> dict[str, Any]:
        return {} if self.task.plan is None else self.task.plan.parameters

    def _remember(self, *, complete: bool) -> None:
        """Store in the layers' metadata how they were made."""
        for layer in self.layers:
            known = layer.metadata.setdefault(METADATA_KEY, {})
            known["parameters"] = self._parameters()
            known["complete"] = complete
            if self.task.plan is not None:
                known["provenance"] = self.task.plan.provenance
            if (existence := self.task.existence) is not None:
                known["existence"] = existence
