"""Many fields in a small window: collapsible sections and a scroll area."""

from __future__ import annotations

from qtpy.QtCore import QEvent, QObject, QSize, Qt
from qtpy.QtWidgets import (
    QFrame,
    QPushButton,
    QScrollArea,
    QScrollBar,
    QSizePolicy,
    QWidget,
)

from napari_biomedparse.widgets.shared.parts import column

_LEAST_HEIGHT = 150


class Scrolled(QScrollArea):
    """A scroll area as tall as its content if there is room, with no scroll bar."""

    def __init__(self, *widgets: QWidget) -> None:
        super().__init__()
        self._content = QWidget()
        column(self._content, *widgets, 1)
        self._content.installEventFilter(self)
        self._bar = QScrollBar()
        self._wanted: QWidget | None = None
        self.setVerticalScrollBar(self._bar)
        self.setWidget(self._content)
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)  # nothing of its own to do
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Maximum)
        self.setMinimumHeight(_LEAST_HEIGHT)

    def sizeHint(self) -> QSize:
        """Return the size of the content."""
        return self._content.sizeHint() + self._extra()

    def minimumSizeHint(self) -> QSize:
        """Return a size that cuts nothing off at the sides."""
        size = self._content.minimumSizeHint() + self._extra()
        return QSize(size.width(), self.minimumHeight())

    def _extra(self) -> QSize:
        """Return the space that the scroll bar and napari's frame take."""
        frame = 2 * self.frameWidth()
        return QSize(self._bar.sizeHint().width() + frame, frame)

    def reveal(self, widget: QWidget) -> None:
        """Scroll to a widget inside once the layout has made room for it."""
        self._wanted = widget

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        """Resize with the content, and scroll to a section that was opened."""
        done = bool(super().eventFilter(watched, event))  # how far there is to scroll
        if event is not None and event.type() == QEvent.Type.LayoutRequest:
            self.updateGeometry()
        elif event is not None and event.type() == QEvent.Type.Resize:
            if self._wanted is not None:
                self._bar.setValue(self._wanted.y())
                self._wanted = None
        return done


class Fold(QPushButton):
    """Shows and hides a part, which starts hidden; its note says what was set there."""

    def __init__(self, title: str, content: QWidget) -> None:
        super().__init__()
        self._title, self._note, self._content = title, "", content
        self.setFlat(True)
        self.setCheckable(True)
        self.setStyleSheet("text-align: left; padding-left: 4px")
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        content.hide()
        self.toggled.connect(self._on_toggled)
        self.set_note("")

    def set_note(self, note: str) -> None:
        """Say what was set in the part."""
        self._note = note
        text = f"{self._title} ({note})" if note else self._title
        self.setText(f"{'▾' if self.isChecked() else '▸'} {text}")
        self.setToolTip(f"Show or hide: {text}.")

    def _on_toggled(self, shown: bool) -> None:
        self._content.setVisible(shown)
        self.set_note(self._note)
        area = self.parentWidget() if shown else None
        while area is not None:
            if isinstance(area, Scrolled):
                area.reveal(self)
            area = area.parentWidget()
