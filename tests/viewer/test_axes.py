"""Which axes of a layer are which, and where in them the viewer is."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image

from napari_biomedparse.viewer.axes import (
    find_labels,
    is_series,
    series_axes,
    show_position,
    shown_position,
    shown_series,
    space_axes,
    stacked_axes,
)


def layer(*labels: str, shape: tuple[int, ...] = (2, 3, 4, 5, 6)) -> Image:
    shape = shape[-len(labels) :]
    return Image(np.zeros(shape, np.uint8), axis_labels=labels, rgb=False)


@pytest.mark.parametrize(
    ("labels", "space", "stacked"),
    [
        (("t", "c", "z", "y", "x"), [2, 3, 4], {"t": 0, "c": 1}),
        (("z", "c", "y", "x"), [0, 2, 3], {"c": 1}),
        (("t", "z", "y", "x"), [1, 2, 3], {"t": 0}),
        (("c", "y", "x"), [1, 2], {"c": 0}),
        (("y", "x"), [0, 1], {}),
        (("a", "b", "d", "e", "f"), [2, 3, 4], {"t": 0, "c": 1}),
        (("C", "Z", "Y", "X"), [1, 2, 3], {"c": 0}),
    ],
)
def test_axes_are_known_by_name_or_place(
    labels: tuple[str, ...], space: list[int], stacked: dict[str, int]
) -> None:
    assert space_axes(layer(*labels)) == space
    assert stacked_axes(layer(*labels)) == stacked


def test_a_series_has_several_time_points_before_space() -> None:
    assert is_series(layer("t", "c", "z", "y", "x"))
    assert not is_series(layer("t", "z", "y", "x", shape=(1, 4, 5, 6)))
    assert not is_series(layer("z", "t", "y", "x"))
    assert not is_series(layer("c", "z", "y", "x"))


def test_labels_of_a_series_keep_a_channel_between() -> None:
    image = layer("t", "c", "z", "y", "x")
    assert series_axes(image) == [0, 1, 2, 3, 4]
    labels = np.arange(2 * 4 * 5 * 6).reshape(2, 4, 5, 6)
    shown = shown_series(image, labels)
    assert shown.shape == (2, 1, 4, 5, 6)
    assert np.shares_memory(shown, labels)
    np.testing.assert_array_equal(shown[:, 0], labels)


def test_without_a_viewer_the_first_position_is_shown() -> None:
    assert shown_position(layer("t", "z", "y", "x"), None) == (0, 0, 0, 0)


@pytest.mark.parametrize("unit", ["nanometer", "micrometer", "pixel"])
def test_the_viewer_goes_to_a_position_and_tells_it(unit: str) -> None:
    viewer = ViewerModel()
    image = viewer.add_image(
        np.zeros((4, 5, 6), np.uint8),
        scale=(2.5, 1.0, 1.0),
        translate=(10.0, 0.0, 0.0),
        units=(unit,) * 3,
    )
    for index in (3, 0, 2):
        show_position(image, viewer.dims, 0, index)
        assert shown_position(image, viewer.dims)[0] == index


def test_a_viewer_beside_the_layer_shows_its_nearest_slice() -> None:
    viewer = ViewerModel()
    viewer.add_image(np.zeros((9, 5, 6), np.uint8))
    image = viewer.add_image(np.zeros((4, 5, 6), np.uint8))
    viewer.dims.set_point(0, 8)
    assert shown_position(image, viewer.dims)[0] == 3


@pytest.fixture
def labels():
    made = np.zeros((9, 6, 5), np.uint8)
    made[2, 1, 1], made[5, 2, 2], made[7] = 1, 2, 1
    return made


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize(
    ("at", "step", "label", "found"),
    [
        (0, 1, None, 2),
        (2, 1, None, 5),
        (2, 1, 1, 7),
        (7, 1, None, None),
        (7, -1, None, 5),
        (2, -1, None, None),
    ],
)
def test_find_labels(labels, lazy, at, step, label, found):
    data = da.from_array(labels, (1, 6, 5)) if lazy else labels
    index = [at, slice(None), slice(None)]
    assert find_labels(data, index, 0, step, label) == found


def test_only_what_is_in_view_is_looked_at(labels):
    series = np.stack([labels * 0, labels])
    assert find_labels(series, [0, 0, slice(None), slice(None)], 1, 1, None) is None
    assert find_labels(series, [1, 0, slice(None), slice(None)], 1, 1, None) == 2
