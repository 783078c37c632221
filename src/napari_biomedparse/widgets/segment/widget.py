"""The dock widget: an Image layer and text prompts in, a Labels layer out."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from napari.utils.notifications import show_error
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QApplication, QVBoxLayout, QWidget

from napari_biomedparse.errors import BiomedParseError
from napari_biomedparse.process import Session
from napari_biomedparse.runs.recipe import as_command, as_python
from napari_biomedparse.widgets.segment.form import SegmentForm
from napari_biomedparse.widgets.segment.live_run import LiveRun
from napari_biomedparse.widgets.segment.preview import PAUSE, Preview
from napari_biomedparse.widgets.segment.request import THRESHOLDS
from napari_biomedparse.widgets.segment.run_view import PYTHON, RunView
from napari_biomedparse.widgets.segment.runs import Runs
from napari_biomedparse.widgets.segment.seen_picture import SeenPicture
from napari_biomedparse.widgets.shared.docks import SharedTabs
from napari_biomedparse.widgets.shared.eye import Eye
from napari_biomedparse.widgets.shared.fold import Scrolled, fold
from napari_biomedparse.widgets.shared.keys import add_shortcuts
from napari_biomedparse.widgets.shared.settings import settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari import Viewer

    from napari_biomedparse.report.why_empty import Cause
    from napari_biomedparse.widgets.segment.estimation import Estimation
    from napari_biomedparse.widgets.segment.request import Request


class SegmentWidget(QWidget):
    """Segment a volume by text.

    Parameters
    ----------
    napari_viewer : napari.Viewer
        Whose Image layers are offered, and where the Labels go.
    session : Session, optional
        The model process to use; one of its own by default. Closed with the widget.
    """

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
        self.form = SegmentForm(napari_viewer)
        self.view = RunView()
        self._eye = Eye(napari_viewer)
        self._preview = Preview(
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
        layout = QVBoxLayout(self)
        advanced, large = self.form.advanced, self.form.large
        layout.addWidget(
            Scrolled(
                self.form,
                fold("What the network sees", seen),
                seen,
                fold("Advanced", advanced),
                advanced,
                fold("Large volumes", large),
                large,
            )
        )
        layout.addWidget(self.view, 1)
        add_shortcuts(self, napari_viewer)
        self.view.run_requested.connect(self.start)
        self.view.cancel_requested.connect(self.cancel)
        self.view.resume_requested.connect(self.resume)
        self.view.preview_switched.connect(self._on_preview_switched)
        for follower in (self._preview, seen):
            self._eye.moved.connect(follower.changed)
            self.form.changed.connect(follower.changed)
        self._threshold_pause = QTimer(self)
        self._threshold_pause.setSingleShot(True)
        self._threshold_pause.setInterval(PAUSE)
        self._threshold_pause.timeout.connect(self._apply_thresholds)
        self.form.changed.connect(self._threshold_pause.start)
        self.view.plot.threshold_changed.connect(self._on_threshold_dragged)
        self.view.doctor.fix_chosen.connect(self._on_fix_chosen)
        self._preview.layers.removed.connect(self._on_preview_removed)
        self.view.plot.slice_clicked.connect(self.form.show_slice)
        self.view.estimate_requested.connect(self.estimate)
        self.view.copy_requested.connect(self._on_copy_requested)
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
        """Offer the layers there are now; napari calls this when they change."""
        self.form.reset_choices()

    def start(self) -> None:
        """Do what the Run button does; during a run, queue another one."""
        asked = self._asked()
        if asked is not None and self.run is not None:
            self.view.queue.add(asked)
        elif asked is not None:
            self._begin(lambda: self._runs.run(asked, self._front(asked)))

    def cancel(self) -> None:
        """Do what the Cancel button does; runs that wait come next."""
        if self.run is not None:
            self.run.cancel()

    def resume(self) -> None:
        """Do what the Resume button does."""
        last = self._last
        if self.run is None and last is not None and last.can_resume:
            self._begin(lambda: self._runs.rest(last))

    def preview(self, on: bool | None = None) -> None:
        """Do what the Preview box does: show the slice in view, or do so no longer.

        Parameters
        ----------
        on : bool, optional
            By default the other of the two.
        """
        box = self.view.preview_box
        box.setChecked(not box.isChecked() if on is None else on)

    def estimate(self) -> None:
        """Do what the Estimate button does."""
        asked = self._asked()
        if asked is not None and self.run is None:
            self._begin(lambda: self._runs.estimation(asked))

    def _asked(self) -> Request | None:
        """Return what the form asks for, or tell why it cannot be done."""
        try:
            asked = self.form.request()
            asked.hold()
            self.form.remember()
        except BiomedParseError as error:
            show_error(str(error))
            return None
        return asked

    def _begin(self, make: Callable[[], LiveRun | Estimation]) -> None:
        try:
            run = make()
        except BiomedParseError as error:
            show_error(str(error))
            return
        if isinstance(run, LiveRun):
            if self._last is not None:
                self._last.release()
            self._last = run
            self.form.prompts.clear_results()
            run.found.connect(self.form.prompts.show_results)
        self.run = run
        self._preview.hold(True)
        run.finished.connect(self._on_finished)
        run.start()
        self._preview.layers.clear()

    def _on_finished(self) -> None:
        self.run = None
        while self.run is None and len(self.view.queue):
            asked = self.view.queue.take()
            self._begin(partial(self._runs.run, asked, self._front(asked)))
        if self.run is None:
            self._preview.hold(False)
            self._threshold_pause.start()

    def _front(self, asked: Request) -> int | None:
        """Return which slice of a request is in view."""
        axis = self.form.slicing_axis()
        flat = asked.volumes[0].flat
        return (
            None if axis is None else self._eye.slice_of(asked.image, axis, flat=flat)
        )

    def _slice_in_view(self, asked: Request) -> tuple[int, int]:
        """Return which slice, and which of the request's volumes, is in view."""
        time = self._eye.time_of(asked.image) if asked.series else 0
        return self._front(asked) or 0, time

    def _on_threshold_dragged(self, threshold: float) -> None:
        self.form.set_option("existence_threshold", threshold)
        self._threshold_pause.start(0)  # it was let go: nothing more to wait for

    def _on_fix_chosen(self, cause: Cause) -> None:
        """Set what the doctor advises, and run again where thresholds are not all."""
        for name, value in cause.options.items():
            self.form.set_option(name, value)
        for label, text in cause.prompts.items():
            self.form.prompts.rename(label, text)
        fixed = self._last is not None and self._last.asked.why_fixed
        if fixed or not set(cause.options) <= set(THRESHOLDS) or cause.prompts:
            self.start()

    def _apply_thresholds(self) -> None:
        """Have the labels of the last run follow the thresholds in the form."""
        last = self._last
        if last is None or (self.run is not None and self.run is not last):
            return
        try:
            now = self.form.request(to_run=False)
            asked = last.asked.with_thresholds_of(now)
        except BiomedParseError:  # told when the user presses Run
            return
        if asked is None:
            return
        if last.asked.why_fixed:
            if self.run is None:
                self.view.say(last.asked.why_fixed)
            return
        self.view.plot.show_threshold(asked.options.existence_threshold)
        same = asked.prompts == last.asked.prompts
        if self.run is last and same and not asked.series:
            last.retune(asked)
        elif self.run is last:
            return  # objects or not, and all time points alike: when it is over
        elif (again := self._runs.again(last, asked)) is not None:
            self._begin(lambda: again)

    def _on_preview_switched(self) -> None:
        self._preview.switch(
            self.view.preview_box.isChecked(),
            probabilities=self.view.probability_box.isChecked(),
        )

    def _on_preview_removed(self) -> None:
        self.view.preview_box.setChecked(False)

    def _on_copy_requested(self, language: str) -> None:
        try:
            recipe = self.form.request(to_run=False).recipe()
            text = as_python(recipe) if language == PYTHON else as_command(recipe)
        except BiomedParseError as error:
            show_error(str(error))
            return
        clipboard = QApplication.clipboard()
        assert clipboard is not None
        clipboard.setText(text)
        self.view.say(f"Copied, to be run as {language}.")
