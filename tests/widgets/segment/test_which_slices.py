"""Parts of slices: what is in view, and rectangles."""

from __future__ import annotations

import numpy as np
import pytest

from napari_biomedparse.errors import OptionError
from napari_biomedparse.widgets.segment.which_slices import IN_VIEW, WHOLE, RegionChoice


def image_in(viewer):
    return viewer.add_image(
        np.zeros((6, 40, 30), np.uint8),
        scale=(3, 2, 2),
        translate=(0, 10, 0),
        axis_labels=("z", "y", "x"),
    )


def test_a_rectangle_in_world_coordinates(make_napari_viewer):
    viewer = make_napari_viewer()
    image = image_in(viewer)
    shapes = viewer.add_shapes(name="roi")
    choice = RegionChoice(viewer)
    choice.value = shapes
    with pytest.raises(OptionError, match="no rectangle"):
        choice.text(image, 0)
    box = [[20.0, 8.0], [20.0, 28.0], [40.0, 28.0], [40.0, 8.0]]
    shapes.add_rectangles(np.array(box))
    assert choice.text(image, 0) == "y=5:16,x=4:15"
    assert choice.text(image, 1) == "x=4:15"  # cut along y: nothing is left out of it
    shapes.add_rectangles(np.add(box, (0, 1000)))
    with pytest.raises(OptionError, match="No part of"):
        choice.text(image, 0)
    shapes.selected_data = {0}
    assert choice.text(image, 0) == "y=5:16,x=4:15"
    choice.value = WHOLE
    assert choice.text(image, 0) is None


def test_what_is_in_view(make_napari_viewer, qtbot):
    viewer = make_napari_viewer(show=True)
    image = image_in(viewer)
    choice = RegionChoice(viewer)
    choice.value = IN_VIEW
    viewer.reset_view()
    assert choice.text(image, 0) is None
    viewer.scene.camera.zoom *= 4
    viewer.scene.camera.center = (0, 50, 30)  # voxel y=20, x=15
    qtbot.waitUntil(lambda: choice.text(image, 0) is not None)
    text = choice.text(image, 0)
    start, stop = map(int, text.split(",")[0].removeprefix("y=").split(":"))
    assert 0 < start < 20 < stop < 40
    assert (start + stop) / 2 == pytest.approx(20, abs=2)


def test_labels_and_preview_of_a_region_lie_on_it(desk_that):
    values = np.random.default_rng(0).integers(0, 255, (4, 40, 30), dtype=np.uint8)
    desk = desk_that(None)
    image = desk.viewer.add_image(values, name="stack", scale=(3, 2, 2))
    desk.form.image.value = image
    box = np.array([[10.0, 8.0], [10.0, 40.0], [50.0, 40.0], [50.0, 8.0]])
    shapes = desk.viewer.add_shapes(box, name="roi")
    desk.form.reset_choices()
    desk.form.region.value = shapes
    layer = desk.start()
    desk.wait_for_end()
    from napari_biomedparse.pipeline.segment import segment

    expected = segment(values[:, 5:26, 4:21], "bright things", "tiny", device="cpu")
    assert expected.labels.any()
    np.testing.assert_array_equal(layer.data[:, 5:26, 4:21], expected.labels)
    outside = np.array(layer.data)
    outside[:, 5:26, 4:21] = 0
    assert not outside.any()
    desk.widget.preview(True)
    desk.wait_until(lambda: "stack preview" in desk.viewer.layers)
    preview = desk.viewer.layers["stack preview"]
    at = desk.viewer.dims.current_step[0]
    np.testing.assert_array_equal(preview.data[0], expected.labels[at])
    np.testing.assert_allclose(
        preview.data_to_world((0, 0, 0)), image.data_to_world((at, 5, 4))
    )
