"""What the lower part of the widget does to the rest of napari's window."""

from __future__ import annotations

from napari_biomedparse._widgets._run_view import SPINNER_SPEED, RunView, _spinners


def test_napari_spinner_rests_while_a_run_lasts(make_napari_viewer, qtbot):
    viewer = make_napari_viewer()
    view = RunView()
    viewer.window.add_dock_widget(view)
    view.begin("stack")
    speeds = [movie.speed() for movie in _spinners()]
    assert speeds and set(speeds) == {SPINNER_SPEED}
    view.end("Done.")
    assert {movie.speed() for movie in _spinners()} == {100}
