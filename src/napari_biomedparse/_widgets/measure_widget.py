"""A dock widget: a Labels layer in, its objects measured; napari's own table out."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np
from magicgui.widgets import CheckBox, ComboBox
from napari.layers import Image, Labels
from napari.utils.notifications import show_error
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QLabel, QPushButton, QVBoxLayout, QWidget

from napari_biomedparse._napari import METADATA_KEY, volume_from_layer
from napari_biomedparse._widgets._form import form_layout
from napari_biomedparse.errors import BiomedParseError, VolumeError
from napari_biomedparse.measure import components_of, measure_objects
from napari_biomedparse.prompts import INSTANCE_KEY

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt
    import pandas as pd
    from napari import Viewer

TABLE = ("napari", "Features table widget")
"""napari's own table of a layer's features: sorts, follows clicks, saves as CSV."""


class MeasureWidget(QWidget):
    """Measure the objects of a Labels layer.

    Parameters
    ----------
    napari_viewer : napari.Viewer
        Whose layers are offered.
    """

    _measured = Signal(object, object)
    _failed = Signal(str)

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__()
        self._viewer = napari_viewer
        self._thread: threading.Thread | None = None
        self._conclude: Callable[[npt.NDArray[Any], pd.DataFrame], None] | None = None
        self.labels = ComboBox(
            label="Labels",
            choices=lambda _: self._layers(Labels),
            tooltip="The labels to measure; follows the layer you select.",
        )
        self.image = ComboBox(
            label="Image",
            choices=lambda _: self._layers(Image),
            tooltip="What the labels lie on; gives intensity and voxel size.",
        )
        self.pieces = CheckBox(
            label="Each connected piece is an object",
            value=True,
            tooltip="Off: each label value is an object, as after a run that "
            "separated objects.",
        )
        self.button = QPushButton("Measure")
        self.button.setToolTip(
            "Fill napari's features table: one row an object. Click a row to select "
            "the object; the table can be sorted and saved as CSV."
        )
        self.status = QLabel()
        self.status.setWordWrap(True)
        form = QWidget()
        form_layout(form, [self.labels, self.image, self.pieces])
        layout = QVBoxLayout(self)
        for part in (form, self.button, self.status):
            layout.addWidget(part)
        layout.addStretch()
        self.button.clicked.connect(self.measure)
        self.labels.changed.connect(self._on_labels_changed)
        self._measured.connect(self._on_measured)
        self._failed.connect(self._on_failed)
        active = napari_viewer.layers.selection.events.active
        active.connect(self._on_layer_selected)
        self.destroyed.connect(lambda *_: active.disconnect(self._on_layer_selected))
        self._on_layer_selected()

    def reset_choices(self, *_: Any) -> None:
        """Offer the layers there are now; napari calls this when they change."""
        for box in (self.labels, self.image):
            box.reset_choices()

    def measure(self) -> None:
        """Do what the Measure button does."""
        try:
            self._begin()
        except BiomedParseError as error:
            show_error(str(error))

    def _begin(self) -> None:
        labels, image = self.labels.value, self.image.value
        if labels is None or image is None:
            raise VolumeError("Open an image and its labels first, and choose both.")
        volume = volume_from_layer(image, self._viewer.dims)
        voxels = np.asarray(labels.data).reshape((-1, *labels.data.shape[-2:]))
        pieces = bool(self.pieces.value)
        texts = labels.metadata.get(METADATA_KEY, {}).get("text_prompts", {})
        names = {} if labels.features is None else _names(labels.features)

        def work() -> None:
            try:
                objects, prompts = (
                    components_of(voxels, texts) if pieces else (voxels, names)
                )
                table = measure_objects(objects, volume, prompts=prompts)
                self._measured.emit(objects.reshape(labels.data.shape), table)
            except BiomedParseError as error:
                self._failed.emit(str(error))

        def conclude(objects: npt.NDArray[Any], table: pd.DataFrame) -> None:
            self._show(labels, objects if pieces else None, table)

        self._conclude = conclude
        self._set_busy(True)
        self._thread = threading.Thread(target=work, daemon=True)
        self._thread.start()

    def _show(
        self, labels: Labels, objects: npt.NDArray[Any] | None, table: pd.DataFrame
    ) -> None:
        """Put the table into the layer, or into a new one that has the pieces."""
        if objects is not None:
            labels = self._viewer.add_labels(
                objects,
                name=f"{labels.name} objects",
                metadata={METADATA_KEY: {INSTANCE_KEY: 1}},
                **_place(labels),
            )
        labels.features = table.rename(columns={"id": "index"})
        self._viewer.layers.selection.active = labels
        self._viewer.window.add_plugin_dock_widget(*TABLE)
        self.status.setText(
            f"{len(table)} objects, measured in {table.attrs['unit']}; the features "
            "table shows them."
        )

    def _on_measured(self, objects: npt.NDArray[Any], table: pd.DataFrame) -> None:
        self._set_busy(False)
        if self._conclude is not None:
            self._conclude(objects, table)

    def _on_failed(self, message: str) -> None:
        self._set_busy(False)
        show_error(message)

    def _set_busy(self, busy: bool) -> None:
        self.button.setEnabled(not busy)
        self.status.setText("Measuring…" if busy else "")

    def _layers(self, kind: type) -> list[Any]:
        return [layer for layer in self._viewer.layers if isinstance(layer, kind)]

    def _on_layer_selected(self, *_: Any) -> None:
        active = self._viewer.layers.selection.active
        for box in (self.labels, self.image):
            if active in box.choices:
                box.value = active
        self._on_labels_changed()

    def _on_labels_changed(self, *_: Any) -> None:
        if self.labels.value is not None:
            known = self.labels.value.metadata.get(METADATA_KEY, {})
            self.pieces.value = not known.get(INSTANCE_KEY)


def _names(features: pd.DataFrame) -> dict[int, str]:
    """Read what each object is from a layer's features, if it is written there."""
    if not {"index", "prompt"} <= set(features.columns):
        return {}
    return dict(zip(features["index"].tolist(), features["prompt"], strict=True))


def _place(layer: Labels) -> dict[str, Any]:
    """Return where a layer lies, for another one to lie there, too."""
    names = ("scale", "translate", "rotate", "shear", "affine", "units", "axis_labels")
    return {name: getattr(layer, name) for name in names}
