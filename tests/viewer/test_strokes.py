"""napari's paint events are read for every tool."""

from __future__ import annotations

import numpy as np
import pytest
from napari.components import ViewerModel

from napari_biomedparse.viewer.strokes import stroke_voxels


def _drag(layer):
    with layer.block_history():
        layer.paint((1, 5, 5), 3)
        layer.paint((1, 6, 5), 4)


TOOLS = {
    "brush": lambda layer: layer.paint((1, 10, 10), 5),
    "one whole box": lambda layer: layer.paint_polygon(
        [(1, 2, 2), (1, 2, 6), (1, 6, 6), (1, 6, 2)], 5
    ),
    "eraser": lambda layer: layer.paint((1, 1, 1), 0),
    "fill": lambda layer: layer.fill((1, 10, 10), 6),
    "drag": _drag,
    "script": lambda layer: layer.data_setitem(
        (np.array([0, 1]), np.array([2, 3]), np.array([4, 5])), np.array([7, 8])
    ),
}


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("block", [False, True])
def test_a_stroke_is_what_changed(tool, block):
    viewer = ViewerModel()
    layer = viewer.add_labels(np.ones((2, 20, 20), np.uint8))
    viewer.dims.set_point(0, 1)
    layer.brush_size = 4
    before, told = layer.data.copy(), []
    layer.events.paint.connect(lambda event: told.append(stroke_voxels(event.value)))
    if block:
        layer._begin_stroke()
    TOOLS[tool](layer)
    if block:
        layer._commit_stroke()
    ((voxels, old, values),) = told
    found = before.copy()
    np.testing.assert_array_equal(old[0], before[tuple(axis[0] for axis in voxels)])
    for *at, value in zip(*voxels, values, strict=True):
        found[tuple(at)] = value
    assert (found != before).any()
    np.testing.assert_array_equal(found, layer.data)


def test_what_is_not_known_is_not_guessed():
    assert stroke_voxels([object()]) is None and stroke_voxels([]) is None
