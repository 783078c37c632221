"""A small plot of the loss during training."""

from __future__ import annotations

from collections.abc import Sequence

from qtpy.QtCore import QPointF, QRectF, QSize, Qt
from qtpy.QtGui import QColor, QPainter, QPaintEvent, QPen, QPolygonF
from qtpy.QtWidgets import QSizePolicy, QWidget

LEARNED, HELD_OUT = QColor("#5aa9e6"), QColor("#f4a259")
_SMOOTHING = 0.9
_MOST = 2000
"""Maximum number of points that are drawn."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 34, 8, 18, 16
"""Margins in pixels for the text around the curves."""


class LossCurves(QWidget):
    """The smoothed loss of each batch, and that of held-out slices."""

    def __init__(self) -> None:
        super().__init__()
        self.clear()
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setAccessibleName("Loss during training")
        self.setToolTip(
            "Blue: loss of each batch, and its running mean. Orange: loss on held-out "
            "slices, from before the first batch on, which selects the best weights. "
            "Lower is better. If orange rises while blue falls, the model is "
            "overfitting."
        )

    def sizeHint(self) -> QSize:
        """Return a small size."""
        return QSize(220, 130)

    def clear(self) -> None:
        """Clear the curves."""
        self.steps = 1
        self.learned: list[tuple[int, float]] = []
        self.held_out: list[tuple[int, float]] = []
        self.update()

    def add(self, step: int, steps: int, loss: float, val_loss: float | None) -> None:
        """Append the losses after a batch, 0 before the first, of at most `steps`."""
        self.steps = max(steps, 1)
        if step and (not self.learned or self.learned[-1][0] < step):
            self.learned.append((step, loss))
        if len(self.learned) > _MOST:
            del self.learned[1::2]
        if val_loss is not None:
            if not self.held_out or self.held_out[-1][1] != val_loss:
                self.held_out.append((step, val_loss))
        self.update()

    def smoothed(self) -> list[tuple[int, float]]:
        """Return the running mean of the losses, over fewer batches at first."""
        mean, points = 0.0, []
        for count, (step, loss) in enumerate(self.learned):
            kept = min(_SMOOTHING, count / (count + 1))
            mean = kept * mean + (1.0 - kept) * loss
            points.append((step, mean))
        return points

    def paintEvent(self, _: QPaintEvent | None) -> None:
        """Draw."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        ink = self.palette().windowText().color()
        faint = QColor(ink)
        faint.setAlpha(90)
        painter.setPen(QPen(faint, 1))
        painter.drawRect(self._frame())
        top = self._top()
        pale = QColor(LEARNED)
        pale.setAlpha(90)
        self._draw(painter, self.learned, QPen(pale, 1), top)
        self._draw(painter, self.smoothed(), QPen(LEARNED, 2), top)
        self._draw(painter, self.held_out, QPen(HELD_OUT, 2), top)
        painter.setBrush(HELD_OUT)
        for point in self.held_out:
            painter.drawEllipse(self._at(point, top), 2.5, 2.5)
        self._write(painter, ink, top)

    def _write(self, painter: QPainter, ink: QColor, top: float) -> None:
        font = painter.font()
        font.setPixelSize(11)
        painter.setFont(font)
        painter.setPen(ink)
        frame, flags = self._frame(), Qt.AlignmentFlag
        side = QRectF(0, frame.top() - 6, _LEFT - 4, 12)
        painter.drawText(side, flags.AlignRight, f"{top:.2g}")
        side.moveTop(frame.bottom() - 6)
        painter.drawText(side, flags.AlignRight, "0")
        below = QRectF(frame.left(), frame.bottom() + 1, frame.width(), _BOTTOM)
        painter.drawText(below, flags.AlignLeft, "0")
        painter.drawText(below, flags.AlignRight, f"{self.steps} batches")
        above = QRectF(frame.left(), 0, frame.width(), _TOP)
        painter.setPen(LEARNED)
        painter.drawText(above, flags.AlignLeft, "loss")
        painter.setPen(HELD_OUT)
        painter.drawText(above, flags.AlignRight, "held-out loss")

    def _draw(
        self,
        painter: QPainter,
        points: Sequence[tuple[int, float]],
        pen: QPen,
        top: float,
    ) -> None:
        painter.setPen(pen)
        painter.drawPolyline(QPolygonF([self._at(point, top) for point in points]))

    def _frame(self) -> QRectF:
        width = self.width() - _LEFT - _RIGHT
        return QRectF(_LEFT, _TOP, width, self.height() - _TOP - _BOTTOM)

    def _top(self) -> float:
        values = [loss for _, loss in (*self.smoothed(), *self.held_out)]
        return 1.1 * max(values, default=1.0)

    def _at(self, point: tuple[int, float], top: float) -> QPointF:
        frame, (step, loss) = self._frame(), point
        across = frame.left() + frame.width() * min(step / self.steps, 1.0)
        return QPointF(across, frame.bottom() - frame.height() * min(loss / top, 1.0))
