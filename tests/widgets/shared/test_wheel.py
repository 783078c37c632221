"""The wheel scrolls; it turns only the control that has the focus."""

from __future__ import annotations

import pytest
from magicgui.widgets import ComboBox, Container, FloatSpinBox, Slider, SpinBox
from qtpy.QtCore import QPoint, QPointF, Qt
from qtpy.QtGui import QWheelEvent
from qtpy.QtWidgets import (
    QApplication,
    QScrollArea,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from napari_biomedparse.widgets.compare import CompareWidget
from napari_biomedparse.widgets.measure.widget import MeasureWidget
from napari_biomedparse.widgets.segment.widget import SegmentWidget
from napari_biomedparse.widgets.shared.wheel import TURNED, WheelGuard
from napari_biomedparse.widgets.training.finetune import FinetuneWidget
from napari_biomedparse.widgets.training.review import ReviewWidget

MAKERS = {
    "spin box": lambda: SpinBox(value=5),
    "float": lambda: FloatSpinBox(value=5.0),
    "choice": lambda: ComboBox(choices=[4, 5, 6], value=5),
    "slider": lambda: Slider(value=5),
}


def turn(control):
    """Turn the wheel over a control; return whether it took the event."""
    middle = control.rect().center()
    event = QWheelEvent(
        QPointF(middle),
        QPointF(control.mapToGlobal(middle)),
        QPoint(),
        QPoint(0, -120),
        Qt.MouseButton.NoButton,
        Qt.KeyboardModifier.NoModifier,
        Qt.ScrollPhase.NoScrollPhase,
        False,
    )
    QApplication.sendEvent(control, event)
    return event.isAccepted()


@pytest.fixture
def area(qtbot):
    """A form that is scrolled."""
    area, form = QScrollArea(), QWidget()
    QVBoxLayout(form).addSpacing(2000)
    area.setWidget(form)
    area.setWidgetResizable(True)
    WheelGuard(area)
    qtbot.addWidget(area)
    with qtbot.waitExposed(area):
        area.show()
    return area


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("inside", [False, True])
def test_the_wheel_over_a_control_is_passed_on(area, kind, inside, qtbot):
    field = MAKERS[kind]()
    shown = Container(widgets=[field]).native if inside else field.native
    area.widget().layout().insertWidget(0, shown)  # later than the guard
    qtbot.waitUntil(shown.isVisible)
    controls = (field.native, *field.native.findChildren(QWidget))
    control = next(w for w in controls if isinstance(w, TURNED))
    assert not turn(control)  # so that Qt passes it on to the area
    assert field.value == 5 and not control.hasFocus()
    control.hasFocus = lambda: True  # no window of a bare X server is active
    turn(control)
    assert field.value != 5


def test_controls_made_later_are_guarded(area, qtbot):
    box = QSpinBox(area.widget())
    box.setValue(5)
    box.show()
    qtbot.waitUntil(lambda: box.focusPolicy() == Qt.FocusPolicy.StrongFocus)
    assert not turn(box) and box.value() == 5


@pytest.mark.parametrize(
    "kind", [SegmentWidget, MeasureWidget, ReviewWidget, FinetuneWidget, CompareWidget]
)
def test_every_dock_is_guarded(make_napari_viewer, kind):
    viewer = make_napari_viewer()
    widget = kind(viewer)
    viewer.window.add_dock_widget(widget)
    QApplication.processEvents()
    controls = [w for w in widget.findChildren(QWidget) if isinstance(w, TURNED)]
    assert len([w for w in controls if w.focusPolicy() == Qt.FocusPolicy.StrongFocus])
    for control in controls:
        assert control.focusPolicy() != Qt.FocusPolicy.WheelFocus, control
