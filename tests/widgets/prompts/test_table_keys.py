"""The keys of the prompt table, in a window whose own keys could get in the way."""

from __future__ import annotations

import pytest
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication


@pytest.fixture
def table(desk_that, voxels, qtbot):
    """The table, its second row chosen by a click, in a window with a layer."""
    desk = desk_that()
    desk.viewer.add_image(voxels)
    window = desk.viewer.window._qt_window
    window.show()
    window.activateWindow()
    qtbot.waitActive(window)
    table = desk.form.prompts
    table.value = "liver\nspleen\nkidney"
    second, port = table.model.index(1, 0), table.view.viewport()
    qtbot.waitUntil(
        lambda: port.visibleRegion().contains(table.view.visualRect(second).center())
    )
    where = table.view.visualRect(second).center()
    QTest.mouseClick(port, Qt.MouseButton.LeftButton, pos=where)
    qtbot.waitUntil(table.view.hasFocus)
    return table, desk


def press(key, modifier=Qt.KeyboardModifier.NoModifier):
    """Press a key as a keyboard does: the window looks for shortcuts first."""
    focused = QApplication.focusWindow()
    assert focused is not None
    QTest.keyClick(focused, key, modifier)


def test_del_deletes_the_chosen_row_and_no_layer(table):
    table, desk = table
    press(Qt.Key.Key_Delete)
    assert table.value == "liver\nkidney"
    assert len(desk.viewer.layers) == 1


def test_lists_are_copied_and_pasted_by_key(table):
    table, desk = table
    control = Qt.KeyboardModifier.ControlModifier
    press(Qt.Key.Key_C, control)
    assert QApplication.clipboard().text() == "spleen"
    QApplication.clipboard().setText("lung\nheart")
    press(Qt.Key.Key_V, control)
    assert table.value == "liver\nspleen\nkidney\nlung\nheart"
    assert len(desk.viewer.layers) == 1
