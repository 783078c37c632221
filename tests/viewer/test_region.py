"""The part of an image that a shape covers."""

from __future__ import annotations

import numpy as np
import pytest
from napari.components import ViewerModel

from napari_biomedparse.viewer.region import box_between, corners_of_shape


@pytest.fixture
def viewer():
    made = ViewerModel()
    made.add_image(np.zeros((5, 20, 30)), scale=(2, 1, 1))
    return made


def test_the_selected_shape_counts_or_else_the_last(viewer):
    image = viewer.layers[0]
    corners = [[[3, 4], [3, 9], [7, 9], [7, 4]], [[0, 0], [0, 99], [9, 99], [9, 0]]]
    shapes = viewer.add_shapes(corners, shape_type="rectangle")
    last = corners_of_shape(shapes, image, viewer.dims)
    assert box_between(image, last, 0) == {"y": (0, 10)}
    shapes.selected_data = {0}
    first = corners_of_shape(shapes, image, viewer.dims)
    assert box_between(image, first, 0) == {"y": (3, 8), "x": (4, 10)}
    assert box_between(image, first, 1) == {"x": (4, 10)}


def test_nothing_of_the_image_lies_between(viewer):
    corners = np.array([0.0, 50.0, 0.0]), np.array([4.0, 60.0, 9.0])
    assert box_between(viewer.layers[0], corners, 0) is None
