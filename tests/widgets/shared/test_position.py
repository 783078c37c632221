"""From slice to slice with labels."""

from __future__ import annotations

import numpy as np
import pytest

from napari_biomedparse.widgets.shared.position import go_to_labels


@pytest.fixture
def labels():
    made = np.zeros((9, 6, 5), np.uint8)
    made[2, 1, 1], made[5, 2, 2], made[7] = 1, 2, 1
    return made


def test_the_slider_moves(make_napari_viewer, qtbot, labels, notes):
    viewer = make_napari_viewer()
    go_to_labels(viewer, 1)
    assert "no Labels layer" in notes[-1]
    layer = viewer.add_labels(labels, scale=(4, 1, 1), translate=(8, 0, 0))
    viewer.add_image(labels)
    viewer.dims.set_point(0, 8)
    for at in (2, 5, 7):
        go_to_labels(viewer, 1)
        qtbot.waitUntil(lambda at=at: viewer.dims.point[0] == 8 + 4 * at)
    layer.show_selected_label = True
    layer.selected_label = 1
    go_to_labels(viewer, -1)
    qtbot.waitUntil(lambda: viewer.dims.point[0] == 16)
    go_to_labels(viewer, -1)
    qtbot.waitUntil(lambda: "no labels before" in notes[-1])
    viewer.dims.ndisplay = 3
    go_to_labels(viewer, 1)
    assert "no other slices" in notes[-1]
