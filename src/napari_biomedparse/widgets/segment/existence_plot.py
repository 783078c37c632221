"""A small plot of the score of each prompt in each slice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from qtpy.QtCore import QPointF, QRectF, QSize, Qt, Signal
from qtpy.QtGui import QColor, QPainter, QPen, QPolygonF
from qtpy.QtWidgets import QSizePolicy, QToolTip, QWidget

from napari_biomedparse.data.results import score_text

if TYPE_CHECKING:
    import numpy.typing as npt
    from qtpy.QtGui import QKeyEvent, QMouseEvent, QPaintEvent

_MARGIN = 6
"""Pixels around the plot and its numbers, so that lines at 0 and 1 show."""
_LEGEND = 4
"""Maximum number of prompts named below the plot; the table has all."""
_HIGHEST = 260
_GRASP = 5
"""Distance in pixels from which the threshold line can be dragged."""
_STEP = 0.05
"""How far an arrow key moves the threshold."""
_SHOWS = {
    "existence": "Probability that each prompt's target is present in each slice.",
    "p": "p: how well the mask of each prompt looks like its target in each slice.",
}
_MOVES = (
    " Drag the dashed line to change the threshold and update the labels. What you "
    "painted and accepted slices are kept."
)


class ExistencePlot(QWidget):
    """Scores over the slices, one line per prompt, and the threshold.

    A click goes to a slice; the threshold is dragged, or moved by the up and down keys.
    """

    slice_clicked = Signal(int)
    threshold_changed = Signal(float)

    def __init__(self) -> None:
        super().__init__()
        self.threshold = 0.5
        self.scores: npt.NDArray[np.float32] = np.empty((0, 0), np.float32)
        self.names: Sequence[str] = ()
        self.colours: Sequence[QColor] = ()
        self.current: int | None = None
        self.score = "existence"
        self._dragging = False
        self.setMouseTracking(True)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Preferred)
        self.setMaximumHeight(_HIGHEST)
        self.setAccessibleName("Score of each prompt, slice by slice")
        self.fix_threshold("")

    def sizeHint(self) -> QSize:
        """Return a size at which numbers and legend are legible."""
        return QSize(200, 90 + self._line * (2 + len(self._legend)))

    def minimumSizeHint(self) -> QSize:
        """Return a smaller size, for a small window."""
        return QSize(200, 40 + self._line * (2 + len(self._legend)))

    def show_scores(
        self,
        scores: npt.NDArray[np.float32],
        names: Sequence[str],
        colours: Sequence[QColor],
        score: str = "existence",
    ) -> None:
        """Draw scores [P, slices], which are NaN where unknown; hidden without any."""
        self.scores, self.names, self.colours = scores, names, colours
        if score != self.score:
            self.score = score
            self.fix_threshold(self._why)
        self.setVisible(bool(np.isfinite(scores).any()))
        self.updateGeometry()
        self.update()

    def show_threshold(self, threshold: float) -> None:
        """Move the threshold line without emitting a signal."""
        if not self._dragging:
            self.threshold = threshold
            self.update()

    def fix_threshold(self, why: str) -> None:
        """Lock the threshold line and say why; an empty reason unlocks it."""
        self._fixed, self._why = bool(why), why
        shows = f"{_SHOWS[self.score]} Click to go to a slice."
        self.setToolTip(shows + (f" {why}" if why else _MOVES))
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
        self._paint_numbers(painter, ink)
        painter.setPen(QPen(faint, 1))
        if self.current is not None and self.current < self.scores.shape[1]:
            x = self._x(self.current)
            painter.drawLine(QPointF(x, self._y(0)), QPointF(x, self._y(1)))
        rows = zip(self.scores, self.colours, strict=True)
        for at, (row, colour) in enumerate(rows):
            painter.translate(0, (at > 0) * (2, 2, -4)[at % 3])  # equal scores show
            self._paint_row(painter, row, colour)
        painter.resetTransform()
        style = Qt.PenStyle.DotLine if self._fixed else Qt.PenStyle.DashLine
        painter.setPen(QPen(ink, 1.5, style))
        y, frame = self._y(self.threshold), self._frame()
        painter.drawLine(QPointF(frame.left(), y), QPointF(frame.right(), y))

    def mousePressEvent(self, event: QMouseEvent | None) -> None:
        """Grab the threshold, or go to a slice."""
        assert event is not None
        self._dragging = self._near_threshold(event)
        if not self._dragging and (at := self._slice_at(event)) is not None:
            self.slice_clicked.emit(at)

    def mouseMoveEvent(self, event: QMouseEvent | None) -> None:
        """Drag the threshold, or show the scores below the mouse."""
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
            text = "\n".join(f"{score_text(s, self.score)}  {n}" for n, s in lines)
            QToolTip.showText(
                event.globalPosition().toPoint(), f"slice {at}\n{text}", self
            )

    def mouseReleaseEvent(self, _: QMouseEvent | None) -> None:
        """Apply the threshold."""
        if self._dragging:
            self._dragging = False
            self._settle(self.threshold)

    def keyPressEvent(self, event: QKeyEvent | None) -> None:
        """Move the threshold with the arrow keys."""
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
        """Draw the known scores of a prompt: lines, and dots for single slices."""
        painter.setPen(QPen(colour, 2))
        known = np.flatnonzero(np.isfinite(row))
        for run in np.split(known, np.flatnonzero(np.diff(known) > 1) + 1):
            points = [QPointF(self._x(at), self._y(row[at])) for at in run.tolist()]
            if len(points) == 1:
                painter.drawEllipse(points[0], 1, 1)
            else:
                painter.drawPolyline(QPolygonF(points))

    @property
    def _line(self) -> int:
        """Height of a line of text."""
        return self.fontMetrics().lineSpacing()

    @property
    def _legend(self) -> list[tuple[str, QColor]]:
        """Prompts and colours that are named below the plot."""
        named = list(zip(self.names, self.colours, strict=True))
        if len(named) <= _LEGEND:
            return named
        more = f"and {len(named) - _LEGEND + 1} more"
        return [*named[: _LEGEND - 1], (more, QColor("transparent"))]

    def _paint_numbers(self, painter: QPainter, ink: QColor) -> None:
        """Write numbers along the axes, and below them which line is which prompt."""
        painter.setPen(ink)
        frame, line = self._frame(), self._line
        right = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
        for probability in (0.0, 0.5, 1.0):
            middle = self._y(probability)
            box = QRectF(0, middle - line / 2, frame.left() - 3, line)
            painter.drawText(box, right, f"{probability:g}")
        center, depth = Qt.AlignmentFlag.AlignHCenter, self.scores.shape[1]
        wide = self.fontMetrics().horizontalAdvance("00000")
        for at in _ticks(depth, int(frame.width() // (wide + 8))):
            box = QRectF(self._x(at) - wide / 2, frame.bottom() + 1, wide, line)
            painter.drawText(box, center, str(at))
        box = QRectF(frame.left(), frame.bottom() + 1 + line, frame.width(), line)
        painter.drawText(box, center, f"{self.score} in each slice")
        for row, (name, colour) in enumerate(self._legend, start=2):
            top = frame.bottom() + 1 + row * line
            painter.fillRect(QRectF(frame.left(), top + line / 2 - 1, 14, 3), colour)
            shown = self.fontMetrics().elidedText(
                name, Qt.TextElideMode.ElideMiddle, int(frame.width()) - 20
            )
            painter.drawText(QPointF(frame.left() + 20, top + 0.8 * line), shown)

    def _frame(self) -> QRectF:
        left = self.fontMetrics().horizontalAdvance("0.5") + _MARGIN
        below = _MARGIN + (2 + len(self._legend)) * self._line
        top = _MARGIN + self._line // 3  # half of the number 1 is above it
        return QRectF(self.rect()).adjusted(left, top, -2 * _MARGIN, -below)

    def _x(self, at: int) -> float:
        """Return the centre of a slice."""
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


def _ticks(depth: int, most: int) -> range:
    """Choose round slices to number, about `most` at most."""
    for step in (s * 10**power for power in range(9) for s in (1, 2, 5)):
        if depth <= step * max(1, most):
            return range(0, depth, step)
    return range(0)
