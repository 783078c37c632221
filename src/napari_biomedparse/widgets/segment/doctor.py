"""Likely causes why a run found nothing, each with a button that fixes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QWidget

from napari_biomedparse.widgets.shared.background import LatestWork
from napari_biomedparse.widgets.shared.parts import button, column, plain_text, row

if TYPE_CHECKING:
    from napari_biomedparse.report.why_empty import Cause

_MOST = 3
"""Maximum number of causes shown, the likeliest first."""


class Doctor(QWidget):
    """Lists likely causes; hidden while there are none."""

    fix_chosen = Signal(object)
    """The `Cause` whose options and prompts the user wants to apply."""

    def __init__(self) -> None:
        super().__init__()
        self._rows: list[QWidget] = []
        self._work = LatestWork(self)
        self._work.done.connect(self.show_causes)
        self._layout = column(self)
        self.hide()

    def examine(self, why: Callable[[], Sequence[Cause]]) -> None:
        """Find the causes in a background thread and show them."""
        self._work.submit(why)

    def show_causes(self, causes: Sequence[Cause]) -> None:
        """Show the causes; without any, hide the list."""
        self._work.discard()
        for line in self._rows:
            self._layout.removeWidget(line)
            line.deleteLater()
        self._rows = [self._row(cause) for cause in causes[:_MOST]]
        for line in self._rows:
            self._layout.addWidget(line)
        self.setVisible(bool(self._rows))

    def _row(self, cause: Cause) -> QWidget:
        line, text = QWidget(), plain_text(f"{cause.sentence} {cause.fix}")
        parts = row((text, 1))
        if cause.options or cause.prompts:
            fix = button("Fix", cause.fix, lambda: self.fix_chosen.emit(cause))
            fix.setAccessibleName(f"Fix: {cause.fix}")
            parts.addWidget(fix)
        column(line, parts)
        return line
