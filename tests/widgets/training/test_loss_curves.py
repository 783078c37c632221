"""The plot of losses: what it keeps, smooths and draws."""

from __future__ import annotations

import pytest

from napari_biomedparse.widgets.training.loss_curves import _MOST, HELD_OUT, LossCurves


@pytest.fixture
def curves(qtbot):
    widget = LossCurves()
    qtbot.addWidget(widget)
    widget.resize(240, 130)
    return widget


def test_the_mean_follows_closely_at_first_and_slowly_later(curves):
    for step in range(1, 41):
        curves.add(step, 40, 4.0 if step <= 20 else 2.0, None)
    means = dict(curves.smoothed())
    assert means[1] == 4.0 and means[20] == pytest.approx(4.0)
    assert means[21] == pytest.approx(3.8) and 2.2 < means[40] < 2.3


def test_held_out_losses_are_kept_once_and_old_points_thinned(curves):
    for step in range(1, 2 * _MOST):
        curves.add(step, 2 * _MOST, 1.0, 0.5 + step // _MOST)
    assert curves.held_out == [(1, 0.5), (_MOST, 1.5)]
    assert len(curves.learned) <= _MOST and curves.learned[-1][0] == 2 * _MOST - 1
    curves.clear()
    assert curves.learned == curves.held_out == []


def test_held_out_points_are_drawn_where_they_belong(curves):
    curves.add(5, 10, 2.0, 1.0)
    curves.add(10, 10, 2.0, 1.5)
    image = curves.grab().toImage()
    frame = curves._frame()
    for share, loss in ((0.5, 1.0), (1.0, 1.5)):
        x = frame.left() + share * frame.width()
        y = frame.bottom() - frame.height() * loss / 2.2
        drawn = image.pixelColor(round(x), round(y)).getRgb()[:3]
        assert drawn == pytest.approx(HELD_OUT.getRgb()[:3], abs=10)
