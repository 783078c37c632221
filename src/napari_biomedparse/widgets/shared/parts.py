"""What the docks are put together from: buttons, texts, rows, columns and pauses."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import (
    QBoxLayout,
    QHBoxLayout,
    QLabel,
    QLayout,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from qtpy.QtCore import QObject

Part: TypeAlias = QWidget | QLayout | tuple[QWidget, int] | int
"""A layout, a widget, a widget with its share of the free room, or such a share."""


def button(
    text: str,
    tip: str,
    do: Callable[[], object] | None = None,
    *,
    enabled: bool = True,
) -> QPushButton:
    """Return a button that does something when it is clicked."""
    made = QPushButton(text)
    made.setToolTip(tip)
    made.setEnabled(enabled)
    if do is not None:
        made.clicked.connect(do)
    return made


def plain_text(text: str = "") -> QLabel:
    """Return a text of several lines, shown as it is."""
    label = QLabel(text)
    label.setWordWrap(True)
    label.setTextFormat(Qt.TextFormat.PlainText)
    return label


def row(*parts: Part) -> QHBoxLayout:
    """Return a layout of parts beside each other."""
    layout = QHBoxLayout()
    _add(layout, parts)
    return layout


def column(parent: QWidget, *parts: Part, margins: bool = False) -> QVBoxLayout:
    """Lay out parts of a widget below each other."""
    layout = QVBoxLayout(parent)
    if not margins:
        layout.setContentsMargins(0, 0, 0, 0)
    _add(layout, parts)
    return layout


def _add(layout: QBoxLayout, parts: tuple[Part, ...]) -> None:
    for part in parts:
        if isinstance(part, int):
            layout.addStretch(part)
        elif isinstance(part, QLayout):
            layout.addLayout(part)
        elif isinstance(part, tuple):
            layout.addWidget(*part)
        else:
            layout.addWidget(part)


def pause(parent: QObject, milliseconds: int, then: Callable[[], object]) -> QTimer:
    """Return a timer that does something once, so long after its last start."""
    timer = QTimer(parent)
    timer.setSingleShot(True)
    timer.setInterval(milliseconds)
    timer.timeout.connect(then)
    return timer
