"""What the lower part of the widget does to the rest of napari's window."""

from __future__ import annotations

import pytest
from napari._qt.dialogs.qt_activity_dialog import QtActivityDialog
from napari._qt.widgets.qt_progress_bar import QtLabeledProgressBar
from qtpy.QtCore import QEvent, QObject

from napari_biomedparse.widgets.segment.run_view import (
    SPINNER_SPEED,
    RunView,
    _spinners,
)


class Painted(QObject):
    """Counts how often a widget is painted."""

    def __init__(self, widget) -> None:
        super().__init__()
        self.times = 0
        widget.installEventFilter(self)

    def eventFilter(self, _, event) -> bool:
        self.times += event.type() == QEvent.Type.Paint
        return False


@pytest.fixture
def shown(make_napari_viewer, qtbot):
    """A window with the view in it, on the screen."""
    viewer = make_napari_viewer(show=True)
    view = RunView()
    viewer.window.add_dock_widget(view)
    with qtbot.waitExposed(viewer.window._qt_window):
        pass
    return viewer, view


def activities(viewer):
    """Return the bars in napari's activity dock."""
    dock = viewer.window._qt_window.findChild(QtActivityDialog)
    return dock.findChildren(QtLabeledProgressBar)


def test_napari_spinner_rests_while_a_run_lasts(make_napari_viewer, qtbot):
    viewer = make_napari_viewer()
    view = RunView()
    viewer.window.add_dock_widget(view)
    view.begin()
    view.show_activity("stack")
    speeds = [movie.speed() for movie in _spinners()]
    assert speeds and set(speeds) == {SPINNER_SPEED}
    view.end("Done.")
    assert {movie.speed() for movie in _spinners()} == {100}


def test_the_window_is_not_drawn_for_a_number_of_slices(shown, qtbot, monkeypatch):
    """A bar that is in sight has the whole window drawn before `setValue` returns."""
    _, view = shown
    painted, set_value, in_sight = Painted(view.bar), view.bar.setValue, []

    def noticed(value):
        in_sight.append(view.bar.isVisible())
        set_value(value)

    monkeypatch.setattr(view.bar, "setValue", noticed)
    for total in (10, 4):  # the second time after a full bar
        in_sight.clear()
        view.begin()
        qtbot.waitUntil(lambda: painted.times > 0)
        painted.times = 0
        view.set_total(total)
        assert painted.times == 0 and not any(in_sight)
        assert (view.bar.value(), view.bar.maximum()) == (0, total)
        view.set_done(total, None)
        assert in_sight[-1]
        qtbot.waitUntil(lambda: painted.times > 0)
        view.end("Done.")


def test_progress_is_shown_at_a_pace_that_the_window_bears(shown, monkeypatch):
    viewer, view = shown
    now = 100.0
    monkeypatch.setattr(
        "napari_biomedparse.widgets.segment.run_view.time.monotonic", lambda: now
    )
    view.begin()
    view.set_total(50)
    view.show_activity("stack")
    (activity,) = activities(viewer)
    seen = []
    for done in range(1, 51):
        view.set_done(done, 1.0)
        seen.append((view.bar.value(), activity.qt_progress_bar.value()))
        now += 0.04
    assert seen[:5] == [(1, 1)] * 3 + [(4, 4)] * 2
    assert seen[-1] == (50, 50)


def test_the_activity_dock_shows_a_run_from_where_it_is_to_its_end(shown, qtbot):
    viewer, view = shown
    view.begin()
    view.set_total(6)
    view.set_done(2, None)
    assert activities(viewer) == []
    view.show_activity("stack")
    (activity,) = activities(viewer)
    assert activity.qt_progress_bar.maximum() == 6
    view.set_done(6, None)
    assert activity.qt_progress_bar.value() == 6
    view.end("Done.")
    qtbot.waitUntil(lambda: activities(viewer) == [])
