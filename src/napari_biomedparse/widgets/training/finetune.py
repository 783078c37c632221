"""The dock widget that fine-tunes a model on the labels of a layer or a folder."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtWidgets import QProgressBar

from napari_biomedparse.process import Session
from napari_biomedparse.process.messages import Failed, Status
from napari_biomedparse.report.findings import TimeLeft, duration
from napari_biomedparse.training.progress import Finetuned, Progress
from napari_biomedparse.viewer.samples import WIDGET
from napari_biomedparse.widgets.shared.docks import Dock, open_widget
from napari_biomedparse.widgets.shared.fold import Scrolled
from napari_biomedparse.widgets.shared.parts import button, column, row
from napari_biomedparse.widgets.shared.task import TaskThread
from napari_biomedparse.widgets.training.labelled import Tuning
from napari_biomedparse.widgets.training.loss_curves import LossCurves
from napari_biomedparse.widgets.training.tuning_form import TuningForm

if TYPE_CHECKING:
    from napari import Viewer

    from napari_biomedparse.process.messages import FinetuneRequest
    from napari_biomedparse.widgets.training.labelled import Labelled


class FinetuneWidget(Dock):
    """Fine-tune a model on the labels of a layer, or of a folder of files.

    The model process `session`, its own by default, is closed with the widget.
    """

    def __init__(
        self, napari_viewer: Viewer, *, session: Session | None = None
    ) -> None:
        super().__init__(napari_viewer)
        self.session = session or Session()
        self.tuning: Tuning | None = None
        self.result: Finetuned | None = None
        self._thread: TaskThread | None = None
        self._failed = False
        self._time_left, self._began = TimeLeft(), 0.0
        self.form = TuningForm(napari_viewer)
        self.start_button = button(
            "Fine-tune",
            "Train in a separate process; you can keep working in the meantime.",
            self.start,
        )
        self.stop_button = button(
            "Stop",
            "Stop after the current batch. The best weights so far are kept, and "
            "Fine-tune resumes from the last checkpoint.",
            self.stop,
        )
        self.use_button = button(
            "Use this model",
            "Select the new weights in Segment with text.",
            self.use,
            enabled=False,
        )
        self.bar = QProgressBar()
        self.bar.setFormat("%v of %m batches")
        self.curves = LossCurves()
        column(
            self,
            Scrolled(self.form),
            row((self.start_button, 2), (self.stop_button, 1), (self.use_button, 2)),
            self.bar,
            self.problem,
            self.curves,
            self.status,
            1,
            margins=True,
        )
        self._set_running(False)
        for clean in (self.session.close, self.form.weights.abandon):
            self.destroyed.connect(lambda *_, clean=clean: clean())

    def reset_choices(self, *_: Any) -> None:
        """List the current layers; napari calls this when they change."""
        self.form.reset_choices()

    def start(self) -> None:
        """Start fine-tuning."""
        if self.tuning is not None:
            return
        with self.problem.shown():
            self._begin(*self.form.request())

    def stop(self) -> None:
        """Stop after the current batch."""
        if self.tuning is not None:
            self.tuning.cancel()
            self.status.setText("Stopping after the current batch…")

    def use(self) -> None:
        """Select the new weights in the Segment widget, which opens if necessary."""
        if self.result is None:
            return
        segment = open_widget(self._viewer, WIDGET)
        segment.form.model.choose_file(str(self.result.checkpoint))
        name = Path(self.result.checkpoint).name
        self.status.setText(f"{name} is selected in {WIDGET}.")

    def _begin(self, layers: Labelled | None, request: FinetuneRequest) -> None:
        session = self.session
        self.tuning = Tuning(lambda: session.start(request), layers, request.data)
        self._failed, self.result = False, None
        self.problem.tell("")
        self._time_left, self._began = TimeLeft(), time.monotonic()
        self.curves.clear()
        self.bar.setRange(0, 0)
        self._set_running(True)
        self._thread = TaskThread(self.tuning, self._on_step, self._on_finished)
        self._thread.start()

    def _on_step(self, step: object) -> None:
        if isinstance(step, Status):
            self.status.setText(step.text)
        elif isinstance(step, Progress):
            self._on_trained(step)
        elif isinstance(step, Finetuned):
            self.result = step
        elif isinstance(step, Failed):
            self._failed = True
            self.problem.fail(str(step.error))

    def _on_trained(self, now: Progress) -> None:
        self.bar.setRange(0, now.steps)
        self.bar.setValue(now.step)
        self.curves.add(now.step, now.steps, now.loss, now.val_loss)
        if self.tuning is not None and self.tuning.cancelled:
            return
        parts = [f"Loss {now.loss:.3f}" if now.step else "Before training"]
        if now.val_dice is not None:
            parts.append(f"held-out Dice {now.val_dice:.3f}")
        left = self._time_left.update(now.step, now.steps, time.monotonic())
        if left is not None:
            parts.append(f"at most {duration(left)} left")
        self.status.setText(", ".join(parts))

    def _on_finished(self) -> None:
        stopped = self.tuning is not None and self.tuning.cancelled
        self.tuning = self._thread = None
        self._set_running(False)
        self.use_button.setEnabled(self.result is not None)
        self.status.setText(self._ending(stopped))

    def _ending(self, stopped: bool) -> str:
        if self.result is None:
            how = "Stopped by an error" if self._failed else "Stopped"
            return (
                f"{how}. Fine-tune resumes from the last checkpoint, if there is one."
            )
        took = duration(time.monotonic() - self._began)
        how = "Stopped" if stopped else "Done"
        best = self.result.best.get("step", self.result.step)
        return (
            f"{how}: {self.result.step} batches in {took}, the best after {best:.0f}. "
            f"{self.result.gain} Held out: {self.result.held_out}. Saved as "
            f"{self.result.checkpoint}"
        )

    def _set_running(self, running: bool) -> None:
        self.start_button.setEnabled(not running)
        self.stop_button.setEnabled(running)
        self.bar.setVisible(running)
