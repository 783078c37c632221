"""The dock widget that accepts reviewed slices and adds them to a training set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from magicgui.widgets import CheckBox
from qtpy.QtWidgets import QLabel

from napari_biomedparse.errors import OutputError
from napari_biomedparse.viewer.axes import show_position, shown_position
from napari_biomedparse.viewer.samples import WIDGET
from napari_biomedparse.widgets.shared.docks import Dock, docked, open_widget
from napari_biomedparse.widgets.shared.form import (
    add_key,
    chosen_folder,
    folder_field,
    form_of,
)
from napari_biomedparse.widgets.shared.parts import button, column, row
from napari_biomedparse.widgets.shared.position import slider_axis
from napari_biomedparse.widgets.training.labelled import Labelled, LabelledForm
from napari_biomedparse.widgets.training.learning import LearningPanel
from napari_biomedparse.widgets.training.review_strip import (
    ReviewStrip,
    reviewed_slices,
    set_reviewed,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from napari import Viewer
    from napari.layers import Labels

FINETUNE = "Fine-tune a model"
ACCEPT_KEY = "Ctrl+Shift+A"


class ReviewWidget(Dock):
    """Accept slices of a Labels layer and collect them for fine-tuning."""

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__(napari_viewer)
        self._segment: Any = None
        self.form = LabelledForm(napari_viewer)
        self.strip = ReviewStrip()
        self.accept_button = button(
            "Accept slice",
            "Mark the labels of the slice in view as correct, and go to the next slice "
            "that is not accepted. Correct labels first with napari's tools; no run "
            "changes accepted slices.",
            self.accept,
        )
        add_key(self, ACCEPT_KEY, self.accept, self.accept_button)
        self.accept_all_button = button(
            "Accept all", "Mark the labels of all slices as correct.", self.accept_all
        )
        self.reject_button = button(
            "Undo",
            "Mark the slice in view as not accepted. Click the strip to go to a slice.",
            self.reject,
        )
        self.count = QLabel()
        self.learning = LearningPanel()
        self.learning.slice_chosen.connect(self._go_to)
        self.folder = folder_field(
            "Training set",
            "New or existing folder that collects volumes for fine-tuning.",
        )
        self.everything = CheckBox(
            label="Include slices that are not accepted",
            tooltip="Off: only accepted slices are written and used for training.",
        )
        self.add_button = button(
            "Add to training set",
            "Write image, labels and names into the folder for fine-tuning. A volume "
            "of the same name is replaced.",
            self.add,
        )
        self._starters = [self.add_button]
        self.learn_button = button(
            "Fine-tune…", f"Open {FINETUNE} with this training set.", self.learn
        )
        column(
            self,
            self.form,
            self.strip,
            self.count,
            row(self.accept_button, self.reject_button, self.accept_all_button),
            self.learning,
            form_of(self.folder, self.everything),
            row(self.add_button, self.learn_button),
            self.problem,
            self.status,
            1,
            margins=True,
        )
        self.strip.slice_clicked.connect(self._go_to)
        self.form.labels.changed.connect(self.refresh)
        events = napari_viewer.dims.events
        for event in (events.current_step, events.order):
            event.connect(self.refresh)
            self.destroyed.connect(lambda *_, e=event: e.disconnect(self.refresh))
        self.refresh()

    def reset_choices(self, *_: Any) -> None:
        """List the current layers; napari calls this when they change."""
        self.form.reset_choices()
        self.refresh()

    def accept(self) -> None:
        """Accept the slice in view and go to the next one."""
        layer, at = self._layer(), self._current()
        if layer is None:
            return
        with self.problem.shown():
            set_reviewed(layer, self._axis(layer), [at], accepted=True)
            self.refresh()
            if (following := self.learning.next_slice) is None:
                self._go_to_next(layer, at)
            else:
                self._go_to(following)
            if self.learning.learn_box.isChecked():
                self.learning.teach()
        self.refresh()

    def accept_all(self) -> None:
        """Accept all slices."""
        if (layer := self._layer()) is not None:
            axis = self._axis(layer)
            with self.problem.shown():
                set_reviewed(layer, axis, range(_shape(layer)[axis]), accepted=True)
            self.refresh()

    def reject(self) -> None:
        """Undo the acceptance of the slice in view."""
        if (layer := self._layer()) is not None:
            axis, at = self._axis(layer), self._current()
            with self.problem.shown():
                set_reviewed(layer, axis, [at], accepted=False)
            self.refresh()

    def add(self) -> None:
        """Add the volume to the training set."""
        with self.problem.shown():
            folder = self._training_set()
            request = self.form.read(only_reviewed=not self.everything.value)
            self._submit("Writing…", lambda: _write(request, folder))

    def learn(self) -> None:
        """Open the Fine-tune widget with the training set."""
        with self.problem.shown():
            folder = self._training_set()
            open_widget(self._viewer, FINETUNE).form.learn_from_folder(folder)

    def refresh(self, *_: Any) -> None:
        """Show the accepted slices and the slice in view."""
        layer = self._layer()
        self._follow_segment(layer)
        for one in (self.accept_button, self.accept_all_button):
            one.setEnabled(layer is not None)
        if layer is None:
            self.reject_button.setEnabled(False)
            self.strip.show_slices(0, (), 0)
            self.count.setText("Choose a Labels layer.")
            return
        axis, at = self._axis(layer), self._current()
        done, depth = reviewed_slices(layer, axis), _shape(layer)[axis]
        self.reject_button.setEnabled(at in done)
        self.strip.show_slices(depth, done, at)
        state = "accepted" if at in done else "not accepted"
        self.count.setText(
            f"{len(done)} of {depth} slices accepted; slice {at} is {state}."
        )

    def _follow_segment(self, layer: Labels | None) -> None:
        """Offer to learn if the Segment widget made the labels along this axis."""
        segment = docked(self._viewer, WIDGET)
        if segment is not self._segment:
            self._segment = segment
            if segment is not None:
                segment.taught_changed.connect(self.refresh)
        axis = 0 if layer is None else self._axis(layer)
        self.learning.follow(segment, layer, axis)

    def _training_set(self) -> Path:
        folder = chosen_folder(self.folder)
        if folder is None:
            raise OutputError("Choose a folder for the training set.")
        return folder

    def _layer(self) -> Labels | None:
        layer = self.form.labels.value
        return None if layer is None or layer.ndim < 2 else layer

    def _axis(self, layer: Labels) -> int:
        """Return the layer's axis along which the viewer's slider moves."""
        return slider_axis(layer, self._viewer.dims)

    def _current(self) -> int:
        layer = self._layer()
        if layer is None or layer.ndim == 2:
            return 0
        return shown_position(layer, self._viewer.dims)[self._axis(layer)]

    def _go_to_next(self, layer: Labels, at: int) -> None:
        axis = self._axis(layer)
        done, depth = set(reviewed_slices(layer, axis)), _shape(layer)[axis]
        order: Iterable[int] = (*range(at + 1, depth), *range(at))
        following = next((z for z in order if z not in done), None)
        if following is not None:
            self._go_to(following)

    def _go_to(self, at: int) -> None:
        layer = self._layer()
        if layer is None or layer.ndim == 2:
            return
        show_position(layer, self._viewer.dims, self._axis(layer), at)


def _write(request: Labelled, folder: Path) -> str:
    """Add to a training set; return a message about it."""
    path, kept = request.add_to(folder), request.reviewed
    count = request.labels.shape[request.axis] if kept is None else len(kept)
    return f"Added {count} slices as {path}"


def _shape(layer: Labels) -> tuple[int, ...]:
    shape = tuple((layer.data[0] if layer.multiscale else layer.data).shape)
    return (1, *shape) if len(shape) == 2 else shape
