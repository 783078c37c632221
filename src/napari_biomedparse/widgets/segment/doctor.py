"""Why a run found nothing, in a line or two, each with a button that mends it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QHBoxLayout, QLabel, QPushButton, QVBoxLayout, QWidget

from napari_biomedparse.widgets.shared.background import Beside

if TYPE_CHECKING:
    from napari_biomedparse.report.why_empty import Cause

_MOST = 3
"""Causes shown, the likeliest first: more would not be read."""


class Doctor(QWidget):
    """Lists likely causes; hidden while there is nothing to say.

    Signals
    -------
    fix_chosen : Cause
        Whose options and prompts are to be set.
    """

    fix_chosen = Signal(object)

    def __init__(self) -> None:
        super().__init__()
        self._rows: list[QWidget] = []
        self._beside = Beside(self)
        self._beside.done.connect(self.show_causes)
        self._layout = QVBoxLayout(self)
        self._layout.setContentsMargins(0, 0, 0, 0)
        self.hide()

    def examine(self, why: Callable[[], Sequence[Cause]]) -> None:
        """Find out why nothing was found, beside the GUI's thread, and show it."""
        self._beside.ask(why)

    def show_causes(self, causes: Sequence[Cause]) -> None:
        """Show why nothing was found; no causes hide it."""
        self._beside.drop()
        for row in self._rows:
            self._layout.removeWidget(row)
            row.deleteLater()
        self._rows = [self._row(cause) for cause in causes[:_MOST]]
        for row in self._rows:
            self._layout.addWidget(row)
        self.setVisible(bool(self._rows))

    def _row(self, cause: Cause) -> QWidget:
        row = QWidget()
        text = QLabel(f"{cause.sentence} {cause.fix}")
        text.setWordWrap(True)
        text.setTextFormat(Qt.TextFormat.PlainText)
        layout = QHBoxLayout(row)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(text, 1)
        if cause.options or cause.prompts:
            button = QPushButton("Fix")
            button.setToolTip(cause.fix)
            button.setAccessibleName(f"Fix: {cause.fix}")
            button.clicked.connect(lambda: self.fix_chosen.emit(cause))
            layout.addWidget(button)
        return row
