"""The preview in a real viewer: what it shows, what it drops, what it waits for."""

from __future__ import annotations

import numpy as np
import pytest

from napari_biomedparse.data.prompts import label_colour
from napari_biomedparse.pipeline.segment import segment
from napari_biomedparse.widgets.segment.preview import PAUSE


def previewed(desk, name="stack preview"):
    """Return the layer once it is there."""
    desk.wait_until(lambda: name in desk.viewer.layers)
    return desk.viewer.layers[name]


def shows(desk, layer, plane):
    desk.wait_until(lambda: np.array_equal(np.asarray(layer.data)[0], plane))


def test_the_slice_in_view_lies_on_the_image_and_follows_the_slider(desk_that, voxels):
    desk = desk_that("works")
    image = desk.viewer.add_image(
        voxels,
        name="stack",
        scale=(3, 1, 2),
        translate=(5, 2, 1),
        rotate=[[1, 0, 0], [0, 0.8, -0.6], [0, 0.6, 0.8]],
        shear=(0, 0, 0.2),
        affine=np.diag([2.0, 1, 1, 1]),
        units=("um", "um", "um"),
    )
    desk.viewer.layers.selection.active = image
    desk.viewer.dims.set_current_step(0, 2)
    at = desk.form.slice_in_view()
    desk.widget.preview(True)
    layer = previewed(desk)
    np.testing.assert_array_equal(layer.data, voxels[at : at + 1] > 100)
    np.testing.assert_allclose(
        layer.data_to_world((0, 7, 9)), image.data_to_world((at, 7, 9))
    )
    assert desk.viewer.layers.selection.active is image
    desk.form.show_slice(5)
    shows(desk, layer, voxels[5] > 100)
    np.testing.assert_allclose(
        layer.data_to_world((0, 7, 9)), image.data_to_world((5, 7, 9))
    )
    assert "Preview of slice 5" in desk.view.status.text()
    desk.widget.preview()
    assert list(desk.viewer.layers) == [image]


def test_prompts_that_change_change_the_preview(desk_that, voxels):
    desk = desk_that("works")
    desk.viewer.add_image(voxels, name="stack")
    desk.widget.preview(True)
    layer = previewed(desk)
    at = desk.viewer.dims.current_step[0]
    desk.form.prompts.value = "one thing\nanother thing"
    shows(desk, layer, (voxels[at] > 100) * 2)
    np.testing.assert_allclose(
        layer.get_color(2), np.divide(label_colour(2), 255), atol=0.01
    )
    assert layer.features["prompt"].tolist()[1:] == ["one thing", "another thing"]


def test_what_is_superseded_is_never_shown(desk_that, voxels):
    desk = desk_that("slow")  # a preview takes a second
    desk.viewer.add_image(voxels, name="stack")
    desk.viewer.dims.set_point(0, 0)
    desk.widget.preview(True)
    desk.qtbot.wait(2 * PAUSE)
    for z in (1, 2, 3, 4):
        desk.viewer.dims.set_point(0, z)
    layer = previewed(desk)
    shows(desk, layer, voxels[4] > 100)
    session = desk.widget.session
    assert session._runs == 2  # the first one, and one for all that came after it


def test_probabilities_on_request(desk_that, voxels):
    desk = desk_that("works")
    desk.viewer.add_image(voxels, name="stack")
    desk.widget.preview(True)
    previewed(desk)
    assert "stack probability" not in desk.viewer.layers
    desk.view.probability_box.setChecked(True)
    layer = previewed(desk, "stack probability")
    assert desk.form.layer is desk.viewer.layers["stack"]
    at = desk.viewer.dims.current_step[0]
    np.testing.assert_allclose(layer.data[0], voxels[at] / 255, rtol=1e-6)
    desk.view.probability_box.setChecked(False)
    desk.wait_until(lambda: "stack probability" not in desk.viewer.layers)


def test_a_run_takes_precedence_and_the_preview_comes_back(desk_that, voxels):
    desk = desk_that("works")
    desk.viewer.add_image(voxels, name="stack")
    desk.widget.preview(True)
    previewed(desk)
    desk.view.run_button.click()
    assert "stack preview" not in desk.viewer.layers
    desk.wait_for_end()
    np.testing.assert_array_equal(
        desk.viewer.layers["bright things, stack (tiny)"].data, voxels > 100
    )
    desk.viewer.dims.set_point(0, 1)
    shows(desk, previewed(desk), voxels[1] > 100)


@pytest.mark.parametrize("objects", [False, True])
def test_a_run_goes_on_with_the_layer_of_the_preview(desk_that, voxels, objects):
    desk = desk_that("works")
    image = desk.viewer.add_image(voxels, name="stack", scale=(3, 1, 1), units="um")
    desk.form.instances.value = objects
    desk.widget.preview(True)
    desk.view.probability_box.setChecked(True)
    previewed(desk, "stack probability")
    layer = previewed(desk)
    below = desk.viewer.add_points(np.zeros((1, 3)), name="points", units="um")
    layer.visible = False
    layer.data_setitem((np.array([0]), np.array([7]), np.array([9])), 5)
    assert layer._undo_history
    desk.view.run_button.click()
    assert layer.visible and not layer._undo_history
    assert list(desk.viewer.layers) == [image, below, layer]
    assert desk.viewer.layers.selection.active is layer
    desk.wait_for_end()
    assert layer.name == "bright things, stack (tiny)"
    assert layer.data.shape == voxels.shape
    np.testing.assert_array_equal(layer.data > 0, voxels > 100)
    np.testing.assert_allclose(
        layer.data_to_world((4, 7, 9)), image.data_to_world((4, 7, 9))
    )
    named = np.divide(label_colour(1), 255)
    assert objects or np.allclose(layer.get_color(1), named, atol=0.01)
    desk.viewer.dims.set_point(0, 3)
    assert previewed(desk) is not layer


def test_a_run_does_not_kill_the_process_of_a_slow_preview(desk_that, voxels):
    desk = desk_that("slow")
    desk.viewer.add_image(voxels, name="stack")
    desk.widget.preview(True)
    desk.wait_until(lambda: desk.widget.session.pid is not None)
    desk.qtbot.wait(200)
    pid = desk.widget.session.pid
    desk.view.run_button.click()
    desk.wait_for_end()
    assert desk.widget.session.pid == pid
    assert "Done: 6 slices" in desk.view.status.text()


def test_qt_may_forget_the_preview_before_the_widget(desk_that, voxels):
    desk = desk_that("works")
    desk.viewer.add_image(voxels, name="stack")
    desk.widget.preview(True)
    previewed(desk)
    session = desk.widget.session
    desk.widget._preview.deleteLater()
    desk.widget.close()
    desk.widget.deleteLater()
    desk.wait_until(lambda: session.pid is None)
    desk.viewer.layers.clear()  # nobody listens


def test_deleting_the_layer_ends_the_preview(desk_that, voxels):
    desk = desk_that("works")
    desk.viewer.add_image(voxels, name="stack")
    desk.widget.preview(True)
    desk.viewer.layers.remove(previewed(desk))
    assert not desk.view.preview_box.isChecked()
    desk.viewer.dims.set_point(0, 1)
    desk.qtbot.wait(2 * PAUSE)
    assert "stack preview" not in desk.viewer.layers


def test_what_cannot_be_previewed_is_said_quietly(desk_that, voxels, notes):
    desk = desk_that("works")
    desk.viewer.add_image(voxels, name="stack")
    desk.form.prompts.value = ""
    desk.widget.preview(True)
    desk.wait_until(lambda: "No preview" in desk.view.status.text())
    assert notes == []


@pytest.mark.parametrize("shape", [(4, 40, 90), (40, 90), (40, 90, 3)])
def test_the_real_network_previews_what_a_run_would_give(desk_that, tiny_model, shape):
    values = np.random.default_rng(0).integers(0, 3000, shape, dtype=np.uint16)
    if shape[-1] == 3:
        values = (values // 12).astype(np.uint8)
    expected = segment(values, "bright things", tiny_model).labels
    desk = desk_that(None)
    image = desk.viewer.add_image(values, name="stack", rgb=shape[-1] == 3)
    desk.widget.preview(True)
    layer = previewed(desk)
    assert layer.ndim == image.ndim
    at = desk.viewer.dims.current_step[0]
    wanted = expected if expected.ndim == 2 else expected[at : at + 1]
    np.testing.assert_array_equal(layer.data, wanted)
