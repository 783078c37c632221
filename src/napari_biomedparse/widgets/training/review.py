"""A dock widget: accept slices that were looked at, and add them to a training set."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magicgui.types import FileDialogMode
from magicgui.widgets import CheckBox, FileEdit
from napari.utils.notifications import show_error
from qtpy.QtCore import Signal
from qtpy.QtWidgets import (
    QGridLayout,
    QLabel,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from napari_biomedparse.errors import BiomedParseError, OutputError
from napari_biomedparse.viewer.axes import shown_position
from napari_biomedparse.widgets.shared.docks import SharedTabs, open_widget
from napari_biomedparse.widgets.shared.form import form_layout
from napari_biomedparse.widgets.training.labelled import Labelled, LabelledForm
from napari_biomedparse.widgets.training.review_strip import ReviewStrip
from napari_biomedparse.widgets.training.reviewed import reviewed_slices, set_reviewed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from napari import Viewer
    from napari.layers import Labels

FINETUNE = "Fine-tune a model"


class ReviewWidget(QWidget):
    """Accept slices of a Labels layer and collect them to learn from.

    Parameters
    ----------
    napari_viewer : napari.Viewer
    """

    _added = Signal(str)
    _failed = Signal(str)

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__()
        SharedTabs(self)
        self._viewer = napari_viewer
        self._thread: threading.Thread | None = None
        self.form = LabelledForm(napari_viewer)
        self.strip = ReviewStrip()
        self.accept_button = QPushButton("Accept slice")
        self.accept_button.setToolTip(
            "The labels of the slice in view are right (correct them first with "
            "napari's brush). The next slice that was not accepted comes into view."
        )
        self.accept_all_button = QPushButton("Accept all")
        self.accept_all_button.setToolTip("The labels of all slices are right.")
        self.reject_button = QPushButton("Take back")
        self.reject_button.setToolTip(
            "The slice in view was accepted, and is to be looked at again. Click the "
            "strip to go to a slice."
        )
        self.count = QLabel()
        self.folder = FileEdit(
            label="Training set",
            mode=FileDialogMode.EXISTING_DIRECTORY,
            nullable=True,
            value=None,
            tooltip="Folder that collects volumes to learn from; may be a new one.",
        )
        self.everything = CheckBox(
            label="All slices, accepted or not",
            tooltip="Off: only what was accepted is written and learned from.",
        )
        self.add_button = QPushButton("Add to training set")
        self.add_button.setToolTip(
            "Write image, labels and names into the folder, as Fine-tune reads them; "
            "a volume of the same name is replaced."
        )
        self.learn_button = QPushButton("Fine-tune with it")
        self.learn_button.setToolTip(f"Open {FINETUNE} with this folder.")
        self.status = QLabel()
        self.status.setWordWrap(True)
        self._build()
        self._connect()
        self.refresh()

    def reset_choices(self, *_: Any) -> None:
        """Offer the layers there are now; napari calls this when they change."""
        self.form.reset_choices()
        self.refresh()

    def accept(self) -> None:
        """Do what the Accept slice button does."""
        layer, at = self._layer(), self._current()
        if layer is None:
            return
        set_reviewed(layer, self._axis(layer), [at], accepted=True)
        self._go_to_next(layer, at)
        self.refresh()

    def accept_all(self) -> None:
        """Do what the Accept all button does."""
        if (layer := self._layer()) is not None:
            axis = self._axis(layer)
            set_reviewed(layer, axis, range(_shape(layer)[axis]), accepted=True)
            self.refresh()

    def reject(self) -> None:
        """Do what the Take back button does."""
        if (layer := self._layer()) is not None:
            set_reviewed(layer, self._axis(layer), [self._current()], accepted=False)
            self.refresh()

    def add(self) -> None:
        """Do what the Add to training set button does."""
        try:
            folder = self._training_set()
            asked = self.form.read(only_reviewed=not self.everything.value)
        except BiomedParseError as error:
            show_error(str(error))
            return
        self.add_button.setEnabled(False)
        self.status.setText("Writing…")
        self._thread = threading.Thread(
            target=self._write, args=(asked, folder), daemon=True
        )
        self._thread.start()

    def learn(self) -> None:
        """Do what the Fine-tune with it button does."""
        try:
            folder = self._training_set()
        except BiomedParseError as error:
            show_error(str(error))
            return
        widget = open_widget(self._viewer, FINETUNE)
        widget.form.learn_from_folder(folder)

    def refresh(self, *_: Any) -> None:
        """Show what was accepted, and where the viewer is."""
        layer = self._layer()
        for button in (self.accept_button, self.accept_all_button):
            button.setEnabled(layer is not None)
        if layer is None:
            self.reject_button.setEnabled(False)
            self.strip.show_slices(0, (), 0)
            self.count.setText("No labels are chosen.")
            return
        axis, at = self._axis(layer), self._current()
        done, depth = reviewed_slices(layer, axis), _shape(layer)[axis]
        self.reject_button.setEnabled(at in done)
        self.strip.show_slices(depth, done, at)
        state = "accepted" if at in done else "not accepted yet"
        self.count.setText(f"{len(done)} of {depth} slices; slice {at} is {state}.")

    def _write(self, asked: Labelled, folder: Path) -> None:
        try:
            path = asked.add_to(folder)
        except BiomedParseError as error:
            self._failed.emit(str(error))
        else:
            kept = asked.reviewed
            count = asked.labels.shape[asked.axis] if kept is None else len(kept)
            self._added.emit(f"{count} slices are in {path}")

    def _on_added(self, text: str) -> None:
        self.add_button.setEnabled(True)
        self.status.setText(text)

    def _on_failed(self, text: str) -> None:
        self._on_added("")
        show_error(text)

    def _training_set(self) -> Path:
        folder = self.folder.value
        if not isinstance(folder, Path) or folder == Path():
            raise OutputError("Choose a folder for the training set first.")
        return folder

    def _layer(self) -> Labels | None:
        layer = self.form.labels.value
        return None if layer is None or layer.ndim < 2 else layer

    def _axis(self, layer: Labels) -> int:
        """Return the layer's axis that the viewer's slider moves along."""
        if layer.ndim == 2:
            return 0
        shown = self._viewer.dims.order[-3:][0] - (self._viewer.dims.ndim - layer.ndim)
        return max(int(shown), 0)

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
        position = list(shown_position(layer, self._viewer.dims))
        position[self._axis(layer)] = at
        world = layer.data_to_world(position)
        offset = self._viewer.dims.ndim - layer.ndim
        self._viewer.dims.set_point(range(offset, offset + layer.ndim), world)

    def _build(self) -> None:
        buttons = QGridLayout()
        buttons.addWidget(self.accept_button, 0, 0)
        buttons.addWidget(self.reject_button, 0, 1)
        buttons.addWidget(self.accept_all_button, 0, 2)
        target = QWidget()
        form_layout(target, [self.folder, self.everything])
        below = QGridLayout()
        below.addWidget(self.add_button, 0, 0)
        below.addWidget(self.learn_button, 0, 1)
        layout = QVBoxLayout(self)
        layout.addWidget(self.form)
        layout.addWidget(self.strip)
        layout.addWidget(self.count)
        layout.addLayout(buttons)
        layout.addWidget(target)
        layout.addLayout(below)
        layout.addWidget(self.status)
        layout.addStretch(1)

    def _connect(self) -> None:
        self.accept_button.clicked.connect(self.accept)
        self.accept_all_button.clicked.connect(self.accept_all)
        self.reject_button.clicked.connect(self.reject)
        self.add_button.clicked.connect(self.add)
        self.learn_button.clicked.connect(self.learn)
        self.strip.slice_clicked.connect(self._go_to)
        self.form.labels.changed.connect(self.refresh)
        self._added.connect(self._on_added)
        self._failed.connect(self._on_failed)
        events = self._viewer.dims.events
        for event in (events.current_step, events.order):
            event.connect(self.refresh)
            self.destroyed.connect(lambda *_, e=event: e.disconnect(self.refresh))


def _shape(layer: Labels) -> tuple[int, ...]:
    return tuple((layer.data[0] if layer.multiscale else layer.data).shape)
