"""The dock widget that compares two Labels layers."""

from __future__ import annotations

import math
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from magicgui.widgets import CheckBox, FloatSpinBox
from napari.layers import Labels
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QHeaderView, QTableWidget, QTableWidgetItem

from napari_biomedparse.data.prompts import INSTANCE_KEY
from napari_biomedparse.errors import VolumeError, install_extra
from napari_biomedparse.evaluation.compare import compare_labels
from napari_biomedparse.evaluation.scores import shown
from napari_biomedparse.io.formats.units import unit_name
from napari_biomedparse.viewer.layers import (
    METADATA_KEY,
    prompts_of_layer,
    voxel_size,
    voxels_of_labels,
)
from napari_biomedparse.widgets.shared.docks import Dock
from napari_biomedparse.widgets.shared.form import LayerChoice, copy_text, form_of
from napari_biomedparse.widgets.shared.parts import button, column

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari import Viewer

    from napari_biomedparse.evaluation.scores import ClassLine

COLUMNS = {
    "dsc": ("Dice", "Dice coefficient of the voxels, 0 to 1."),
    "nsd": ("NSD", "Fraction of the surfaces within the tolerance, 0 to 1."),
    "f1": (
        "F1",
        "F1 score of objects, or of connected components of a label, that overlap by "
        "at least half.",
    ),
    "true_positives": ("Hits", "Objects in both layers."),
    "false_positives": ("Extra", "Objects in Labels only."),
    "false_negatives": ("Missed", "Objects in Truth only."),
}
COUNTS = ("true_positives", "false_positives", "false_negatives")


class CompareWidget(Dock):
    """Compare a Labels layer with another one that is the ground truth."""

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__(napari_viewer)
        self._prefilled = 2.0
        self._rows: list[list[str]] = []
        self.labels = LayerChoice(
            napari_viewer,
            Labels,
            label="Labels",
            tooltip="The labels to score. Follows the selected layer.",
        )
        self.truth = LayerChoice(
            napari_viewer,
            Labels,
            follows=False,
            label="Truth",
            tooltip="The ground truth.",
        )
        self.tolerance = FloatSpinBox(
            label="Tolerance",
            value=2.0,
            min=0.0,
            max=1e6,
            step=0.5,
            tooltip="Distance up to which surfaces agree (NSD), in the layers' unit. "
            "By default, twice the smallest side of a voxel.",
        )
        self.objects = CheckBox(
            label="Each label value is an object",
            tooltip="On: compare objects, regardless of their values. Off: compare "
            "label by label.",
        )
        self.button = button(
            "Compare", "Score the labels against the truth.", self.compare
        )
        self._starters = [self.button]
        self.copy_button = button(
            "Copy table",
            "Copy the table for pasting into a spreadsheet.",
            self.copy,
            enabled=False,
        )
        self.table = _table()
        form = form_of(self.labels, self.truth, self.tolerance, self.objects)
        parts = form, self.button, self.table, self.copy_button
        column(self, *parts, self.status, self.problem, margins=True)
        self.labels.changed.connect(self._on_labels_changed)
        self._on_labels_changed()

    def reset_choices(self, *_: Any) -> None:
        """List the current layers; napari calls this when they change."""
        for box in (self.labels, self.truth):
            box.reset_choices()

    def compare(self) -> None:
        """Compare the two layers."""
        with self.problem.shown():
            self._begin()

    def copy(self) -> None:
        """Copy the table."""
        headings = ["Label", *(title for title, _ in COLUMNS.values())]
        copy_text("\n".join("\t".join(row) for row in (headings, *self._rows)))

    def _begin(self) -> None:
        labels, truth = self.labels.value, self.truth.value
        if labels is None or truth is None or labels is truth:
            raise VolumeError("Choose two different Labels layers.")
        volumes = voxels_of_labels(truth), voxels_of_labels(labels)
        known = prompts_of_layer(labels) or prompts_of_layer(truth)
        texts = {p.id: p.text for p in known.prompts} if known else {}
        work = partial(
            compare_labels,
            *volumes,
            texts=texts,
            spacing=voxel_size(labels),
            tolerance=float(self.tolerance.value),
            objects=bool(self.objects.value),
        )
        self._unit = unit_name(labels.units[-1])
        self._submit("Comparing…", work, self._on_compared)

    def _on_compared(self, lines: Sequence[ClassLine]) -> None:
        self.copy_button.setEnabled(bool(lines))
        self._rows = [_cells(line) for line in lines]
        self.table.setRowCount(len(lines))
        for row, cells in enumerate(self._rows):
            for at, text in enumerate(cells):
                item, sides = QTableWidgetItem(text), Qt.AlignmentFlag
                side = sides.AlignRight if at else sides.AlignLeft
                item.setTextAlignment(side | sides.AlignVCenter)
                self.table.setItem(row, at, item)
        distance = f"{self.tolerance.value:g} {self._unit}"
        said = f"NSD tolerance: {distance}." if lines else "Neither layer has labels."
        if find_spec("monai") is None:
            said = f"NSD needs more packages: {install_extra('evaluate')}"
        self.status.setText(said)

    def _on_labels_changed(self, *_: Any) -> None:
        if (layer := self.labels.value) is not None:
            known = layer.metadata.get(METADATA_KEY, {})
            self.objects.value = bool(known.get(INSTANCE_KEY))
            self._prefill_tolerance(2 * min(voxel_size(layer)[-layer.ndim :]))

    def _prefill_tolerance(self, distance: float) -> None:
        """Set the tolerance and its number of digits, unless the user set it."""
        if self.tolerance.value != self._prefilled:
            return
        digits = 2 - math.floor(math.log10(distance))
        self.tolerance.native.setDecimals(max(2, digits))
        self.tolerance.value = distance
        self._prefilled = self.tolerance.value


def _cells(line: ClassLine) -> list[str]:
    """Return the texts of a row."""
    name = line.prompt if line.label == 0 else f"{line.label}  {line.prompt}"
    values = {metric: float(getattr(line, metric)) for metric in COLUMNS}
    digits = {metric: 0 if metric in COUNTS else 3 for metric in COLUMNS}
    return [name.strip(), *(shown(values[m], digits=digits[m]) for m in COLUMNS)]


def _table() -> QTableWidget:
    """Return a table with the headings of the scores."""
    table = QTableWidget()
    table.setEditTriggers(QTableWidget.EditTrigger.NoEditTriggers)
    table.setColumnCount(1 + len(COLUMNS))
    headings = [("Label", ""), *COLUMNS.values()]
    for at, (title, tip) in enumerate(headings):
        item = QTableWidgetItem(title)
        item.setToolTip(tip)
        table.setHorizontalHeaderItem(at, item)
    header, side = table.horizontalHeader(), table.verticalHeader()
    assert header is not None and side is not None
    header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
    header.setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
    side.hide()
    return table
