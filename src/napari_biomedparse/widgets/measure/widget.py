"""A dock widget: measure, save and report a Labels layer; napari's own table out."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from magicgui.widgets import CheckBox
from napari.layers import Image, Labels
from napari.utils.notifications import show_error
from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QFileDialog,
    QHBoxLayout,
    QLabel,
    QMainWindow,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from napari_biomedparse.data.prompts import INSTANCE_KEY
from napari_biomedparse.errors import BiomedParseError, VolumeError
from napari_biomedparse.labels.measure import components_of, measure_objects
from napari_biomedparse.report.run_page import write_report
from napari_biomedparse.viewer.layers import (
    METADATA_KEY,
    volume_from_layer,
    write_labels,
)
from napari_biomedparse.widgets.measure.layer_report import result_of_layers
from napari_biomedparse.widgets.shared.docks import SharedTabs
from napari_biomedparse.widgets.shared.form import form_layout
from napari_biomedparse.widgets.shared.layer_choice import LayerChoice

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt
    import pandas as pd
    from napari import Viewer

TABLE = ("napari", "Features table widget")
"""napari's own table of a layer's features: sorts, follows clicks, saves as CSV."""
SAVE_FILTERS = (
    "OME-Zarr (*.zarr);;TIFF (*.tif *.tiff);;Challenge file (*.npz);;"
    "NIfTI (*.nii.gz *.nii)"
)


class MeasureWidget(QWidget):
    """Measure the objects of a Labels layer, save it, or write a report page.

    Parameters
    ----------
    napari_viewer : napari.Viewer
        Whose layers are offered.
    """

    _measured = Signal(object, object)
    _failed = Signal(str)
    _told = Signal(str)

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__()
        SharedTabs(self)
        self._viewer = napari_viewer
        self._thread: threading.Thread | None = None
        self._conclude: Callable[[npt.NDArray[Any], pd.DataFrame], None] | None = None
        self.labels = LayerChoice(
            napari_viewer,
            Labels,
            label="Labels",
            tooltip="The labels to measure; follows the layer you select.",
        )
        self.image = LayerChoice(
            napari_viewer,
            Image,
            label="Image",
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
        self.save_button = QPushButton("Save labels…")
        self.save_button.setToolTip(
            "Save the labels with their prompts and scale, as OME-Zarr, TIFF, .npz or "
            "NIfTI."
        )
        self.report_button = QPushButton("Report…")
        self.report_button.setToolTip(
            "Write one HTML page: pictures, existence plot, objects, and how the "
            "labels were made."
        )
        self.status = QLabel()
        self.status.setWordWrap(True)
        form = QWidget()
        form_layout(form, [self.labels, self.image, self.pieces])
        layout = QVBoxLayout(self)
        layout.addWidget(form)
        layout.addWidget(self.button)
        below = QHBoxLayout()
        below.addWidget(self.save_button)
        below.addWidget(self.report_button)
        layout.addLayout(below)
        layout.addWidget(self.status)
        layout.addStretch()
        self.button.clicked.connect(self.measure)
        self.save_button.clicked.connect(self._on_save_clicked)
        self.report_button.clicked.connect(self._on_report_clicked)
        self.labels.changed.connect(self._on_labels_changed)
        self._measured.connect(self._on_measured)
        self._failed.connect(self._on_failed)
        self._told.connect(self._on_told)
        self._on_labels_changed()

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

    def save(self, path: str) -> None:
        """Save the labels; the ending says in which format.

        Parameters
        ----------
        path : str
            Replaced if it exists.
        """
        layer = self.labels.value
        if layer is None:
            show_error("Choose the labels to save.")
            return
        data, meta, _ = layer.as_layer_data_tuple()
        self._do(f"Saved as {path}", lambda: write_labels(path, data, meta))

    def report(self, path: str) -> None:
        """Write the report page.

        Parameters
        ----------
        path : str
            Replaced if it exists.
        """
        try:
            labels, image = self._chosen()
            result = result_of_layers(image, labels, self._viewer.dims)
        except BiomedParseError as error:
            show_error(str(error))
            return
        self._do(f"The page is {path}", lambda: write_report(Path(path), result))

    def _chosen(self) -> tuple[Labels, Image]:
        labels, image = self.labels.value, self.image.value
        if labels is None or image is None:
            raise VolumeError("Open an image and its labels first, and choose both.")
        return labels, image

    def _do(self, ending: str, work: Callable[[], object]) -> None:
        """Do something that takes time beside the GUI, and tell when it is done."""

        def run() -> None:
            try:
                work()
                self._told.emit(ending)
            except BiomedParseError as error:
                self._failed.emit(str(error))

        self._set_busy(True, "Writing…")
        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()

    def _begin(self) -> None:
        labels, image = self._chosen()
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
        self._set_busy(True, "Measuring…")
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
        dock, _ = self._viewer.window.add_plugin_dock_widget(*TABLE)
        if isinstance(window := dock.parent(), QMainWindow):
            half = window.height() // 2
            window.resizeDocks([dock], [half], Qt.Orientation.Vertical)
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

    def _on_told(self, text: str) -> None:
        self._set_busy(False, text)

    def _on_save_clicked(self) -> None:
        if path := self._ask("Save labels", SAVE_FILTERS):
            self.save(path)

    def _on_report_clicked(self) -> None:
        if path := self._ask("Report page", "Page (*.html)"):
            self.report(path)

    def _ask(self, title: str, filters: str) -> str:
        """Ask for a file name; the ending of the format chosen is added if missing."""
        path, chosen = QFileDialog.getSaveFileName(self, title, filter=filters)
        ending = chosen.partition("(*")[2].partition(")")[0].split(" ")[0]
        return path if not path or Path(path).suffix else path + ending

    def _set_busy(self, busy: bool, text: str = "") -> None:
        for button in (self.button, self.save_button, self.report_button):
            button.setEnabled(not busy)
        self.status.setText(text)

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
