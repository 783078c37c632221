"""A strip with a cell for each slice: green where its labels were accepted."""

from __future__ import annotations

from collections.abc import Collection

from qtpy.QtCore import QPointF, QRectF, QSize, Qt, Signal
from qtpy.QtGui import QColor, QMouseEvent, QPainter, QPaintEvent, QPen
from qtpy.QtWidgets import QSizePolicy, QWidget

ACCEPTED = QColor("#4caf7d")


class ReviewStrip(QWidget):
    """Shows which slices were accepted; a click goes to a slice."""

    slice_clicked = Signal(int)

    def __init__(self) -> None:
        super().__init__()
        self.slices, self.current = 0, 0
        self.accepted: Collection[int] = ()
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setAccessibleName("Accepted slices")
        self.setToolTip("Green: accepted slices. Click to go to a slice.")

    def sizeHint(self) -> QSize:
        """Return a flat size."""
        return QSize(200, 18)

    def show_slices(self, depth: int, accepted: Collection[int], current: int) -> None:
        """Draw anew.

        Parameters
        ----------
        depth : int
            How many slices there are.
        accepted : collection of int
        current : int
            The slice in view.
        """
        self.slices, self.accepted, self.current = depth, accepted, current
        self.update()

    def paintEvent(self, _: QPaintEvent | None) -> None:
        """Draw."""
        painter = QPainter(self)
        ink = self.palette().windowText().color()
        faint = QColor(ink)
        faint.setAlpha(90)
        area = QRectF(1, 3, self.width() - 2, self.height() - 6)
        cell = area.width() / max(self.slices, 1)
        for at in self.accepted:
            painter.fillRect(
                QRectF(area.left() + at * cell, area.top(), cell, area.height()),
                ACCEPTED,
            )
        painter.setPen(QPen(faint, 1))
        painter.drawRect(area)
        x = area.left() + (self.current + 0.5) * cell
        painter.setPen(QPen(ink, 2))
        painter.drawLine(QPointF(x, 0), QPointF(x, self.height()))

    def mousePressEvent(self, event: QMouseEvent | None) -> None:
        """Go to the slice under the mouse."""
        if event is None or event.button() != Qt.MouseButton.LeftButton:
            return
        at = int((event.position().x() - 1) * self.slices / max(self.width() - 2, 1))
        if self.slices:
            self.slice_clicked.emit(min(max(at, 0), self.slices - 1))
