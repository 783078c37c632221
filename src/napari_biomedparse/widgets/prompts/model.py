"""The Qt model of the prompt table, over `PromptRows`, and its editor."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QAbstractTableModel, QMimeData, QModelIndex, Qt, Signal
from qtpy.QtGui import QColor, QFont, QIcon, QPalette, QPixmap
from qtpy.QtWidgets import QApplication, QStyledItemDelegate

from napari_biomedparse.data.prompts import label_colour
from napari_biomedparse.errors import PromptError
from napari_biomedparse.networks.blocks.tokenizer import CONTEXT_LENGTH, token_count
from napari_biomedparse.widgets.prompts.rows import PromptRows, Row, short_count
from napari_biomedparse.widgets.prompts.suggestions import CompletingLine
from napari_biomedparse.widgets.shared.form import WARNING

if TYPE_CHECKING:
    from qtpy.QtWidgets import QStyleOptionViewItem, QWidget

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
_MIME = "application/x-napari-biomedparse-row"
_SWATCH = 16
"""Side length in pixels."""
_ITEM = Qt.ItemDataRole
_FLAG = Qt.ItemFlag
_NOWHERE = QModelIndex()


class PromptModel(QAbstractTableModel):
    """Shows the prompts and applies the user's edits.

    `edited` follows any change that matters to a run; `refused` carries the reason why
    a text was not accepted.
    """

    edited = Signal()
    refused = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self.rows = PromptRows()

    def rowCount(self, parent: QModelIndex = _NOWHERE) -> int:
        """Return the number of prompts."""
        return 0 if parent.isValid() else len(self.rows)

    def columnCount(self, parent: QModelIndex = _NOWHERE) -> int:
        """Return the number of columns."""
        return 0 if parent.isValid() else len(HEADINGS)

    def flags(self, index: QModelIndex) -> Qt.ItemFlag:
        """Return what can be done with a cell; rows can be dropped between rows."""
        if not index.isValid():
            return _FLAG.ItemIsDropEnabled
        flags = _FLAG.ItemIsSelectable | _FLAG.ItemIsEnabled | _FLAG.ItemIsDragEnabled
        if index.column() == PROMPT:
            flags |= _FLAG.ItemIsEditable | _FLAG.ItemIsUserCheckable
        return flags

    def headerData(
        self, section: int, orientation: Qt.Orientation, role: int = _ITEM.DisplayRole
    ) -> Any:
        """Return a column's name or description."""
        if orientation == Qt.Orientation.Vertical:
            return None
        if role == _ITEM.DisplayRole:
            return HEADINGS[section][0]
        if role == _ITEM.TextAlignmentRole:
            return _alignment(section)
        return HEADINGS[section][1] if role == _ITEM.ToolTipRole else None

    def data(self, index: QModelIndex, role: int = _ITEM.DisplayRole) -> Any:
        """Return what a cell shows."""
        row, column = self.rows[index.row()], index.column()
        if role == _ITEM.TextAlignmentRole:
            return _alignment(column)
        if role == _ITEM.ToolTipRole:
            return _tooltip(row, column)
        if column == SLICE and role == _ITEM.FontRole:
            return _link()
        if column != PROMPT:
            return _shown(row, column) if role == _ITEM.DisplayRole else None
        if role in (_ITEM.DisplayRole, _ITEM.EditRole):
            return row.text
        if role == _ITEM.DecorationRole:
            return _swatch(row.id)
        if role == _ITEM.CheckStateRole:
            return Qt.CheckState.Checked if row.on else Qt.CheckState.Unchecked
        if role == _ITEM.ForegroundRole and token_count(row.text) > CONTEXT_LENGTH:
            return WARNING
        return None

    def setData(
        self, index: QModelIndex, value: Any, role: int = _ITEM.EditRole
    ) -> bool:
        """Set a new text, or turn a prompt on or off."""
        if role == _ITEM.CheckStateRole:
            self.rows.switch(index.row(), Qt.CheckState(value) == Qt.CheckState.Checked)
        elif role == _ITEM.EditRole and str(value).strip():
            try:
                self.rows.set_text(index.row(), str(value))
            except PromptError as error:
                self.refused.emit(str(error))
                return False
        else:
            return False
        self.dataChanged.emit(index, self.index(index.row(), OBJECTS))
        self.edited.emit()
        return True

    def refresh(self, *, edited: bool) -> None:
        """Show rows that were changed without this model."""
        self.beginResetModel()
        self.endResetModel()
        if edited:
            self.edited.emit()

    def refresh_results(self) -> None:
        """Update the results; selection and editors stay."""
        if len(self.rows):
            last = self.index(len(self.rows) - 1, OBJECTS)
            self.dataChanged.emit(self.index(0, SCORE), last)

    def move(self, at: int, to: int) -> bool:
        """Move a row to another position, if it exists."""
        if at == to or not (0 <= at < len(self.rows) and 0 <= to < len(self.rows)):
            return False
        below = to + 1 if to > at else to
        self.beginMoveRows(_NOWHERE, at, at, _NOWHERE, below)
        self.rows.move(at, to)
        self.endMoveRows()
        self.edited.emit()
        return True

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
        if data is None or not data.hasFormat(_MIME):
            return False
        at = int(data.data(_MIME).data())
        above = parent.row() if parent.isValid() else row
        if above < 0:
            above = len(self.rows)
        return self.move(at, above - 1 if above > at else above)


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
def _swatch(label: int) -> QIcon:
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


def _shown(row: Row, column: int) -> str:
    result = row.result
    if result is None:
        return ""
    if column == SCORE:
        return "-" if math.isnan(result.score) else f"{result.score:.2f}"
    if column == SLICE:
        return "-" if result.best_slice is None else str(result.best_slice)
    count = result.voxels if column == VOXELS else result.objects
    return "-" if count is None else short_count(count)


def _tooltip(row: Row, column: int) -> str:
    result = row.result
    if column == PROMPT:
        tokens = token_count(row.text)
        read = f"{tokens} of {CONTEXT_LENGTH} tokens"
        if tokens > CONTEXT_LENGTH:
            read = f"{tokens} tokens; only the first {CONTEXT_LENGTH} are used"
        return f"{row.text}\nLabel {row.id}; {read}. Double-click to edit."
    if result is None:
        return "Available after a run."
    if column == SLICE and result.best_slice is not None:
        return f"Go to slice {result.best_slice}, where the score is highest."
    if column == VOXELS:
        return f"{result.voxels:,} voxels"
    return HEADINGS[column][1]
