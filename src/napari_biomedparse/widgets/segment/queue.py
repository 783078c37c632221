"""Runs that wait for the one in progress: a short list, each with a way out."""

from __future__ import annotations

from collections import deque
from html import escape
from typing import TYPE_CHECKING

from qtpy.QtCore import Qt
from qtpy.QtGui import QPainter
from qtpy.QtWidgets import (
    QHBoxLayout,
    QLabel,
    QSizePolicy,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

if TYPE_CHECKING:
    from qtpy.QtGui import QPaintEvent

    from napari_biomedparse.widgets.segment.request import Request


class Elided(QLabel):
    """One line of text, without its middle where there is no room; a tooltip has all.

    Parameters
    ----------
    text : str
        Plain.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.setTextFormat(Qt.TextFormat.PlainText)
        self.setToolTip(f"<p>{escape(text)}</p>")  # as HTML, which is wrapped
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)

    def shown(self) -> str:
        """Return what there is room for."""
        middle, width = Qt.TextElideMode.ElideMiddle, self.contentsRect().width()
        return self.fontMetrics().elidedText(self.text(), middle, width)

    def paintEvent(self, _: QPaintEvent | None) -> None:
        """Draw."""
        painter = QPainter(self)
        painter.drawText(self.contentsRect(), self.alignment(), self.shown())


class RunQueue(QWidget):
    """Requests in the order in which they were made; hidden while there are none."""

    def __init__(self) -> None:
        super().__init__()
        self._waiting: deque[tuple[Request, QWidget]] = deque()
        self._layout = QVBoxLayout(self)
        self._layout.setContentsMargins(0, 0, 0, 0)
        self._layout.setSpacing(0)
        self.setAccessibleName("Runs that wait")
        self.hide()

    def __len__(self) -> int:
        """Count the requests that wait."""
        return len(self._waiting)

    def add(self, asked: Request) -> None:
        """Append a request."""
        row = self._row(asked)
        self._waiting.append((asked, row))
        self._layout.addWidget(row)
        self.show()

    def take(self) -> Request:
        """Remove the request that has waited longest, and return it."""
        asked, row = self._waiting[0]
        self._remove(row)
        return asked

    def clear(self) -> None:
        """Remove all."""
        while self._waiting:
            self.take()

    def _row(self, asked: Request) -> QWidget:
        row = QWidget()
        title = f"{asked.image.name}: {', '.join(asked.prompts.texts)}"
        text = Elided(f"waits: {title}")
        remove = QToolButton()
        remove.setText("✕")
        remove.setToolTip("Remove this run from the queue.")
        remove.setAccessibleName(f"Remove the run that waits, {title}")
        remove.clicked.connect(lambda: self._remove(row))
        layout = QHBoxLayout(row)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(text, 1)
        layout.addWidget(remove)
        return row

    def _remove(self, row: QWidget) -> None:
        self._waiting = deque(entry for entry in self._waiting if entry[1] is not row)
        self._layout.removeWidget(row)
        row.deleteLater()
        self.setVisible(bool(self._waiting))
