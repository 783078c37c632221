"""A small plot: how probable each prompt's target is in each slice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from qtpy.QtCore import QPointF, QRectF, QSize, Qt, Signal
from qtpy.QtGui import QColor, QPainter, QPen, QPolygonF
from qtpy.QtWidgets import QSizePolicy, QToolTip, QWidget

if TYPE_CHECKING:
    import numpy.typing as npt
    from qtpy.QtGui import QKeyEvent, QMouseEvent, QPaintEvent

_MARGIN = 6
"""Pixels between the widget's edge and the plot, so that lines at 0 and 1 show."""
_GRASP = 5
"""Pixels from the threshold's line within which it can be taken hold of."""
_STEP = 0.05
"""How far an arrow key moves the threshold."""
_SHOWS = (
    "How probable the network finds each prompt's target in each slice. Click to see a "
    "slice"
)
_MOVES = (
    "; drag the dashed line to move the existence threshold. The run's labels are then "
    "made anew; what you painted stays, but for objects told apart, which are numbered "
    "anew."
)


class ExistencePlot(QWidget):
    """Lines over the slices, one a prompt, and the threshold they have to reach.

    A click goes to a slice; the threshold's line is dragged, or moved by the arrow
    keys up and down.
    """

    slice_clicked = Signal(int)
    threshold_changed = Signal(float)

    def __init__(self) -> None:
        super().__init__()
        self.threshold = 0.5
        self.scores: npt.NDArray[np.float32] = np.empty((0, 0), np.float32)
        self.names: Sequence[str] = ()
        self.colours: Sequence[str] = ()
        self.current: int | None = None
        self._dragging = False
        self.setMouseTracking(True)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setAccessibleName("Existence score of each prompt, slice by slice")
        self.fix_threshold("")

    def sizeHint(self) -> QSize:
        """Return a size that leaves room for the rest of the widget."""
        return QSize(200, 90)

    def show_scores(
        self,
        scores: npt.NDArray[np.float32],
        names: Sequence[str],
        colours: Sequence[str],
    ) -> None:
        """Draw scores.

        Parameters
        ----------
        scores : float32 ndarray [P, slices]
            Probabilities; NaN where nothing is known yet.
        names, colours : sequence of str
            Of each prompt; colours as HTML knows them.
        """
        self.scores, self.names, self.colours = scores, names, colours
        self.update()

    def show_threshold(self, threshold: float) -> None:
        """Move the line, without telling anybody."""
        if not self._dragging:
            self.threshold = threshold
            self.update()

    def fix_threshold(self, why: str) -> None:
        """Keep the line where it is, and tell why; nothing lets it be moved again."""
        self._fixed = bool(why)
        self.setToolTip(_SHOWS + (f". {why}" if why else _MOVES))
        self.update()

    def show_current(self, at: int | None) -> None:
        """Mark the slice in view."""
        self.current = at
        self.update()

    def paintEvent(self, _: QPaintEvent | None) -> None:
        """Draw."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        ink = self.palette().windowText().color()
        faint = QColor(ink)
        faint.setAlpha(70)
        painter.setPen(QPen(faint, 1))
        painter.drawRect(self._frame())
        if self.current is not None and self.current < self.scores.shape[1]:
            x = self._x(self.current)
            painter.drawLine(QPointF(x, self._y(0)), QPointF(x, self._y(1)))
        rows = zip(self.scores, self.colours, strict=True)
        for at, (row, colour) in enumerate(rows):
            painter.translate(0, 2 * (at > 0))  # equal scores do not hide each other
            self._paint_row(painter, row, QColor(colour))
        painter.resetTransform()
        style = Qt.PenStyle.DotLine if self._fixed else Qt.PenStyle.DashLine
        painter.setPen(QPen(ink, 1.5, style))
        y, frame = self._y(self.threshold), self._frame()
        painter.drawLine(QPointF(frame.left(), y), QPointF(frame.right(), y))

    def mousePressEvent(self, event: QMouseEvent | None) -> None:
        """Take hold of the threshold, or go to a slice."""
        assert event is not None
        self._dragging = self._near_threshold(event)
        if not self._dragging and (at := self._slice_at(event)) is not None:
            self.slice_clicked.emit(at)

    def mouseMoveEvent(self, event: QMouseEvent | None) -> None:
        """Drag the threshold, or tell what is below the mouse."""
        assert event is not None
        place = event.position()
        if self._dragging:
            frame = self._frame()
            self.threshold = float(
                np.clip((frame.bottom() - place.y()) / frame.height(), 0.0, 1.0)
            )
            self.update()
            text = f"threshold {self.threshold:.2f}"
            QToolTip.showText(event.globalPosition().toPoint(), text, self)
            return
        near = self._near_threshold(event)
        shape = Qt.CursorShape.SizeVerCursor if near else Qt.CursorShape.ArrowCursor
        self.setCursor(shape)
        at = self._slice_at(event)
        if not near and at is not None and np.isfinite(self.scores[:, at]).any():
            lines = zip(self.names, self.scores[:, at], strict=True)
            text = "\n".join(f"{score:.2f}  {name}" for name, score in lines)
            QToolTip.showText(
                event.globalPosition().toPoint(), f"slice {at}\n{text}", self
            )

    def mouseReleaseEvent(self, _: QMouseEvent | None) -> None:
        """Let go of the threshold."""
        if self._dragging:
            self._dragging = False
            self._settle(self.threshold)

    def keyPressEvent(self, event: QKeyEvent | None) -> None:
        """Move the threshold by the arrow keys."""
        assert event is not None
        steps = {Qt.Key.Key_Up: _STEP, Qt.Key.Key_Down: -_STEP}
        if event.key() in steps and not self._fixed:
            self._settle(self.threshold + steps[Qt.Key(event.key())])
        else:
            super().keyPressEvent(event)

    def _settle(self, threshold: float) -> None:
        self.threshold = round(float(np.clip(threshold, 0.0, 1.0)), 2)
        self.update()
        self.threshold_changed.emit(self.threshold)

    def _paint_row(
        self, painter: QPainter, row: npt.NDArray[np.float32], colour: QColor
    ) -> None:
        """Draw what is known of a prompt: stretches of slices, and single ones."""
        painter.setPen(QPen(colour, 2))
        known = np.flatnonzero(np.isfinite(row))
        for run in np.split(known, np.flatnonzero(np.diff(known) > 1) + 1):
            points = [QPointF(self._x(at), self._y(row[at])) for at in run.tolist()]
            if len(points) == 1:
                painter.drawEllipse(points[0], 1, 1)
            else:
                painter.drawPolyline(QPolygonF(points))

    def _frame(self) -> QRectF:
        edge = _MARGIN
        return QRectF(self.rect()).adjusted(edge, edge, -edge, -edge)

    def _x(self, at: int) -> float:
        """Return the middle of a slice's place."""
        frame, depth = self._frame(), int(self.scores.shape[1])
        return float(frame.left()) + (at + 0.5) / depth * float(frame.width())

    def _y(self, probability: float) -> float:
        frame = self._frame()
        return float(frame.bottom()) - float(probability) * float(frame.height())

    def _near_threshold(self, event: QMouseEvent) -> bool:
        away = abs(event.position().y() - self._y(self.threshold))
        return away <= _GRASP and not self._fixed

    def _slice_at(self, event: QMouseEvent) -> int | None:
        frame, depth = self._frame(), self.scores.shape[1]
        if not depth:
            return None
        part = (event.position().x() - frame.left()) / frame.width()
        return int(np.clip(int(part * depth), 0, depth - 1))
