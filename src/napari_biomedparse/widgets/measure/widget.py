"""The dock widget that measures, saves and reports a Labels layer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from magicgui.widgets import CheckBox, LineEdit
from napari.layers import Image, Labels
from qtpy.QtCore import QTimer

from napari_biomedparse.data.prompts import INSTANCE_KEY
from napari_biomedparse.errors import VolumeError
from napari_biomedparse.io.durable import refuse_inputs
from napari_biomedparse.labels.measure import components_of, measure_objects
from napari_biomedparse.report.objects import save_tables
from napari_biomedparse.report.run_page import write_report
from napari_biomedparse.viewer.layers import (
    METADATA_KEY,
    REVIEWED_KEY,
    set_voxel_size,
    volume_of_channels,
    write_labels,
)
from napari_biomedparse.widgets.measure.layer_report import result_of_layers
from napari_biomedparse.widgets.shared.docks import Dock, join_others, to_front
from napari_biomedparse.widgets.shared.form import (
    SAVE_FILTERS,
    LayerChoice,
    ask_where,
    files_of_images,
    form_of,
)
from napari_biomedparse.widgets.shared.parts import button, column, row

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt
    import pandas as pd
    from napari import Viewer

TABLE = ("napari", "Features table widget")
"""napari's own table of a layer's features."""


class MeasureWidget(Dock):
    """Measure the objects of a Labels layer, save it, or write a report page."""

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__(napari_viewer)
        self.labels = LayerChoice(
            napari_viewer,
            Labels,
            label="Labels",
            tooltip="The labels to measure. Follows the selected layer.",
        )
        self.image = LayerChoice(
            napari_viewer,
            Image,
            label="Image",
            tooltip="The image of the labels, for voxel size and intensities: of all "
            "channels of its file that are open.",
        )
        self.voxel_size = LineEdit(
            label="Voxel size",
            tooltip="Another voxel size for the image and its labels, along z, y and "
            "x with its unit: 0.5,0.1,0.1um. Empty: as it is.",
        )
        self.pieces = CheckBox(
            label="Each connected component is an object",
            value=True,
            tooltip="Off: each label value is an object, as after a run that separated "
            "objects.",
        )
        self._table: pd.DataFrame | None = None
        self.button = button(
            "Measure",
            "Fill napari's features table with one row per object. Click a row to "
            "select the object, or a column to sort.",
            self.measure,
        )
        self.table_button = button(
            "Save table…",
            "Save the objects as CSV with units in the column names, and their sums by "
            "prompt in a second file.",
            lambda: self._ask("Save table", "CSV (*.csv)", self.save_table),
            enabled=False,
        )
        self.save_button = button(
            "Save labels…",
            "Save the labels with their prompts and scale as OME-Zarr, TIFF, .npz or "
            "NIfTI.",
            lambda: self._ask("Save labels", SAVE_FILTERS, self.save),
        )
        self.report_button = button(
            "Report…",
            "Save an HTML page with pictures, existence plot, objects, and how the "
            "labels were made.",
            lambda: self._ask("Save report", "HTML (*.html)", self.report),
        )
        self._starters = [self.button, self.save_button, self.report_button]
        form = form_of(self.labels, self.image, self.voxel_size, self.pieces)
        below = row(self.table_button, self.save_button, self.report_button)
        parts = form, self.button, below, self.status, self.problem
        column(self, *parts, 0, margins=True)
        self.voxel_size.native.editingFinished.connect(self._on_size_entered)
        self.labels.changed.connect(self._on_labels_changed)
        self._on_labels_changed()

    def reset_choices(self, *_: Any) -> None:
        """List the current layers; napari calls this when they change."""
        for box in (self.labels, self.image):
            box.reset_choices()

    def measure(self) -> None:
        """Measure the objects."""
        with self.problem.shown():
            self._begin()

    def save(self, path: str) -> None:
        """Save the labels in the format of the file's extension."""
        layer = self.labels.value
        if layer is None:
            self.problem.fail("Choose a Labels layer to save.")
            return
        data, meta, _ = layer.as_layer_data_tuple()
        self._save(path, lambda: write_labels(path, data, meta))

    def save_table(self, path: str) -> None:
        """Save the table as CSV, and its sums by prompt in a file beside it."""
        table = self._table
        if table is not None:
            # The dialog has asked about this file, but not about the one beside it.
            there = Path(path).exists()
            self._save(path, lambda: save_tables(table, Path(path), overwrite=there))

    def report(self, path: str) -> None:
        """Save the report page."""
        with self.problem.shown():
            labels, image = self._chosen()
            result = result_of_layers(image, labels, self._viewer.dims)
            # The dialog has asked whether to replace a file.
            self._save(path, lambda: write_report(Path(path), result, overwrite=True))

    def _chosen(self) -> tuple[Labels, Image]:
        labels, image = self.labels.value, self.image.value
        if labels is None or image is None:
            raise VolumeError("Open an image and its labels, and choose both.")
        return labels, image

    def _save(self, path: str, write: Callable[[], object]) -> None:
        """Write a file, which the dialog has allowed to replace, but no open image."""
        inputs = files_of_images(self._viewer)

        def work() -> str:
            refuse_inputs(Path(path), inputs)
            write()
            return f"Saved as {path}"

        self._submit("Writing…", work)

    def _begin(self) -> None:
        labels, image = self._chosen()
        volume = volume_of_channels(image, self._viewer.layers, self._viewer.dims)
        voxels = np.asarray(labels.data).reshape((-1, *labels.data.shape[-2:]))
        pieces = bool(self.pieces.value)
        texts = labels.metadata.get(METADATA_KEY, {}).get("text_prompts", {})
        names = {} if labels.features is None else _names(labels.features)

        def work() -> tuple[npt.NDArray[Any], pd.DataFrame]:
            objects, prompts = (
                components_of(voxels, texts) if pieces else (voxels, names)
            )
            return objects, measure_objects(objects, volume, prompts=prompts)

        def conclude(result: tuple[npt.NDArray[Any], pd.DataFrame]) -> None:
            objects, table = result
            shown = objects.reshape(labels.data.shape) if pieces else None
            self._show(labels, shown, table)

        self._submit("Measuring…", work, conclude)

    def _show(
        self, labels: Labels, objects: npt.NDArray[Any] | None, table: pd.DataFrame
    ) -> None:
        """Put the table into the layer, or into a new one with the components."""
        if objects is not None:
            known = dict(labels.metadata.get(METADATA_KEY, {}))
            known.pop(REVIEWED_KEY, None)  # nobody saw the objects
            labels.visible = False  # it would shine through
            labels = self._viewer.add_labels(
                objects,
                name=f"{labels.name} objects",
                metadata={METADATA_KEY: {**known, INSTANCE_KEY: 1}},
                **_place(labels),
            )
        self._table = table
        self._starters.append(self.table_button)
        self.table_button.setEnabled(True)
        made = table.rename(columns={"id": "index"})
        if objects is None and {"index", "score"} <= set(labels.features):
            made["score"] = made["index"].map(labels.features.set_index("index").score)
        labels.features = made
        self._viewer.layers.selection.active = labels
        dock, _ = self._viewer.window.add_plugin_dock_widget(*TABLE)
        join_others(dock)  # its place below would shrink them
        QTimer.singleShot(0, lambda: to_front(dock))  # once it has its place
        self.status.setText(
            f"{len(table)} objects, measured in {table.attrs['unit']}; see the "
            "features table."
        )

    def _ask(self, title: str, filters: str, save: Callable[[str], None]) -> None:
        """Ask for a file name like that of the labels, and save under it."""
        labels = self.labels.value
        name = "labels" if labels is None else labels.name
        if path := ask_where(self, title, name, filters):
            save(path)

    def _on_size_entered(self) -> None:
        text, image = str(self.voxel_size.value), self.image.value
        if not text or image is None:
            return
        with self.problem.shown():
            set_voxel_size(self._viewer.layers, image, text)
            self._viewer.reset_view()
            self.status.setText(f"{image.name} has the voxel size {text}.")
        self.voxel_size.value = ""

    def _on_labels_changed(self, *_: Any) -> None:
        if self.labels.value is not None:
            known = self.labels.value.metadata.get(METADATA_KEY, {})
            self.pieces.value = not known.get(INSTANCE_KEY)


def _names(features: pd.DataFrame) -> dict[int, str]:
    """Return the prompt of each object from a layer's features, if they have it."""
    if not {"index", "prompt"} <= set(features.columns):
        return {}
    return dict(zip(features["index"].tolist(), features["prompt"], strict=True))


def _place(layer: Labels) -> dict[str, Any]:
    """Return the transforms of a layer, for another one in the same place."""
    names = ("scale", "translate", "rotate", "shear", "affine", "units", "axis_labels")
    return {name: getattr(layer, name) for name in names}
