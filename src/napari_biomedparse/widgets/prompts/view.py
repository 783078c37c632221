"""The view of the prompt table, and the token count."""

from __future__ import annotations

from qtpy.QtCore import QSize, Qt
from qtpy.QtWidgets import (
    QAbstractItemView,
    QHeaderView,
    QLabel,
    QSizePolicy,
    QTableView,
)

from napari_biomedparse.networks.blocks.tokenizer import CONTEXT_LENGTH, token_count
from napari_biomedparse.widgets.prompts.model import (
    HEADINGS,
    OBJECTS,
    PROMPT,
    PromptDelegate,
    PromptModel,
)
from napari_biomedparse.widgets.shared.form import WARNING

_FEWEST, _MOST = 1, 10
"""Smallest and largest number of rows shown; with more, the table scrolls."""


class PromptView(QTableView):
    """A table without a grid, as tall as its rows; the prompts take the free width."""

    def __init__(self, model: PromptModel) -> None:
        super().__init__()
        self.editor = PromptDelegate(self)
        self.setModel(model)
        self.setItemDelegateForColumn(PROMPT, self.editor)
        self.setToolTip("What to segment, one prompt per row. Drag rows to reorder.")
        self.setShowGrid(False)
        self.setWordWrap(False)
        self.setTabKeyNavigation(False)  # Tab leaves the table
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setDragDropMode(QAbstractItemView.DragDropMode.InternalMove)
        self.setDragDropOverwriteMode(False)
        self.setContextMenuPolicy(Qt.ContextMenuPolicy.ActionsContextMenu)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        rows, columns = self.verticalHeader(), self.horizontalHeader()
        assert rows is not None and columns is not None
        rows.hide()
        rows.setDefaultSectionSize(self.fontMetrics().lineSpacing() + 6)
        columns.setHighlightSections(False)
        columns.setMinimumSectionSize(20)
        for column in HEADINGS:
            columns.setSectionResizeMode(
                column, QHeaderView.ResizeMode.ResizeToContents
            )
        columns.setSectionResizeMode(PROMPT, QHeaderView.ResizeMode.Stretch)
        self._prompts = model
        self.fit()

    def selected(self) -> list[int]:
        """Return the positions of the selected rows, from top to bottom."""
        chosen = self.selectionModel()
        return [] if chosen is None else sorted(i.row() for i in chosen.selectedRows())

    def choose(self, at: int) -> None:
        """Select a row and scroll to it."""
        self.selectRow(at)
        model = self.model()
        assert model is not None
        self.scrollTo(model.index(at, PROMPT))

    def fit(self) -> None:
        """Show the columns that have results, and adapt the height."""
        known = (row.result for row in self._prompts.rows)
        results = [result for result in known if result is not None]
        for column in HEADINGS:
            shown = column == PROMPT or bool(results)
            if column == OBJECTS:
                shown = any(result.objects is not None for result in results)
            self.setColumnHidden(column, not shown)
        self.updateGeometry()

    def sizeHint(self) -> QSize:
        """Return the size of the rows, within bounds."""
        rows, columns = self.verticalHeader(), self.horizontalHeader()
        assert rows is not None and columns is not None
        count = min(max(self._prompts.rowCount(), _FEWEST), _MOST)
        height = count * rows.defaultSectionSize() + columns.sizeHint().height()
        return QSize(300, height + 2 * self.frameWidth() + 2)

    def minimumSizeHint(self) -> QSize:
        """Return the preferred height: the table does not shrink."""
        return QSize(200, self.sizeHint().height())


class TokenCount(QLabel):
    """Counts the tokens of a text and warns if there are too many."""

    def __init__(self) -> None:
        super().__init__()
        self.setToolTip(
            f"The network uses the first {CONTEXT_LENGTH} tokens of a prompt: pieces "
            "of words, and one each for its beginning and end."
        )

    def count(self, text: str) -> None:
        """Show the number of tokens; hidden without text."""
        tokens = token_count(text)
        cut = tokens > CONTEXT_LENGTH
        self.setVisible(bool(text))
        self.setText(f"{tokens}/{CONTEXT_LENGTH} tokens" + " (end ignored)" * cut)
        self.setStyleSheet(f"color: {WARNING.name()}" if cut else "")
