"""The plot of existence scores: what is painted, clicked and dragged."""

from __future__ import annotations

import numpy as np
import pytest
from qtpy.QtCore import QPoint, Qt
from qtpy.QtGui import QColor

from napari_biomedparse.widgets.segment.existence_plot import ExistencePlot, _ticks

SCORES = np.full((2, 10), np.nan, np.float32)
SCORES[0, 2:6] = (0.1, 0.9, 0.9, 0.2)
SCORES[1, 8] = 0.7


@pytest.fixture
def plot(qtbot):
    plot = ExistencePlot()
    qtbot.addWidget(plot)
    plot.resize(300, 240)
    plot.show_scores(
        SCORES, ("nuclei", "vessels"), [QColor("#ff0000"), QColor("#0000ff")]
    )
    plot.show()
    return plot


def spots(plot, colour):
    """Return where (x, y) pixels of about a colour are."""
    image = plot.grab().toImage()
    wanted = QColor(colour)
    return [
        (x, y)
        for x in range(image.width())
        for y in range(image.height())
        if all(
            abs(part - other) < 60
            for part, other in zip(
                QColor(image.pixel(x, y)).getRgb()[:3], wanted.getRgb()[:3], strict=True
            )
        )
    ]


def place(plot, at, probability):
    """Return the pixel of a probability in a slice."""
    return QPoint(round(plot._x(at)), round(plot._y(probability)))


def test_each_prompt_is_drawn_where_it_is_known(plot):
    frame, half = plot._frame(), plot._frame().width() / 20
    red, blue = (
        [(x, y) for x, y in spots(plot, colour) if frame.contains(x, y)]
        for colour in ("#ff0000", "#0000ff")
    )
    assert plot._x(2) - 2 <= min(x for x, _ in red)
    assert max(x for x, _ in red) <= plot._x(5) + 2
    assert min(y for _, y in red) == pytest.approx(plot._y(0.9), abs=2)
    assert {abs(x - plot._x(8)) < half for x, _ in blue} == {True}
    assert {abs(y - plot._y(0.7)) < 5 for _, y in blue} == {True}


def test_numbers_and_a_legend_stand_around_it(plot):
    frame = plot._frame()
    below = [y for _, y in spots(plot, "#0000ff") if y > frame.bottom()]
    assert len(below) >= 3 * 10  # the sample of its line
    assert frame.left() > 15 and plot.height() - frame.bottom() > 4 * 10
    plot.show_scores(
        np.ones((9, 3), np.float32), list("abcdefghi"), [QColor("#f00")] * 9
    )
    assert [name for name, _ in plot._legend] == ["a", "b", "c", "and 6 more"]


@pytest.mark.parametrize(
    ("depth", "most", "numbered"),
    [(3, 8, [0, 1, 2]), (24, 6, [0, 5, 10, 15, 20]), (1000, 5, [*range(0, 1000, 200)])],
)
def test_round_slices_are_numbered(depth, most, numbered):
    assert list(_ticks(depth, most)) == numbered


def test_without_scores_it_is_hidden(plot):
    assert not plot.isHidden()
    plot.show_scores(np.full((1, 4), np.nan, np.float32), ("nuclei",), [QColor()])
    assert plot.isHidden()


def test_a_click_goes_to_its_slice(plot, qtbot):
    with qtbot.waitSignal(plot.slice_clicked) as clicked:
        qtbot.mouseClick(plot, Qt.MouseButton.LeftButton, pos=place(plot, 3, 0.9))
    assert clicked.args == [3]


def test_a_drag_moves_the_threshold_once_it_is_let_go(plot, qtbot):
    told = []
    plot.threshold_changed.connect(told.append)
    clicked = []
    plot.slice_clicked.connect(clicked.append)
    here, there = place(plot, 2, 0.5), place(plot, 3, 0.2)
    qtbot.mousePress(plot, Qt.MouseButton.LeftButton, pos=here)
    qtbot.mouseMove(plot, there)
    assert plot.threshold == pytest.approx(0.2, abs=0.01)
    plot.show_threshold(0.9)  # what others say does not matter in the meantime
    assert told == []
    qtbot.mouseRelease(plot, Qt.MouseButton.LeftButton, pos=there)
    assert told == [pytest.approx(0.2, abs=0.01)]
    assert clicked == []


def test_arrow_keys_move_the_threshold_within_0_and_1(plot, qtbot):
    told = []
    plot.threshold_changed.connect(told.append)
    plot.show_threshold(0.93)
    for _ in range(2):
        qtbot.keyClick(plot, Qt.Key.Key_Up)
    qtbot.keyClick(plot, Qt.Key.Key_Down)
    assert told == pytest.approx([0.98, 1.0, 0.95])


def test_a_fixed_threshold_is_told_and_not_moved(plot, qtbot):
    plot.fix_threshold("Three runs vote.")
    assert "Three runs vote." in plot.toolTip() and "Drag" not in plot.toolTip()
    with qtbot.assertNotEmitted(plot.threshold_changed):
        qtbot.keyClick(plot, Qt.Key.Key_Up)
        with qtbot.waitSignal(plot.slice_clicked):
            qtbot.mousePress(plot, Qt.MouseButton.LeftButton, pos=QPoint(60, 56))
        qtbot.mouseRelease(plot, Qt.MouseButton.LeftButton, pos=QPoint(60, 86))
    assert plot.threshold == 0.5
    plot.fix_threshold("")
    assert "Drag the dashed line" in plot.toolTip()
    with qtbot.waitSignal(plot.threshold_changed):
        qtbot.keyClick(plot, Qt.Key.Key_Up)


def test_an_empty_plot_can_be_clicked(qtbot):
    plot = ExistencePlot()
    qtbot.addWidget(plot)
    plot.show()
    with qtbot.assertNotEmitted(plot.slice_clicked):
        qtbot.mouseClick(plot, Qt.MouseButton.LeftButton, pos=QPoint(20, 10))
    plot.grab()


def test_of_v1_it_shows_p(plot, qtbot, monkeypatch):
    shown = []
    monkeypatch.setattr(
        "napari_biomedparse.widgets.segment.existence_plot.QToolTip.showText",
        lambda place, text, widget: shown.append(text),
    )
    plot.fix_threshold("A folder keeps it.")
    plot.show_scores(SCORES, plot.names, plot.colours, "p")
    assert plot.toolTip().startswith("p: ") and "A folder keeps it." in plot.toolTip()
    qtbot.mouseMove(plot, place(plot, 3, 0.2))
    assert shown[-1] == "slice 3\n0.900  nuclei\nno table for this target  vessels"
    plot.show_scores(SCORES, plot.names, plot.colours)
    assert plot.toolTip().startswith("Probability")
