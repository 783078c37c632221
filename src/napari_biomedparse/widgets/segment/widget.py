"""The dock widget that segments an Image layer by text prompts."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QWidget

from napari_biomedparse.errors import BiomedParseError, OptionError
from napari_biomedparse.io.durable import check_place
from napari_biomedparse.io.inputs import case_name
from napari_biomedparse.networks.weights import untaught
from napari_biomedparse.process import Session
from napari_biomedparse.runs.recipe import as_command, as_python
from napari_biomedparse.viewer.layers import reviewed, write_labels
from napari_biomedparse.widgets.segment.form import SegmentForm
from napari_biomedparse.widgets.segment.live_run import LiveRun
from napari_biomedparse.widgets.segment.preview import PAUSE, LivePreview
from napari_biomedparse.widgets.segment.request import OF_SCORES, THRESHOLDS
from napari_biomedparse.widgets.segment.run_view import PYTHON, RUN_KEY, RunView
from napari_biomedparse.widgets.segment.runs import Runs
from napari_biomedparse.widgets.segment.seen_picture import SeenPicture
from napari_biomedparse.widgets.segment.tasks import ArrayTask
from napari_biomedparse.widgets.segment.teaching import (
    SAVE_FIRST,
    TaughtFiles,
    Teaching,
    most_doubtful,
)
from napari_biomedparse.widgets.shared.background import LatestWork
from napari_biomedparse.widgets.shared.docks import SharedTabs
from napari_biomedparse.widgets.shared.fold import Fold, Scrolled
from napari_biomedparse.widgets.shared.form import (
    SAVE_FILTERS,
    add_key,
    ask_where,
    copy_text,
    files_of_images,
)
from napari_biomedparse.widgets.shared.parts import column, pause
from napari_biomedparse.widgets.shared.position import Eye, go_to_labels
from napari_biomedparse.widgets.shared.settings import settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari import Viewer
    from napari.layers import Labels
    from qtpy.QtGui import QAction

    from napari_biomedparse.process.messages import Learned
    from napari_biomedparse.report.why_empty import Cause
    from napari_biomedparse.widgets.segment.estimation import Estimation
    from napari_biomedparse.widgets.segment.request import Request

CANCEL_KEY, PREVIEW_KEY = "Ctrl+.", "Ctrl+Shift+Return"
NEXT_KEY, PREVIOUS_KEY = "Ctrl+Right", "Ctrl+Left"


class SegmentWidget(QWidget):
    """Segment an Image layer by text; the results are Labels layers.

    The model process `session`, its own by default, is closed with the widget.
    """

    taught_changed = Signal()
    """What was learned, or where the model is in doubt."""

    def __init__(
        self, napari_viewer: Viewer, *, session: Session | None = None
    ) -> None:
        super().__init__()
        SharedTabs(self)
        self._viewer = napari_viewer
        chosen = settings()
        self.session = session or Session(cache_bytes=chosen.cache_bytes)
        self.run: LiveRun | Estimation | None = None
        self._last: LiveRun | None = None
        self._shown: bool | None = None
        self.learned: Learned | None = None
        self._taught = TaughtFiles()
        self._teach_after = False
        self.form = SegmentForm(napari_viewer)
        self.view = RunView()
        self._eye = Eye(napari_viewer)
        self._preview = LivePreview(
            napari_viewer,
            self.session,
            self.form.request,
            self._slice_in_view,
            self.view.say,
            self,
        )
        self._runs = Runs(
            napari_viewer,
            self.session,
            self.view,
            self._eye,
            self._preview.layers.give_away,
        )
        seen = SeenPicture(napari_viewer, self.form)
        advanced, large = self.form.advanced, self.form.large
        self._advanced = Fold("Advanced", advanced)
        scrolled = Scrolled(
            self.form,
            Fold("What the network sees", seen),
            seen,
            self._advanced,
            advanced,
            Fold("Large volumes", large),
            large,
        )
        column(self, scrolled, (self.view, 1), margins=True)
        _add_shortcuts(self, napari_viewer)
        self._eye.moved.connect(self._on_eye_moved)
        for follower in (self._preview, seen):
            self._eye.moved.connect(follower.changed)
            self.form.changed.connect(follower.changed)
        self._threshold_pause = pause(self, PAUSE, self._apply_thresholds)
        self.form.changed.connect(self._threshold_pause.start)
        self.form.changed.connect(self._on_form_changed)
        self._on_form_changed()
        self._saving = LatestWork(self)
        self._saving.done.connect(self.view.say)
        self._saving.failed.connect(self.view.problem.fail)
        self._preview.layers.removed.connect(self._on_preview_removed)
        view = self.view
        view.run_button.clicked.connect(self.start)
        self.form.recognition.button.changed.connect(self.recognize)
        view.cancel_button.clicked.connect(self.cancel)
        view.resume_button.clicked.connect(self.resume)
        view.estimate_button.clicked.connect(self.estimate)
        view.save_button.clicked.connect(self.save)
        view.copy_menu.triggered.connect(self._on_copy_chosen)
        for box in (view.preview_box, view.probability_box):
            box.toggled.connect(self._on_preview_switched)
        view.plot.threshold_changed.connect(self._on_threshold_dragged)
        view.plot.slice_clicked.connect(self.form.show_slice)
        view.doctor.fix_chosen.connect(self._on_fix_chosen)
        eye, session = self._eye, self.session
        for clean in (
            self._preview.close,
            session.close,
            self.form.disconnect,
            eye.disconnect_viewer,
        ):
            self.destroyed.connect(lambda *_, clean=clean: clean())
        self.preview(chosen.preview)

    def reset_choices(self, *_: Any) -> None:
        """List the current layers; napari calls this when they change."""
        self.form.reset_choices()

    def start(self, *, recognize: bool = False) -> None:
        """Start a run; during a run, queue another one."""
        request = self._current_request(recognize=recognize)
        if request is not None and self.run is not None:
            self.view.queue.add(request)
        elif request is not None:
            self._begin(lambda: self._runs.run(request, self._front(request)))

    def recognize(self) -> None:
        """Look for all targets of the kind of image, as a run."""
        self.start(recognize=True)

    def cancel(self) -> None:
        """Cancel the current run; queued runs come next."""
        if self.run is not None:
            self.run.cancel()

    def resume(self) -> None:
        """Resume the run that was stopped."""
        last = self._last
        if self.run is None and last is not None and last.can_resume:
            self._begin(lambda: self._runs.rest(last))

    def preview(self, on: bool | None = None) -> None:
        """Turn the preview on or off; by default, toggle it."""
        box = self.view.preview_box
        box.setChecked(not box.isChecked() if on is None else on)

    def estimate(self) -> None:
        """Estimate the run."""
        request = self._current_request()
        if request is not None and self.run is None:
            self._begin(lambda: self._runs.estimation(request))

    def save(self) -> None:
        """Ask where to save the labels of the last run, one file for each layer."""
        shown = () if self._last is None else self._last.layers
        layers = [layer for layer in shown if layer in self._viewer.layers]
        name = layers[0].name if layers else ""
        path = ask_where(self, "Save labels", name, SAVE_FILTERS) if layers else ""
        if not path:
            return
        stem = case_name(Path(path))
        paths = [path]
        if len(layers) > 1:
            ending = Path(path).name.removeprefix(stem)
            paths = [
                str(Path(path).with_name(f"{stem}_{at}{ending}"))
                for at in range(1, len(layers) + 1)
            ]
        inputs = files_of_images(self._viewer)
        data = [layer.as_layer_data_tuple() for layer in layers]

        def write() -> str:
            for one in paths:  # the dialog has asked about `path` alone
                check_place(Path(one), overwrite=one == path, inputs=inputs)
            for one, (voxels, meta, _) in zip(paths, data, strict=True):
                write_labels(one, voxels, meta)
            return f"Saved as {', '.join(paths)}"

        self.view.problem.tell("")
        self.view.say("Writing…")
        self._saving.submit(write)

    def can_teach(self, layer: Labels | None) -> bool:
        """Return whether a layer shows labels of the last run, and can teach."""
        last = self._last
        return last is not None and layer in last.layers and self._runs.can_teach(last)

    def teach(self) -> None:
        """Learn from what is accepted and painted, and label all slices anew.

        During a run, after it; what was being learned or labeled is then out of date.
        """
        if (last := self._last) is None:
            return
        if self.run is not None:
            self._teach_after = True
            if isinstance(self.run, Teaching) or self._taught.has(last.request.model):
                self.run.cancel()
            return
        subject = last.request.subject
        self._begin(lambda: self._runs.teaching(last, self._taught.new(subject)))

    def forget(self) -> None:
        """Return to the model that knows nothing of corrections, and to its labels."""
        if self._last is not None and self.run is None:
            self.learned = None
            self._use_model(untaught(self._last.request.model))
            self.taught_changed.emit()

    @property
    def has_unsaved_model(self) -> bool:
        """Whether the model was taught here, and is a temporary file."""
        return self._taught.has(str(self.form.model.value))

    @property
    def has_taught_model(self) -> bool:
        """Whether the labels of the last run are those of a taught model."""
        last = self._last
        return last is not None and untaught(last.request.model) != last.request.model

    def save_taught(self, path: str) -> None:
        """Save the taught model, which the form then names."""
        model = str(self.form.model.value)
        with self.view.problem.shown():
            saved = self._taught.save(model, path)
            self.form.model.replace(model, saved)
            if self._last is not None and self._last.request.model == model:
                self._last.request = replace(self._last.request, model=saved)
            self.view.say(f"Saved as {saved}")
        self.taught_changed.emit()

    def doubt(self, layer: Labels, axis: int) -> tuple[int, float] | None:
        """Return the slice that would teach most, and which share of it is in doubt.

        None if no slice is left, or the last run was not cut along the layer's axis.
        """
        last = self._last
        task = None if last is None else last.task
        if last is None or not isinstance(task, ArrayTask) or task.plan is None:
            return None
        doubt, own = task.doubt, task.plan.axis
        if doubt is None or axis != max(layer.ndim - 3, 0) + own:
            return None
        first = last.request.where[own].start or 0
        accepted = [at - first for at in reviewed(layer).get(axis, ())]
        found = most_doubtful(doubt, accepted)
        return None if found is None else (found + first, float(doubt[:, found].sum()))

    def _use_model(self, model: str) -> None:
        """Label the slices of the last run by a model, which the form then names."""
        last = self._last
        assert last is not None
        before = last.request.model
        self.form.model.replace(before if self._taught.has(before) else "", model)
        again = self._runs.again(last, replace(last.request, model=model))
        if again is None:
            self.view.problem.tell("These labels were replaced. Press Run again.")
        else:
            self._follow(again)

    def _current_request(self, *, recognize: bool = False) -> Request | None:
        """Return the form's request, or show why it is not possible."""
        with self.view.problem.shown():
            request = self.form.request(recognize=recognize)
            if request.folder is not None and self.has_unsaved_model:
                raise OptionError(SAVE_FIRST)
            request.hold()
            self.form.remember()
            return request
        return None

    def _begin(self, make: Callable[[], LiveRun | Estimation]) -> None:
        with self.view.problem.shown():
            self._follow(make())

    def _follow(self, run: LiveRun | Estimation) -> None:
        if isinstance(run, LiveRun):
            self._last = run
            self._shown = None
            run.found.connect(self._show_results)
            self._show_results()
        self.run = run
        self._preview.hold(True)
        run.finished.connect(self._on_finished)
        run.start()
        self._preview.layers.clear()

    def _on_eye_moved(self) -> None:
        if self._last is not None:
            self._last.look()

    def _on_form_changed(self) -> None:
        self._advanced.set_note(self.form.unusual)
        last = self._last
        if last is not None and self._shown != self._is_own(last):
            self._show_results()

    def _is_own(self, run: LiveRun) -> bool:
        """Return whether a run is of the image and channel that the form shows."""
        request, form = run.request, self.form
        channel = form.stack.position(self._viewer.dims).get("c")
        return request.image is form.layer and request.at.get("c") == channel

    def _show_results(self, *_: object) -> None:
        """Show the last run's results if they are of this image, or else hide them."""
        last = self._last
        assert last is not None
        own = self._is_own(last)
        if own != self._shown:
            values = {name: getattr(last.request.options, name) for name in OF_SCORES}
            self.form.use_thresholds_of_result(values if own else None)
        self._shown = own
        self.form.prompts.clear_results()
        self.view.outcomes.setVisible(last.recognized is not None)
        if last.results is not None and last.recognized is not None:
            self.view.outcomes.show_outcomes(last.recognized, last.results[0])
        elif own and last.results is not None:
            self.form.prompts.show_results(*last.results)
        self.view.show_results_of("" if own else last.request.image.name)

    def _on_finished(self) -> None:
        ended, self.run = self.run, None
        self.view.save_button.setEnabled(self._last is not None)
        again, self._teach_after = self._teach_after, False
        if again:
            self.teach()
        elif isinstance(ended, Teaching) and ended.learned:
            self.learned = ended.learned
            self._use_model(str(ended.learned.path))
        while self.run is None and len(self.view.queue):
            request = self.view.queue.take()
            self._begin(partial(self._runs.run, request, self._front(request)))
        self.taught_changed.emit()
        if self.run is None:
            self._preview.hold(False)
            self._threshold_pause.start()

    def _front(self, request: Request) -> int | None:
        """Return the slice of a request that is in view."""
        axis = self.form.slicing_axis()
        flat = request.volumes[0].flat
        return (
            None if axis is None else self._eye.slice_of(request.image, axis, flat=flat)
        )

    def _slice_in_view(self, request: Request) -> tuple[int, int]:
        """Return the slice, and the index of the volume, that are in view."""
        time = self._eye.time_of(request.image) if request.series else 0
        return self._front(request) or 0, time

    def _on_threshold_dragged(self, threshold: float) -> None:
        assert self._last is not None  # whose threshold it is
        self.form.use_thresholds_of_result({self._last.score[1]: threshold})
        self._threshold_pause.start(0)  # it was released: nothing to wait for

    def _on_fix_chosen(self, cause: Cause) -> None:
        """Apply a fix, and run again if it changes more than thresholds."""
        for name, value in cause.options.items():
            if name in OF_SCORES:
                self.form.use_thresholds_of_result({name: value})
            else:
                self.form.set_option(name, value)
        for label, text in cause.prompts.items():
            self.form.prompts.rename(label, text)
        fixed = self._last is not None and self._last.request.why_fixed
        if fixed or not set(cause.options) <= set(THRESHOLDS) or cause.prompts:
            self.start()

    def _apply_thresholds(self) -> None:
        """Apply the form's thresholds to the labels of the last run."""
        last = self._last
        if last is None or (self.run is not None and self.run is not last):
            return
        try:
            now = self.form.request(to_run=False)
            request = last.request.with_thresholds_of(now)
        except BiomedParseError:  # shown when the user presses Run
            return
        if request is None:
            return
        if last.request.why_fixed:
            if self.run is None:
                self.view.say(last.request.why_fixed)
            return
        self.view.plot.show_threshold(getattr(request.options, last.score[1]))
        same = request.prompts == last.request.prompts
        if self.run is last and same and not request.series:
            last.retune(request)
        elif self.run is last:
            return  # changes of objects or a series wait for the end of the run
        elif (again := self._runs.again(last, request)) is not None:
            self._follow(again)
        elif last.is_shown:
            self.view.problem.tell("These labels were replaced. Press Run again.")

    def _on_preview_switched(self) -> None:
        self._preview.switch(
            self.view.preview_box.isChecked(),
            probabilities=self.view.probability_box.isChecked(),
        )

    def _on_preview_removed(self) -> None:
        self.view.preview_box.setChecked(False)

    def _on_copy_chosen(self, action: QAction) -> None:
        language = action.data()
        with self.view.problem.shown():
            if self.has_unsaved_model:
                raise OptionError(SAVE_FIRST)
            recipe = self.form.request(to_run=False).recipe()
            copy_text(as_python(recipe) if language == PYTHON else as_command(recipe))
            self.view.say(f"Copied as {language}.")


def _add_shortcuts(widget: SegmentWidget, viewer: Viewer) -> None:
    """Add keyboard shortcuts, which also work while the canvas has the focus."""
    view = widget.view
    keys: list[tuple[str, Callable[[], object], QWidget | None]] = [
        (RUN_KEY, widget.start, None),  # its tooltip, which changes, has the key
        (CANCEL_KEY, widget.cancel, view.cancel_button),
        (PREVIEW_KEY, widget.preview, view.preview_box),
        (NEXT_KEY, lambda: go_to_labels(viewer, 1), None),
        (PREVIOUS_KEY, lambda: go_to_labels(viewer, -1), None),
    ]
    for key, do, control in keys:
        add_key(widget, key, do, control)
