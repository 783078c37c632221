"""The plugin's widgets beside each other in napari's window."""

from __future__ import annotations

import pytest
from qtpy.QtCore import Qt

from napari_biomedparse.widgets.shared.docks import open_widget

PLUGIN = "napari-biomedparse"


@pytest.fixture
def viewer(make_napari_viewer):
    """A window of the size of the smallest screen."""
    viewer = make_napari_viewer(show=True)
    viewer.window._qt_window.resize(1280, 720)
    return viewer


def open_all(viewer, qtbot, *names):
    """Open widgets as napari's menu does; return the window, their docks and them."""
    made = [viewer.window.add_plugin_dock_widget(PLUGIN, name) for name in names]
    qtbot.wait(300)
    docks, widgets = zip(*made, strict=True)
    return viewer.window._qt_window, docks, widgets


def test_widgets_share_a_place_as_tabs(viewer, qtbot):
    window, docks, widgets = open_all(
        viewer,
        qtbot,
        *("Segment with text", "Compare labels", "Review labels"),
        *("Fine-tune a model", "Measure objects"),
    )
    assert set(window.tabifiedDockWidgets(docks[0])) == set(docks[1:])
    assert widgets[-1].isVisible()  # the one that was opened last
    layout = widgets[0].layout()
    assert layout.itemAt(layout.count() - 1).widget() is widgets[0].view  # no stretch
    assert window.height() <= 720


def test_a_widget_that_a_button_opens_is_a_tab_as_well(viewer, qtbot):
    window, docks, _ = open_all(viewer, qtbot, "Review labels")
    opened = open_widget(viewer, "Compare labels")
    assert window.tabifiedDockWidgets(docks[0]) == [opened.parent()]
    assert opened.isVisible()


def test_a_dock_that_floats_is_left_alone(viewer, qtbot):
    window, (segment,), _ = open_all(viewer, qtbot, "Segment with text")
    segment.setFloating(True)
    _, (review,), (widget,) = open_all(viewer, qtbot, "Review labels")
    assert window.tabifiedDockWidgets(review) == []
    assert widget.isVisible()


def test_docks_that_users_move_stay_where_they_are(viewer, qtbot):
    window, docks, _ = open_all(viewer, qtbot, "Segment with text", "Review labels")
    window.removeDockWidget(docks[1])
    window.addDockWidget(Qt.DockWidgetArea.RightDockWidgetArea, docks[1])
    docks[1].show()
    qtbot.wait(100)
    assert window.tabifiedDockWidgets(docks[0]) == []


def test_a_widget_behind_another_comes_to_the_front_when_chosen(viewer, qtbot):
    _, docks, widgets = open_all(viewer, qtbot, "Segment with text", "Review labels")
    behind, front = widgets

    def choose():
        """Do what napari's menu does."""
        docks[0].setVisible(not docks[0].isVisible())
        qtbot.wait(100)

    assert behind.visibleRegion().isEmpty()
    choose()
    assert not behind.visibleRegion().isEmpty() and front.visibleRegion().isEmpty()
    choose()  # in front, it is hidden as ever
    assert docks[0].isHidden() and not front.visibleRegion().isEmpty()
    choose()
    assert not behind.visibleRegion().isEmpty()
