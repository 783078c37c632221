"""The plot of existence scores: what is painted, clicked and dragged."""

from __future__ import annotations

import numpy as np
import pytest
from qtpy.QtCore import QPoint, Qt
from qtpy.QtGui import QColor

from napari_biomedparse.widgets.segment.existence_plot import ExistencePlot

SCORES = np.full((2, 10), np.nan, np.float32)
SCORES[0, 2:6] = (0.1, 0.9, 0.9, 0.2)
SCORES[1, 8] = 0.7


@pytest.fixture
def plot(qtbot):
    plot = ExistencePlot()
    qtbot.addWidget(plot)
    plot.resize(212, 112)  # a frame of 200 by 100 pixels within the margins
    plot.show_scores(SCORES, ("nuclei", "vessels"), ("#ff0000", "#0000ff"))
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


def test_each_prompt_is_drawn_where_it_is_known(plot):
    red, blue = spots(plot, "#ff0000"), spots(plot, "#0000ff")
    assert min(x for x, _ in red) >= 6 + 50 - 2
    assert max(x for x, _ in red) <= 6 + 110 + 2
    assert min(y for _, y in red) == pytest.approx(6 + 10, abs=2)
    assert {round((x - 6) // 20) for x, _ in blue} == {8}
    assert {y for _, y in blue} <= set(range(33, 40))


def test_a_click_goes_to_its_slice(plot, qtbot):
    with qtbot.waitSignal(plot.slice_clicked) as clicked:
        qtbot.mouseClick(plot, Qt.MouseButton.LeftButton, pos=QPoint(6 + 75, 20))
    assert clicked.args == [3]


def test_a_drag_moves_the_threshold_once_it_is_let_go(plot, qtbot):
    told = []
    plot.threshold_changed.connect(told.append)
    clicked = []
    plot.slice_clicked.connect(clicked.append)
    qtbot.mousePress(plot, Qt.MouseButton.LeftButton, pos=QPoint(60, 56))
    qtbot.mouseMove(plot, QPoint(80, 86))
    assert plot.threshold == pytest.approx(0.2)
    plot.show_threshold(0.9)  # what others say does not matter in the meantime
    assert told == []
    qtbot.mouseRelease(plot, Qt.MouseButton.LeftButton, pos=QPoint(80, 86))
    assert told == [pytest.approx(0.2)]
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
