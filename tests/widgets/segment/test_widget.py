"""The widget in a real viewer: runs, and what users do in the meantime."""

from __future__ import annotations

import os
import shlex
import signal

import numpy as np
import pytest
import tifffile
from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QApplication,
    QFileDialog,
    QLabel,
    QMessageBox,
    QPushButton,
)
from typer.testing import CliRunner

from napari_biomedparse.cli import app
from napari_biomedparse.io import open_file
from napari_biomedparse.pipeline.segment import segment
from napari_biomedparse.viewer.axes import shown_position
from napari_biomedparse.viewer.layers import METADATA_KEY
from napari_biomedparse.widgets.segment.run_view import COMMAND, PYTHON
from napari_biomedparse.widgets.segment.which_slices import ALL_TIMES
from napari_biomedparse.widgets.shared.form import ask_where
from napari_biomedparse.widgets.shared.settings import last_values


def test_labels_fill_and_lie_on_the_image(desk_that, voxels):
    desk = desk_that("works")
    image = desk.viewer.add_image(
        voxels,
        name="stack",
        scale=(3, 1, 1),
        translate=(5, 2, 1),
        rotate=[[1, 0, 0], [0, 0.8, -0.6], [0, 0.6, 0.8]],
        shear=(0, 0, 0.2),
        affine=np.diag([2.0, 1, 1, 1]),
        units=("um", "um", "um"),
        axis_labels=("z", "y", "x"),
    )
    layer = desk.start()
    assert layer.name == "bright things, stack (tiny)"
    assert desk.view.run_button.text() == "Queue"
    assert desk.view.cancel_button.isEnabled()
    desk.wait_for_end()
    np.testing.assert_array_equal(layer.data, voxels > 100)
    for part in ("scale", "translate", "rotate", "shear", "units", "axis_labels"):
        np.testing.assert_array_equal(getattr(layer, part), getattr(image, part))
    np.testing.assert_allclose(layer.affine.affine_matrix, image.affine.affine_matrix)
    point = np.array([10.0, 30.0, 15.0])
    np.testing.assert_allclose(layer.world_to_data(point), image.world_to_data(point))
    z = round(layer.world_to_data(desk.viewer.dims.point)[0])
    inside = (z, *np.argwhere(layer.data[z])[0])
    assert "bright things" in layer.get_status(inside)["value"]
    known = layer.metadata[METADATA_KEY]
    assert known["complete"]
    assert known["existence"].shape == (1, 6)
    assert known["parameters"]["seed"] == 0
    assert "Done: 6 slices" in desk.view.status.text()
    (row,) = desk.form.prompts.model.rows
    assert row.result.voxels == (voxels > 100).sum()
    assert not desk.view.doctor.isVisibleTo(desk.widget)
    assert desk.view.run_button.text() == "Run"
    assert not desk.view.cancel_button.isEnabled()
    assert not desk.view.resume_button.isVisible()


def test_cancel_keeps_what_is_done_and_the_next_run_works(desk_that, voxels):
    desk = desk_that("stuck")
    desk.viewer.add_image(voxels)
    desk.viewer.dims.set_point(0, 0)
    layer = desk.start()
    desk.wait_for_slices(layer)
    desk.view.cancel_button.click()
    desk.qtbot.waitUntil(lambda: desk.widget.run is None, timeout=1000)
    assert "Cancelled: 1 of 6 slices" in desk.view.status.text()
    np.testing.assert_array_equal(layer.data[0], voxels[0] > 100)
    assert not layer.data[1:].any()
    again = desk.start()
    desk.wait_for_slices(again)


def test_layer_may_be_renamed_reordered_and_hidden(desk_that, voxels):
    desk = desk_that("slow")
    image = desk.viewer.add_image(voxels, name="a")
    other = desk.viewer.add_image(voxels[::-1], name="b")
    desk.form.image.value = image
    layer = desk.start()
    layer.name = "mine"
    other.name = "bright things, a (tiny)"
    desk.viewer.layers.move(2, 0)
    layer.visible = False
    desk.viewer.layers.selection.active = other
    desk.wait_for_end()
    np.testing.assert_array_equal(layer.data, voxels > 100)
    assert layer.name == "mine"
    np.testing.assert_array_equal(other.data, voxels[::-1])
    assert desk.form.layer is other


def test_deleting_the_labels_stops_the_run_quietly(desk_that, voxels, notes):
    desk = desk_that("stuck")
    desk.viewer.add_image(voxels)
    layer = desk.start()
    desk.wait_for_slices(layer)
    desk.viewer.layers.remove(layer)
    desk.wait_for_end()
    assert notes == []


def test_deleting_the_image_does_not_stop_the_run(desk_that, voxels):
    desk = desk_that("slow")
    image = desk.viewer.add_image(voxels)
    layer = desk.start()
    desk.viewer.layers.remove(image)
    desk.wait_for_end()
    np.testing.assert_array_equal(layer.data, voxels > 100)


def test_killed_process_is_explained_and_the_next_run_works(desk_that, voxels, notes):
    desk = desk_that("slow")
    desk.viewer.add_image(voxels)
    layer = desk.start()
    desk.wait_for_slices(layer)
    os.kill(desk.widget.session.pid, signal.SIGKILL)
    desk.wait_for_end()
    assert "ended unexpectedly" in notes[0]
    assert "Stopped by an error" in desk.view.status.text()
    again = desk.start()
    desk.wait_for_end()
    np.testing.assert_array_equal(again.data, voxels > 100)


def test_errors_of_the_process_are_shown(desk_that, voxels, notes):
    desk = desk_that("refuses")
    desk.viewer.add_image(voxels)
    desk.start()
    desk.wait_for_end()
    assert notes == ["There is no device 'cuda:7'."]


@pytest.mark.parametrize(
    ("data", "prompts", "message"),
    [
        (None, "nuclei", "no image"),
        (np.zeros((5, 20, 20), np.uint8), "  \n ", "no prompt"),
    ],
    ids=["no-image", "no-prompt"],
)
def test_what_cannot_run_is_explained(desk_that, notes, data, prompts, message):
    desk = desk_that("works")
    if data is not None:
        desk.viewer.add_image(data)
    desk.form.prompts.value = prompts
    count = len(desk.viewer.layers)
    desk.view.run_button.click()
    assert message in notes[0]
    assert len(desk.viewer.layers) == count


def test_what_cannot_be_a_prompt_is_refused_where_it_is_entered(desk_that, notes):
    desk = desk_that("works")
    desk.form.prompts.add("a [SEP] b")
    assert "SEP" in notes[0]
    assert desk.form.prompts.value == "bright things"


@pytest.mark.parametrize("instances", [False, True])
@pytest.mark.parametrize("shape", [(40, 90), (40, 90, 3), (3, 40, 90, 4)])
def test_single_images_and_colours(desk_that, tiny_model, shape, instances):
    values = np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)
    desk = desk_that(None)
    image = desk.viewer.add_image(values, rgb=shape[-1] < 5)
    desk.form.instances.value = instances
    layer = desk.start()
    desk.wait_for_end()
    expected = segment(values, "bright things", tiny_model, instances=instances)
    assert layer.ndim == image.ndim
    found = expected.instances if instances else expected.labels
    np.testing.assert_array_equal(layer.data, found)
    np.testing.assert_array_equal(layer.extent.world, image.extent.world)


def test_what_the_model_process_warns_of_is_shown_once(desk_that, voxels, notes):
    desk = desk_that("warns")
    desk.viewer.add_image(voxels)
    layer = desk.start()
    desk.wait_for_end()
    for threshold in (0.8, 0.3):  # each has the labels made again
        desk.form.set_option("existence_threshold", threshold)
        desk.wait_until(lambda t=threshold: layer.data.any() == (t < 0.5))
    assert notes.count("Look out.") == 1


def test_nothing_found_is_explained(desk_that):
    desk = desk_that("works")
    desk.viewer.add_image(np.zeros((3, 20, 20), np.uint8), contrast_limits=(0, 1))
    desk.start()
    desk.wait_for_end()
    doctor = desk.view.doctor
    desk.wait_until(lambda: doctor.isVisibleTo(desk.widget))
    assert "The values range only up to 0" in doctor.findChild(QLabel).text()


def test_the_doctor_mends_a_threshold(desk_that, voxels):
    desk = desk_that("works")  # whose scores are 0.5
    desk.viewer.add_image(voxels)
    desk.form.set_option("existence_threshold", 0.8)
    layer = desk.start()
    desk.wait_for_end()
    desk.wait_until(lambda: desk.view.doctor.isVisibleTo(desk.widget))
    assert not np.asarray(layer.data).any()
    desk.view.doctor.findChild(QPushButton).click()
    desk.wait_until(lambda: np.array_equal(layer.data, voxels > 100))
    assert desk.form.option_values()["existence_threshold"] <= 0.5
    assert not desk.view.doctor.isVisibleTo(desk.widget)


def test_closing_the_viewer_ends_the_process(desk_that, voxels):
    desk = desk_that("stuck")
    desk.viewer.add_image(voxels)
    layer = desk.start()
    desk.wait_for_slices(layer)
    session = desk.widget.session
    pid = session.pid
    desk.widget.close()
    desk.widget.deleteLater()
    desk.wait_until(lambda: session.pid is None)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_only_the_time_point_in_view_is_segmented(desk_that, voxels):
    desk = desk_that("works")
    series = np.stack([voxels, voxels[::-1]])
    desk.viewer.add_image(series, axis_labels=("t", "z", "y", "x"))
    desk.viewer.dims.set_point(0, 1)
    layer = desk.start()
    desk.wait_for_end()
    np.testing.assert_array_equal(layer.data, voxels[::-1] > 100)


def test_a_time_series_becomes_one_layer(desk_that, tiny_model):
    grey = np.random.default_rng(3).integers(0, 255, (3, 2, 4, 40, 30), dtype=np.uint8)
    axes = ("t", "c", "z", "y", "x")
    expected = segment(grey, "bright things", tiny_model, channel=1)
    desk = desk_that(None)
    image = desk.viewer.add_image(
        grey, axis_labels=axes, scale=(9, 1, 3, 2, 2), translate=(1, 0, 4, 5, 6)
    )
    desk.form.stack.channel.value = 1
    desk.form.stack.time.value = ALL_TIMES
    layer = desk.start()
    desk.wait_for_end()
    assert expected.labels.any()
    np.testing.assert_array_equal(layer.data[:, 0], expected.labels)
    np.testing.assert_array_equal(layer.translate, (1, 1, 4, 5, 6))
    np.testing.assert_array_equal(layer.scale, image.scale)
    np.testing.assert_array_equal(
        layer.metadata[METADATA_KEY]["existence"], expected.existence
    )
    assert "Done: 12 slices" in desk.view.status.text()
    desk.viewer.dims.set_point((0, 1, 2), (19, 1, 7))
    assert shown_position(layer, desk.viewer.dims)[:3] == (2, 0, 1)


def test_images_over_time_with_channels(desk_that, voxels):
    desk = desk_that("works")
    series = np.stack([voxels, voxels[::-1]])  # t, c, y, x
    desk.viewer.add_image(series, axis_labels=("t", "c", "y", "x"))
    desk.form.stack.channel.value = 2
    desk.form.stack.time.value = ALL_TIMES
    layer = desk.start()
    desk.wait_for_end()
    np.testing.assert_array_equal(layer.data[:, 0], series[:, 2] > 100)


def test_fields_for_channel_and_time_appear_where_there_is_a_choice(desk_that, voxels):
    desk = desk_that("works")
    stack = desk.form.stack
    desk.viewer.add_image(voxels)
    assert not stack.channel.native.isVisibleTo(desk.widget)
    assert not stack.time.native.isVisibleTo(desk.widget)
    series = np.stack([voxels, voxels])
    desk.viewer.add_image(series)
    assert stack.time.native.isVisibleTo(desk.widget)
    assert not stack.channel.native.isVisibleTo(desk.widget)
    desk.viewer.add_image(series, axis_labels=("c", "z", "y", "x"))
    assert stack.channel.native.isVisibleTo(desk.widget)
    assert not stack.time.native.isVisibleTo(desk.widget)


@pytest.mark.parametrize("instances", [False, True])
def test_consensus_of_three_axes(desk_that, tiny_model, instances):
    grey = np.random.default_rng(1).integers(0, 255, (20, 30, 40), dtype=np.uint8)
    prompts = ["nuclei", "mitochondria in electron microscopy"]
    expected = segment(grey, prompts, tiny_model, instances=instances, consensus=True)
    desk = desk_that(None)
    desk.viewer.add_image(grey)
    desk.form.prompts.value = "\n".join(prompts)
    desk.form.instances.value = instances
    desk.form.consensus.value = True
    layer = desk.start()
    desk.wait_for_end()
    wanted = expected.instances if instances else expected.labels
    assert wanted.any()
    np.testing.assert_array_equal(layer.data, wanted)
    known = layer.metadata[METADATA_KEY]
    np.testing.assert_array_equal(
        known["existence"], expected.existence[:, 0, : len(grey)]
    )
    assert known["parameters"]["slicing_axis"] == "consensus"
    assert "Done: 90 slices" in desk.view.status.text()


def test_3d_view_during_a_run(desk_that, voxels):
    desk = desk_that("slow")
    desk.viewer.add_image(voxels)
    desk.viewer.dims.ndisplay = 3
    layer = desk.start()
    desk.wait_for_end()
    np.testing.assert_array_equal(layer.data, voxels > 100)


@pytest.mark.parametrize("instances", [False, True])
def test_real_network_gives_what_python_gives(desk_that, instances):

    grey = np.random.default_rng(1).integers(0, 255, (5, 64, 48), dtype=np.uint8)
    prompts = ["nuclei", "mitochondria in electron microscopy"]
    expected = segment(grey, prompts, "tiny", device="cpu", instances=instances)
    desk = desk_that(None)
    desk.viewer.add_image(grey)
    desk.form.prompts.value = "\n".join(prompts)
    desk.form.instances.value = instances
    layer = desk.start()
    desk.wait_for_end()
    wanted = expected.instances if instances else expected.labels
    assert wanted.any()
    np.testing.assert_array_equal(layer.data, wanted)
    np.testing.assert_array_equal(
        layer.metadata[METADATA_KEY]["existence"], expected.existence
    )
    if instances:
        owners = layer.features.set_index("index")["prompt"]
        z, y, x = np.argwhere(layer.data == 1)[0]
        text = prompts[expected.labels[z, y, x] - 1]
        assert owners[1] == text


def copied(desk, language):
    QApplication.clipboard().clear()
    actions = desk.view.copy_menu.actions()
    next(action for action in actions if action.data() == language).trigger()
    return QApplication.clipboard().text()


def test_a_series_by_widget_command_and_python(
    desk_that, tiny_model, tmp_path, monkeypatch
):
    """Issue 4, what it must show, 6: two channels over time, the same three ways."""
    monkeypatch.chdir(tmp_path)
    grey = np.random.default_rng(3).integers(0, 255, (2, 2, 3, 40, 30), dtype=np.uint8)
    tifffile.imwrite("movie.ome.tif", grey, metadata={"axes": "TCZYX"}, ome=True)
    desk = desk_that(None)
    _, second = desk.viewer.open("movie.ome.tif", plugin="napari-biomedparse")
    desk.form.image.value = second
    desk.form.stack.time.value = ALL_TIMES
    desk.form.scope.choose(1, 2)
    command, python = (copied(desk, language) for language in (COMMAND, PYTHON))
    layer = desk.start()
    desk.wait_for_end()
    assert layer.data.shape == (2, 3, 40, 30)
    assert layer.data.any()
    result = CliRunner().invoke(app, shlex.split(command)[1:], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    (written,) = open_file("movie_labels.ome.zarr").labels
    np.testing.assert_array_equal(written.volume.data, layer.data)
    names = {}
    exec(python, names)
    np.testing.assert_array_equal(names["labels"], layer.data)
    expected = segment(grey, "bright things", tiny_model, channel=1, slices=(1, 3))
    np.testing.assert_array_equal(expected.labels, layer.data)


def test_a_changed_layer_cannot_be_copied(desk_that, tmp_path, voxels, notes):
    tifffile.imwrite(tmp_path / "a.ome.tif", voxels, metadata={"axes": "ZYX"}, ome=True)
    desk = desk_that("works")
    (layer,) = desk.viewer.open(tmp_path / "a.ome.tif", plugin="napari-biomedparse")
    assert str(tmp_path / "a.ome.tif") in copied(desk, COMMAND)
    layer.scale, layer.units = (0.5, 0.1, 0.1), ("um",) * 3
    assert "--voxel-size 0.5,0.1,0.1micrometer" in copied(desk, COMMAND)
    assert "voxel_size='0.5,0.1,0.1micrometer'" in copied(desk, PYTHON)
    layer.data = voxels[::-1]
    assert copied(desk, COMMAND) == ""
    assert "no longer matches" in notes[-1]
    desk.viewer.add_image(voxels)
    assert copied(desk, PYTHON) == ""
    assert "in memory only" in notes[-1]


def test_estimate_tells_and_adds_nothing(desk_that, voxels):
    desk = desk_that(None)
    desk.viewer.add_image(voxels)
    desk.view.estimate_button.click()
    assert not desk.view.estimate_button.isEnabled()
    assert desk.view.run_button.text() == "Queue"
    desk.wait_for_end()
    text = desk.view.status.text()
    assert text.startswith("Estimate: about") and "on cpu in float32" in text
    assert "GB of memory" in text
    assert len(desk.viewer.layers) == 1
    assert desk.view.run_button.isEnabled()


def two_images(desk, voxels):
    first = desk.viewer.add_image(voxels, name="first")
    second = desk.viewer.add_image(voxels[::-1], name="second")
    desk.form.image.value = first
    desk.start()
    desk.wait_for_end()
    return first, second


def test_results_of_another_image_are_hidden_until_it_is_back(desk_that, voxels):
    desk = desk_that()
    first, second = two_images(desk, voxels)
    prompts, view = desk.form.prompts.model, desk.view
    assert prompts.rows[0].result is not None
    assert "Done: 6 slices of first" in view.status.text()
    desk.form.image.value = second
    assert prompts.rows[0].result is None
    assert not view.plot.isVisibleTo(view) and not view.doctor.isVisibleTo(view)
    assert view.status.text().startswith("Results of first are hidden")
    desk.form.image.value = first
    assert prompts.rows[0].result is not None
    assert view.plot.isVisibleTo(view)
    assert view.status.text().startswith("Done: 6 slices of first")


def test_a_dragged_threshold_stays_with_its_result(desk_that, voxels):
    desk = desk_that()
    first, second = two_images(desk, voxels)
    option = desk.form.options_by_name["existence_threshold"]
    option.value = 0.4  # set on purpose
    desk.wait_until(lambda: not desk.widget._threshold_pause.isActive())
    desk.wait_for_end()
    desk.view.plot.threshold_changed.emit(0.2)
    desk.wait_until(lambda: not desk.widget._threshold_pause.isActive())
    desk.wait_for_end()
    assert option.value == 0.2
    desk.form.remember()
    assert last_values()["options"]["existence_threshold"] == 0.4
    desk.form.image.value = second
    assert option.value == 0.4
    desk.form.image.value = first
    assert option.value == 0.2


def test_a_failure_stays_in_the_panel(desk_that, voxels, notes):
    desk = desk_that()
    desk.viewer.add_image(voxels, name="stack")
    desk.form.prompts.value = "liver\nLiver"
    desk.view.run_button.click()
    problem = desk.view.problem
    assert not problem.isHidden()
    assert "keep one of them" in problem.text() and "keep one" in notes[0]
    flags = problem.textInteractionFlags()
    assert flags & Qt.TextInteractionFlag.TextSelectableByMouse
    desk.form.prompts.value = "liver"
    desk.start()
    assert problem.isHidden()
    desk.wait_for_end()


def test_what_is_not_at_its_default_is_said_while_folded(desk_that):
    desk = desk_that()
    fold = desk.widget._advanced
    desk.form.device.value = "auto"
    assert fold.text() == "▸ Advanced"
    desk.form.set_option("seed", 5)
    desk.form.set_option("prompts_apart", True)
    assert fold.text() == "▸ Advanced (each prompt by itself, seed: 5)"
    desk.form.reset()
    assert fold.text() == "▸ Advanced"


def test_a_run_hides_the_one_before_and_is_named_by_its_prompt(desk_that, voxels):
    desk = desk_that()
    desk.viewer.add_image(voxels, name="stack")
    before = desk.start()
    desk.wait_for_end()
    desk.form.prompts.value = "other things\nmore"
    after = desk.start()
    desk.wait_for_end()
    assert before.name == "bright things, stack (tiny)"
    assert after.name == "other things and 1 more, stack (tiny)"
    assert after.visible and not before.visible


def test_runs_of_the_same_prompt_have_names_of_their_own(desk_that, voxels):
    desk = desk_that()
    desk.viewer.add_image(voxels, name="stack")
    for first, last in ((0, 3), (2, 5), (2, 5)):
        desk.form.scope.choose(first, last)
        desk.start()
        desk.wait_for_end()
    names = [layer.name for layer in desk.viewer.layers[1:]]
    assert names == [
        "bright things, stack (tiny)",
        "bright things #2, stack (tiny, slices 2 to 5)",
        "bright things #3, stack (tiny, slices 2 to 5)",
    ]


def test_labels_are_saved_from_the_form(desk_that, voxels, tmp_path, monkeypatch):
    desk = desk_that()
    desk.viewer.add_image(voxels, name="stack")
    assert not desk.view.save_button.isEnabled()
    layer = desk.start()
    desk.wait_for_end()
    asked = []

    def answer(_, title, name, filters):
        asked.append(name)
        return str(tmp_path / "found"), "TIFF (*.tif *.tiff)"

    monkeypatch.setattr(QFileDialog, "getSaveFileName", answer)
    desk.view.save_button.click()
    desk.wait_until(lambda: "Saved as" in desk.view.status.text())
    assert asked == ["bright_things_stack_tiny"]
    (saved,) = open_file(tmp_path / "found.tif").labels
    np.testing.assert_array_equal(np.asarray(saved.volume.data), layer.data)
    assert saved.names == {1: "bright things"}


def test_a_file_is_not_replaced_by_an_extension_that_is_added(
    desk_that, tmp_path, monkeypatch
):
    parent, kept = desk_that().widget, tmp_path / "found.tif"
    given = str(tmp_path / "found"), "TIFF (*.tif *.tiff)"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: given)
    asked = []

    def answer(_, title, text):
        asked.append((title, text))
        return answers.pop()

    monkeypatch.setattr(QMessageBox, "question", answer)
    choices = QMessageBox.StandardButton
    answers = [choices.Yes, choices.No]
    assert ask_where(parent, "Save", "found", given[1]) == str(kept)
    assert not asked
    kept.write_text("mine")
    assert ask_where(parent, "Save", "found", given[1]) == ""
    assert ask_where(parent, "Save", "found", given[1]) == str(kept)
    assert asked == [("Save", "found.tif already exists. Replace it?")] * 2
    given = str(kept), given[1]  # the dialog has asked
    assert ask_where(parent, "Save", "found", given[1]) == str(kept)
    assert len(asked) == 2


def test_layers_saved_beside_each_other_replace_nothing_unasked(
    desk_that, voxels, tmp_path, monkeypatch
):
    desk = desk_that(None)
    desk.viewer.add_image(voxels, name="stack")
    desk.form.prompts.value = "liver\nspleen"
    desk.form.set_option("overlaps", "separate")
    desk.view.run_button.click()
    desk.wait_for_end()
    assert len(desk.widget._last.layers) == 2
    folder = tmp_path / "out"
    folder.mkdir()
    answer = str(folder / "found.tif"), "TIFF (*.tif *.tiff)"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: answer)
    mine = folder / "found_2.tif"
    mine.write_text("mine")
    desk.view.save_button.click()
    desk.wait_until(lambda: "found_2.tif exists already" in desk.view.problem.text())
    assert mine.read_text() == "mine" and len(list(folder.iterdir())) == 1
    mine.unlink()
    desk.view.save_button.click()
    desk.wait_until(lambda: "Saved as" in desk.view.status.text())
    assert sorted(p.name for p in folder.iterdir()) == ["found_1.tif", "found_2.tif"]
