"""The slices of a layer that the user has accepted: a strip, and the metadata."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from qtpy.QtCore import QPointF, QRectF, QSize, Qt, Signal
from qtpy.QtGui import QColor, QMouseEvent, QPainter, QPaintEvent, QPen
from qtpy.QtWidgets import QSizePolicy, QWidget

from napari_biomedparse.data.prompts import INSTANCE_KEY
from napari_biomedparse.io.painting import PaintableLabels
from napari_biomedparse.viewer.layers import METADATA_KEY, REVIEWED_KEY, reviewed

if TYPE_CHECKING:
    from napari.layers import Labels

ACCEPTED = QColor("#4caf7d")
_KINDS_KEY = "biomedparse accepted as"  # objects or prompts, by axis and slice


class ReviewStrip(QWidget):
    """A strip with a cell per slice, green if accepted; a click goes to a slice."""

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
        """Show the number of slices, the accepted ones and the one in view."""
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


def reviewed_slices(layer: Labels, axis: int) -> tuple[int, ...]:
    """Return the accepted slices along an axis of the layer, in order."""
    return tuple(reviewed(layer).get(axis, ()))


def review_axis(layer: Labels) -> int | None:
    """Return the axis with the most accepted slices; None if there are none."""
    known = reviewed(layer)
    if not any(known.values()):
        return None
    return max(known, key=lambda axis: len(known[axis]))


def set_reviewed(
    layer: Labels, axis: int, slices: Iterable[int], *, accepted: bool
) -> None:
    """Mark slices along an axis of the layer as accepted or not.

    Those of a run folder are kept there; an OutputError is raised while it is in use.
    """
    known = layer.metadata.setdefault(METADATA_KEY, {})
    before, slices = set(reviewed_slices(layer, axis)), set(slices)
    now = before | slices if accepted else before - slices
    marks = {**reviewed(layer), axis: sorted(now)}
    if isinstance(layer.data, PaintableLabels):
        layer.data.accept(marks)
    kinds = {(axis, at): known.get(INSTANCE_KEY) for at in slices - before}
    layer.metadata[_KINDS_KEY] = {**layer.metadata.get(_KINDS_KEY, {}), **kinds}
    known[REVIEWED_KEY] = marks


def unlike(layer: Labels, objects: bool) -> list[int]:
    """Return slices that were accepted before *Separate objects* was switched."""
    known, now = (
        layer.metadata.get(_KINDS_KEY, {}),
        layer.metadata.get(METADATA_KEY, {}),
    )
    marks = {(axis, at) for axis, slices in reviewed(layer).items() for at in slices}
    kinds = {key: known[key] for key in marks & known.keys()}
    if len(set(kinds.values())) < 2 and now.get(INSTANCE_KEY) != objects:
        return []  # the user says what all of them are
    return sorted(at for (_, at), kind in kinds.items() if kind != objects)
