"""The Qt model of the prompt table, and its editor."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QMimeData, QModelIndex, Qt, Signal
from qtpy.QtGui import (
    QColor,
    QFont,
    QIcon,
    QPalette,
    QPixmap,
    QStandardItem,
    QStandardItemModel,
)
from qtpy.QtWidgets import QApplication, QStyledItemDelegate

from napari_biomedparse.data.prompts import Prompt, PromptSet, label_colour
from napari_biomedparse.data.results import NO_TABLE, score_text
from napari_biomedparse.errors import PromptError
from napari_biomedparse.networks.blocks.tokenizer import (
    CONTEXT_LENGTH,
    refuse_equal,
    token_count,
)
from napari_biomedparse.widgets.prompts.rows import Result, Row, Snapshot, short_count
from napari_biomedparse.widgets.prompts.suggestions import CompletingLine
from napari_biomedparse.widgets.shared.form import WARNING

if TYPE_CHECKING:
    from qtpy.QtWidgets import QStyleOptionViewItem, QWidget

    from napari_biomedparse.report.findings import Finding

PROMPT, SCORE, SLICE, VOXELS, OBJECTS = range(5)
HEADINGS = {
    PROMPT: ("Prompt", "What to segment, and the colour of its label."),
    SCORE: (
        "Score",
        "Probability that the target is present, in the slice where it is highest: "
        "0 to 1.",
    ),
    SLICE: ("Slice", "Slice with the highest score. Click a number to go there."),
    VOXELS: ("Voxels", "Number of voxels of the label."),
    OBJECTS: ("Objects", "Number of separate objects."),
}
P_TIP = (
    "p: how well the mask looks like its target, in the slice where it is highest: 0 "
    "to 1. Below about 0.05, it does not look like it."
)
NO_TABLE_TIP = (
    f"There is {NO_TABLE}. Name the kind of image in the prompt, as in 'neoplastic "
    "cells in breast pathology', or choose it in the form."
)
RESULTS = (SCORE, SLICE, VOXELS, OBJECTS)
_MIME = "application/x-napari-biomedparse-row"
_SWATCH = 16
"""Side length in pixels."""
_ITEM, _CHECK = Qt.ItemDataRole, Qt.CheckState
_LABEL, _RESULT = _ITEM.UserRole, _ITEM.UserRole + 1
"""Roles of a prompt's cell."""


class PromptModel(QStandardItemModel):
    """An ordered list of prompts, and the results of the last run beside them.

    A row keeps its label id when it is moved or turned off, and when others go.
    `edited` follows any change that matters to a run; `moved` carries the new place of
    a row, and `refused` the reason why a text was not accepted.
    """

    edited = Signal()
    moved = Signal(int)
    refused = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        for column, (title, tip) in HEADINGS.items():
            heading = QStandardItem(title)
            heading.setToolTip(tip)
            heading.setTextAlignment(_alignment(column))
            self.setHorizontalHeaderItem(column, heading)

    @property
    def rows(self) -> list[Row]:
        """The rows from top to bottom."""
        return [self._row(at) for at in range(self.rowCount())]

    @property
    def texts(self) -> tuple[str, ...]:
        """Text of each row that is on."""
        return tuple(row.text for row in self.rows if row.on)

    def prompt_set(self) -> PromptSet:
        """Return the prompts that are on, in the order of the rows.

        Raises `PromptError` if there are none.
        """
        on = [row for row in self.rows if row.on]
        if self.rowCount() and not on:
            raise PromptError(
                "All prompts are turned off; tick the box of at least one."
            )
        refuse_equal(row.text for row in on)
        by_id = sorted(on, key=lambda row: row.id)
        prompts = tuple(Prompt(row.id, row.text) for row in by_id)
        return PromptSet(prompts, order=tuple(row.id for row in on))

    def snapshot(self) -> Snapshot:
        """Return the rows without their results."""
        return tuple((row.id, row.text, row.on) for row in self.rows)

    def restore(self, snapshot: Snapshot) -> None:
        """Restore the rows of a snapshot; raises PromptError if one is not valid."""
        PromptSet(tuple(Prompt(number, text) for number, text, _ in sorted(snapshot)))
        self._replace(Row(*row) for row in snapshot)

    def set_all(self, prompts: PromptSet | None) -> None:
        """Replace all rows."""
        texts = {} if prompts is None else {p.id: p.text for p in prompts.prompts}
        order = () if prompts is None else prompts.ranked
        self._replace(Row(number, texts[number]) for number in order)

    def add(self, texts: Iterable[str]) -> None:
        """Append rows with new label ids."""
        first = max((row.id for row in self.rows), default=0) + 1
        for prompt in [Prompt(at, text) for at, text in enumerate(texts, first)]:
            self._append(Row(prompt.id, prompt.text))
        self.edited.emit()

    def set_text(self, at: int, text: str) -> None:
        """Change the text of a row and clear its result."""
        row = self._row(at)
        if text.strip() != row.text:
            prompt = Prompt(row.id, text.strip())
            self._show(at, Row(prompt.id, prompt.text, row.on))
        self.edited.emit()

    def switch(self, at: int, on: bool) -> None:
        """Turn a row on or off."""
        self._cell(at).setCheckState(_CHECK.Checked if on else _CHECK.Unchecked)
        self.edited.emit()

    def move(self, at: int, to: int) -> None:
        """Move a row to another position, if it exists."""
        if at != to and {at, to} <= set(range(self.rowCount())):
            self.insertRow(to, self.takeRow(at))
            self.moved.emit(to)
            self.edited.emit()

    def duplicate(self, at: int) -> int:
        """Insert a copy with a new label id below a row; return its position."""
        self.add([self._row(at).text])
        self.move(self.rowCount() - 1, at + 1)
        return at + 1

    def delete(self, positions: Iterable[int]) -> None:
        """Remove rows."""
        for at in sorted(positions, reverse=True):
            self.removeRow(at)
        self.edited.emit()

    def show_results(
        self,
        findings: Sequence[Finding],
        objects: Mapping[int, int] | None = None,
        score: str = "existence",
    ) -> None:
        """Show a run's findings, its numbers of objects by label id, and its score."""
        heading = self.horizontalHeaderItem(SCORE)
        assert heading is not None
        heading.setText("p" if score == "p" else HEADINGS[SCORE][0])
        heading.setToolTip(P_TIP if score == "p" else HEADINGS[SCORE][1])
        found = {(f.prompt.id, f.prompt.text): f for f in findings}
        for at, row in enumerate(self.rows):
            if (finding := found.get((row.id, row.text))) is not None:
                count = None if objects is None else objects.get(row.id, 0)
                best = finding.best, finding.best_slice
                result = Result(*best, finding.voxels, count, score)
                self._show_result(at, replace(row, result=result))

    def clear_results(self) -> None:
        """Clear all results."""
        for at, row in enumerate(self.rows):
            self._show_result(at, replace(row, result=None))

    def setData(
        self, index: QModelIndex, value: Any, role: int = _ITEM.EditRole
    ) -> bool:
        """Set a new text, or turn a prompt on or off, as the user says."""
        if role == _ITEM.CheckStateRole:
            self.switch(index.row(), _CHECK(value) == _CHECK.Checked)
            return True
        if role != _ITEM.EditRole or not str(value).strip():
            return False
        try:
            self.set_text(index.row(), str(value))
        except PromptError as error:
            self.refused.emit(str(error))
            return False
        return True

    def _replace(self, rows: Iterable[Row]) -> None:
        self.setRowCount(0)
        for row in rows:
            self._append(row)
        self.edited.emit()

    def _cell(self, at: int, column: int = PROMPT) -> QStandardItem:
        cell = self.item(at, column)
        assert cell is not None
        return cell

    def _row(self, at: int) -> Row:
        cell = self._cell(at)
        on = cell.checkState() == _CHECK.Checked
        return Row(cell.data(_LABEL), cell.text(), on, cell.data(_RESULT))

    def _append(self, row: Row) -> None:
        cells = [QStandardItem() for _ in HEADINGS]
        for column, cell in enumerate(cells):
            cell.setTextAlignment(_alignment(column))
            cell.setEditable(column == PROMPT)
            cell.setDropEnabled(False)  # rows are dropped between rows
        cells[SLICE].setData(_link(), _ITEM.FontRole)
        prompt = cells[PROMPT]
        prompt.setCheckable(True)
        prompt.setIcon(swatch(row.id))
        prompt.setData(row.id, _LABEL)
        self.appendRow(cells)
        self._show(self.rowCount() - 1, row)

    def _show(self, at: int, row: Row) -> None:
        prompt = self._cell(at)
        prompt.setText(row.text)
        prompt.setCheckState(_CHECK.Checked if row.on else _CHECK.Unchecked)
        tokens = token_count(row.text)
        read = f"{tokens} of {CONTEXT_LENGTH} tokens"
        if tokens > CONTEXT_LENGTH:
            read = f"{tokens} tokens; only the first {CONTEXT_LENGTH} are used"
        prompt.setToolTip(f"{row.text}\nLabel {row.id}; {read}. Double-click to edit.")
        colour = WARNING if tokens > CONTEXT_LENGTH else None
        prompt.setData(colour, _ITEM.ForegroundRole)
        self._show_result(at, row)

    def _show_result(self, at: int, row: Row) -> None:
        """Show a result; the text beside it may be being edited."""
        self._cell(at).setData(row.result, _RESULT)
        for column, (text, tip) in _shown(row.result).items():
            cell = self._cell(at, column)
            cell.setText(text)
            cell.setToolTip(tip)

    def supportedDropActions(self) -> Qt.DropAction:
        """Allow rows to be moved."""
        return Qt.DropAction.MoveAction

    def mimeTypes(self) -> list[str]:
        """Accept rows of a prompt table."""
        return [_MIME]

    def mimeData(self, indexes: Iterable[QModelIndex]) -> QMimeData:
        """Return the dragged row."""
        data = QMimeData()
        data.setData(_MIME, str(next(iter(indexes)).row()).encode())
        return data

    def dropMimeData(
        self,
        data: QMimeData | None,
        action: Qt.DropAction,
        row: int,
        column: int,
        parent: QModelIndex,
    ) -> bool:
        """Move the dragged row above another, or to the end."""
        if data is not None and data.hasFormat(_MIME):
            at = int(data.data(_MIME).data())
            above = parent.row() if parent.isValid() else row
            if above < 0:
                above = self.rowCount()
            self.move(at, above - 1 if above > at else above)
        return False  # else the view would remove what it takes for the original


class PromptDelegate(QStyledItemDelegate):
    """Edits a prompt in place, with the same suggestions as the prompt line."""

    modality = "auto"
    first: Sequence[str] = ()

    def createEditor(
        self,
        parent: QWidget | None,
        option: QStyleOptionViewItem,
        index: QModelIndex,
    ) -> QWidget:
        """Return a line edit with suggestions."""
        return CompletingLine(self.modality, self.first, parent)

    def initStyleOption(
        self, option: QStyleOptionViewItem | None, index: QModelIndex
    ) -> None:
        """Keep the warning colour in selected rows."""
        super().initStyleOption(option, index)
        colour = index.data(_ITEM.ForegroundRole)
        if option is not None and isinstance(colour, QColor):
            option.palette.setColor(QPalette.ColorRole.HighlightedText, colour)


@cache
def swatch(label: int) -> QIcon:
    """Return an icon in napari's colour of a label, the same in selected rows."""
    pixmap = QPixmap(_SWATCH, _SWATCH)
    pixmap.fill(QColor(*label_colour(label)))
    icon = QIcon()
    for mode in (QIcon.Mode.Normal, QIcon.Mode.Selected):
        icon.addPixmap(pixmap, mode)
    return icon


@cache
def _link() -> QFont:
    font = QFont(QApplication.font())
    font.setUnderline(True)
    return font


def _alignment(column: int) -> Qt.AlignmentFlag:
    side = (
        Qt.AlignmentFlag.AlignLeft if column == PROMPT else Qt.AlignmentFlag.AlignRight
    )
    return side | Qt.AlignmentFlag.AlignVCenter


def _shown(result: Result | None) -> dict[int, tuple[str, str]]:
    """Return the text and the tooltip of each column of results."""
    if result is None:
        return dict.fromkeys(RESULTS, ("", "Available after a run."))
    tips = {column: HEADINGS[column][1] for column in RESULTS}
    tips[VOXELS] = f"{result.voxels:,} voxels"
    if result.best_slice is not None:
        tips[SLICE] = f"Go to slice {result.best_slice}, where the score is highest."
    if result.name == "p":
        tips[SCORE] = NO_TABLE_TIP if math.isnan(result.score) else P_TIP
    texts = {
        SCORE: score_text(result.score, result.name),
        SLICE: "-" if result.best_slice is None else str(result.best_slice),
        VOXELS: short_count(result.voxels),
        OBJECTS: "-" if result.objects is None else short_count(result.objects),
    }
    return {column: (texts[column], tips[column]) for column in RESULTS}
