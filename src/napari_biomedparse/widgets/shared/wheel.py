"""The mouse wheel scrolls a form; it turns only the control that has the focus."""

from __future__ import annotations

from qtpy.QtCore import QChildEvent, QEvent, QObject, Qt
from qtpy.QtWidgets import (
    QAbstractSlider,
    QAbstractSpinBox,
    QComboBox,
    QScrollBar,
    QWidget,
)

TURNED = (QAbstractSlider, QAbstractSpinBox, QComboBox)


class WheelGuard(QObject):
    """Watches a widget and whatever is in it, now or later."""

    def __init__(self, widget: QWidget) -> None:
        super().__init__(widget)
        self._watch(widget)

    def _watch(self, widget: QWidget) -> None:
        if isinstance(widget, QScrollBar):
            return
        widget.installEventFilter(self)  # once, however often it is called
        by_wheel = Qt.FocusPolicy.WheelFocus
        if isinstance(widget, TURNED) and widget.focusPolicy() == by_wheel:
            widget.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        direct = Qt.FindChildOption.FindDirectChildrenOnly
        for child in widget.findChildren(QWidget, options=direct):
            self._watch(child)

    def eventFilter(self, widget: QObject | None, event: QEvent | None) -> bool:
        """Pass the wheel on to what is scrolled."""
        if isinstance(event, QChildEvent):
            child = event.child()
            if event.type() == QEvent.Type.ChildPolished and isinstance(child, QWidget):
                self._watch(child)
        elif event is not None and event.type() == QEvent.Type.Wheel:
            if isinstance(widget, TURNED) and not widget.hasFocus():
                event.ignore()
                return True
        return False
