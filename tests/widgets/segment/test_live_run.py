"""A run in a real viewer: where it starts, how it goes on, and what its plot shows."""

from __future__ import annotations

import json
import threading

import numpy as np
import pytest
from napari.utils.progress import progress
from qtpy.QtCore import QPoint, Qt
from qtpy.QtWidgets import QApplication
from tiny_v1 import tiny_v1

from napari_biomedparse.data.prompts import label_colour
from napari_biomedparse.networks.checkpoint import save_weights
from napari_biomedparse.pipeline.segment import segment
from napari_biomedparse.viewer.layers import METADATA_KEY
from napari_biomedparse.widgets.prompts.model import SCORE
from napari_biomedparse.widgets.segment.live_labels import LiveLabels
from napari_biomedparse.widgets.segment.live_run import LiveRun
from napari_biomedparse.widgets.segment.preview import PAUSE
from napari_biomedparse.widgets.segment.run_view import RunView
from napari_biomedparse.widgets.segment.which_slices import ALL_TIMES
from napari_biomedparse.widgets.shared.settings import last_values


def done_slices(layer):
    return np.flatnonzero(np.asarray(layer.data).any(axis=(1, 2))).tolist()


def test_the_run_starts_at_the_slice_in_view_and_follows_the_slider(desk_that, voxels):
    desk = desk_that("slow")
    stack = np.concatenate([voxels] * 5)
    desk.viewer.add_image(stack)
    desk.viewer.dims.set_point(0, 20)
    layer = desk.start()
    desk.wait_until(lambda: len(done_slices(layer)) >= 2)
    first = done_slices(layer)
    far = max(abs(at - 20) for at in first)  # how far depends on the computer
    assert set(range(21 - far, min(20 + far, len(stack)))) <= set(first)
    desk.viewer.dims.set_point(0, 2)
    desk.wait_until(lambda: 2 in done_slices(layer))
    assert not set(done_slices(layer)) >= set(range(6, 20))
    desk.wait_for_end()
    np.testing.assert_array_equal(layer.data, stack > 100)


def test_the_task_is_sent_before_its_layer_is_made(desk_that, voxels, monkeypatch):
    desk = desk_that("works")
    desk.viewer.add_image(voxels)
    sent, order = threading.Event(), []
    start, add_labels = desk.widget.session.start, desk.viewer.add_labels

    def send(*args, **keywords):
        found = start(*args, **keywords)
        sent.set()
        return found

    def add(*args, **keywords):
        order.append("sent" if sent.wait(30) else "not sent")
        news = desk.widget.run._news
        # As napari does: what the run tells meanwhile has to wait for the layer.
        desk.wait_until(lambda: len(news) > 3)
        return add_labels(*args, **keywords)

    monkeypatch.setattr(desk.widget.session, "start", send)
    monkeypatch.setattr(
        type(desk.viewer), "add_labels", lambda _, *a, **k: add(*a, **k)
    )
    layer = desk.start()
    assert order == ["sent"]
    desk.wait_for_end()
    np.testing.assert_array_equal(layer.data, voxels > 100)
    assert "Done: 6 slices" in desk.view.status.text()
    assert layer.metadata[METADATA_KEY]["complete"]
    assert layer.editable


def test_labels_are_painted_before_progress_and_one_step_after_the_other(
    desk_that, voxels, monkeypatch
):
    desk = desk_that("works")
    desk.viewer.add_image(voxels)
    order, within = [], []
    repaint, take, set_done = LiveLabels.repaint, LiveRun._take, RunView.set_done

    def painted(live):
        order.append("painted")
        repaint(live)

    def told(view, *args):
        order.append("told")
        QApplication.processEvents()  # as napari's progress does
        set_done(view, *args)

    def taken(run, step):
        within.append(step)
        assert len(within) == 1, "a step was shown within another one"
        take(run, step)
        within.remove(step)

    monkeypatch.setattr(LiveLabels, "repaint", painted)
    monkeypatch.setattr(RunView, "set_done", told)
    monkeypatch.setattr(LiveRun, "_take", taken)
    desk.start()
    desk.wait_for_end()
    assert order[:2] == ["painted", "told"]
    assert order.count("told") == len(voxels)
    assert not within


def test_only_a_run_that_lasts_appears_in_the_activity_dock(
    desk_that, voxels, monkeypatch
):
    order = []
    repaint = LiveLabels.repaint

    def painted(live):
        order.append(len(progress._all_instances))
        repaint(live)

    monkeypatch.setattr(LiveLabels, "repaint", painted)
    desk = desk_that("slow")
    desk.viewer.add_image(voxels)
    desk.start()  # the process may take longer to start than a run is late
    desk.wait_for_end()
    order.clear()
    layer = desk.start()
    desk.wait_until(lambda: len(progress._all_instances) == 1)
    assert order[0] == 0 and np.asarray(layer.data).any()
    desk.wait_for_end()
    assert len(progress._all_instances) == 0
    desk.view.run_button.click()
    run = desk.widget.run
    run.cancel()
    run.finished.connect(run._late.timeout)  # it comes when all is over
    desk.wait_for_end()
    desk.qtbot.wait(50)
    assert len(progress._all_instances) == 0


def test_a_layer_that_cannot_be_made_ends_the_run(desk_that, voxels, monkeypatch):
    desk = desk_that("slow")
    desk.viewer.add_image(voxels)

    def refuse(*_, **__):
        raise RuntimeError("no layer")

    monkeypatch.setattr(type(desk.viewer), "add_labels", refuse)
    with pytest.raises(RuntimeError, match="no layer"):
        desk.widget.start()
    desk.wait_for_end()
    assert len(desk.viewer.layers) == 1
    assert desk.view.run_button.isEnabled()


def test_a_cancelled_run_is_resumed(desk_that, voxels):
    desk = desk_that("slow")
    stack = np.concatenate([voxels] * 3)
    desk.viewer.add_image(stack)
    layer = desk.start()
    desk.wait_for_slices(layer)
    desk.view.cancel_button.click()
    desk.wait_for_end()
    done = done_slices(layer)
    assert 0 < len(done) < 18
    assert desk.view.resume_button.isVisibleTo(desk.widget)
    assert not desk.view.cancel_button.isVisibleTo(desk.widget)
    layer.data[done[0]] = 9  # what is done is not done again
    count = len(desk.viewer.layers)
    desk.view.resume_button.click()
    assert desk.view.cancel_button.isVisibleTo(desk.widget)
    desk.wait_for_end()
    assert len(desk.viewer.layers) == count
    assert "Done: 18 slices" in desk.view.status.text()
    assert not desk.view.resume_button.isVisibleTo(desk.widget)
    expected = (stack > 100).astype(np.uint8)
    expected[done[0]] = 9
    np.testing.assert_array_equal(layer.data, expected)


def test_a_series_is_resumed(desk_that, voxels):
    desk = desk_that("slow")
    series = np.stack([voxels, voxels[::-1], voxels])
    desk.viewer.add_image(series, axis_labels=("t", "z", "y", "x"))
    desk.form.stack.time.value = ALL_TIMES
    layer = desk.start()
    desk.wait_until(lambda: np.asarray(layer.data[1]).any())
    desk.view.cancel_button.click()
    desk.wait_for_end()
    assert not np.asarray(layer.data[2]).any()
    desk.view.resume_button.click()
    desk.wait_for_end()
    np.testing.assert_array_equal(layer.data, series > 100)
    assert "Done: 18 slices" in desk.view.status.text()


def test_a_run_whose_layer_is_gone_is_not_resumed(desk_that, voxels):
    desk = desk_that("stuck")
    desk.viewer.add_image(voxels)
    layer = desk.start()
    desk.wait_for_slices(layer)
    desk.viewer.layers.remove(layer)
    desk.wait_for_end()
    assert not desk.view.resume_button.isVisibleTo(desk.widget)


def test_the_plot_fills_and_a_click_goes_to_the_slice(desk_that, voxels):
    desk = desk_that("works")
    desk.viewer.add_image(voxels)
    desk.form.prompts.value = "bright things\ndark things"
    assert not desk.view.plot.isVisibleTo(desk.widget)
    desk.start()
    desk.wait_for_end()
    plot = desk.view.plot
    assert plot.isVisibleTo(desk.widget)
    np.testing.assert_array_equal(plot.scores, np.full((2, 6), 0.5, np.float32))
    assert plot.colours[1].getRgb() == tuple(label_colour(2))
    assert plot.current == desk.viewer.dims.current_step[0]
    desk.viewer.dims.set_point(0, 4)
    assert plot.current == 4
    place = QPoint(round(plot._x(1)), round(plot._y(0.9)))
    desk.qtbot.mouseClick(plot, Qt.MouseButton.LeftButton, pos=place)
    assert desk.viewer.dims.current_step[0] == 1


def test_the_plot_of_a_series_is_that_of_the_time_in_view(desk_that, voxels):
    desk = desk_that("works")
    series = np.stack([voxels, voxels])
    desk.viewer.add_image(series, axis_labels=("t", "z", "y", "x"))
    desk.form.stack.time.value = ALL_TIMES
    desk.start()
    desk.wait_for_end()
    assert desk.view.plot.scores.shape == (1, 6)


def test_single_images_have_no_plot(desk_that, voxels):
    desk = desk_that("works")
    desk.viewer.add_image(voxels[0])
    desk.start()
    desk.wait_for_end()
    assert not desk.view.plot.isVisibleTo(desk.widget)


def drag_threshold(desk, threshold):
    """Drag the line of the plot from where it is."""
    plot = desk.view.plot
    if plot.isHidden():  # of a single image, whose threshold is in the form
        desk.form.set_option("existence_threshold", threshold)
        return
    left = round(plot._frame().center().x())
    place, to = (QPoint(left, round(plot._y(at))) for at in (plot.threshold, threshold))
    desk.qtbot.mousePress(plot, Qt.MouseButton.LeftButton, pos=place)
    desk.qtbot.mouseMove(plot, to)
    desk.qtbot.mouseRelease(plot, Qt.MouseButton.LeftButton, pos=to)


def test_a_dragged_threshold_updates_the_finished_labels(desk_that, voxels):
    desk = desk_that("works")  # whose scores are 0.5
    desk.viewer.add_image(voxels)
    layer = desk.start()
    desk.wait_for_end()
    drag_threshold(desk, 0.8)
    desk.wait_until(lambda: not np.asarray(layer.data).any())
    assert desk.form.option_values()["existence_threshold"] == pytest.approx(
        0.8, abs=0.02
    )
    desk.wait_for_end()
    known = layer.metadata[METADATA_KEY]
    assert known["parameters"]["existence_threshold"] == pytest.approx(0.8, abs=0.02)
    assert known["complete"]
    desk.form.set_option("existence_threshold", 0.2)
    desk.wait_until(lambda: np.array_equal(layer.data, voxels > 100))
    assert desk.view.plot.threshold == pytest.approx(0.2)
    desk.wait_for_end()
    assert len(desk.viewer.layers) == 2


def test_what_was_painted_survives_a_threshold(desk_that, voxels):
    desk = desk_that("works")
    desk.viewer.add_image(voxels)
    layer = desk.start()
    desk.wait_for_end()
    layer.mode = "paint"
    layer.brush_size = 3
    layer.paint((2, 10, 10), 9)
    layer.paint((4, 20, 20), 8)
    layer.undo()
    painted = np.asarray(layer.data) == 9
    assert painted.any() and painted.sum() < 30
    drag_threshold(desk, 0.8)
    desk.wait_until(lambda: np.array_equal(layer.data, 9 * painted))
    desk.wait_for_end()
    layer.mode = "pan_zoom"
    desk.form.set_option("existence_threshold", 0.2)
    again = np.where(painted, 9, voxels > 100)
    desk.wait_until(lambda: np.array_equal(layer.data, again))
    desk.wait_for_end()


def test_a_threshold_dragged_during_a_run_is_that_of_all_its_slices(desk_that, voxels):
    desk = desk_that("slow")
    stack = np.concatenate([voxels] * 3)
    desk.viewer.add_image(stack)
    layer = desk.start()
    desk.wait_for_slices(layer)
    desk.form.set_option("existence_threshold", 0.7)
    desk.wait_for_end()
    assert not np.asarray(layer.data).any()
    desk.qtbot.wait(2 * PAUSE)
    assert desk.widget.run is None


@pytest.mark.parametrize("during", [False, True])
def test_a_threshold_is_that_of_all_time_points(desk_that, voxels, during):
    desk = desk_that("slow" if during else "works")
    series = np.stack([voxels, voxels[::-1], voxels])[:, :2]
    desk.viewer.add_image(series, axis_labels=("t", "z", "y", "x"))
    desk.form.stack.time.value = ALL_TIMES
    layer = desk.start()
    if during:
        desk.wait_until(lambda: np.asarray(layer.data[1]).any())
    else:
        desk.wait_for_end()
        np.testing.assert_array_equal(layer.data, series > 100)
    drag_threshold(desk, 0.8)
    desk.wait_until(lambda: not np.asarray(layer.data).any())
    desk.wait_for_end()
    assert "Done: 6 slices" in desk.view.status.text()
    assert layer.metadata[METADATA_KEY]["existence"].shape == (1, 3, 2)
    desk.form.set_option("existence_threshold", 0.2)
    desk.wait_until(lambda: np.array_equal(layer.data, series > 100))
    desk.wait_for_end()
    assert len(desk.viewer.layers) == 2


def test_a_cancelled_series_follows_the_threshold_and_goes_on(desk_that, voxels):
    desk = desk_that("slow")
    series = np.stack([voxels, voxels[::-1], voxels])[:, :2]
    desk.viewer.add_image(series, axis_labels=("t", "z", "y", "x"))
    desk.form.stack.time.value = ALL_TIMES
    layer = desk.start()
    desk.wait_until(lambda: np.asarray(layer.data[1]).any())
    desk.view.cancel_button.click()
    desk.wait_for_end()
    drag_threshold(desk, 0.8)
    desk.wait_until(lambda: not np.asarray(layer.data).any())
    desk.wait_for_end()
    desk.view.resume_button.click()
    desk.wait_for_end()
    assert not np.asarray(layer.data).any()
    assert "Done: 6 slices" in desk.view.status.text()
    drag_threshold(desk, 0.2)
    desk.wait_until(lambda: np.array_equal(layer.data, series > 100))
    desk.wait_for_end()


def test_a_consensus_keeps_its_thresholds_and_says_so(desk_that, tiny_model):
    grey = np.random.default_rng(1).integers(0, 255, (4, 16, 12), dtype=np.uint8)
    desk = desk_that(None)
    desk.viewer.add_image(grey)
    desk.form.consensus.value = True
    layer = desk.start()
    desk.wait_for_end()
    voted = np.array(layer.data)
    expected = segment(grey, "bright things", tiny_model, consensus=True).labels
    np.testing.assert_array_equal(voted, expected)
    assert "consensus" in desk.view.plot.toolTip()
    session = desk.widget.session
    runs = session._runs
    desk.form.set_option("existence_threshold", 0.99)
    desk.wait_until(lambda: "Run again" in desk.view.status.text())
    assert desk.widget.run is None and session._runs == runs
    np.testing.assert_array_equal(layer.data, voted)


def test_thresholds_wait_while_another_volume_is_chosen(desk_that, voxels):
    desk = desk_that("works")
    desk.viewer.add_image(voxels)
    layer = desk.start()
    desk.wait_for_end()
    desk.viewer.add_image(voxels[::-1])
    desk.form.set_option("existence_threshold", 0.7)
    desk.qtbot.wait(2 * PAUSE)
    assert desk.widget.run is None
    np.testing.assert_array_equal(layer.data, voxels > 100)


def test_a_cancelled_run_goes_on_with_the_new_threshold(desk_that, voxels):
    desk = desk_that("slow")
    desk.viewer.add_image(voxels)
    layer = desk.start()
    desk.wait_for_slices(layer)
    desk.view.cancel_button.click()
    desk.wait_for_end()
    desk.form.set_option("existence_threshold", 0.7)
    desk.wait_until(lambda: not np.asarray(layer.data).any())
    desk.wait_for_end()
    desk.view.resume_button.click()
    desk.wait_for_end()
    assert not np.asarray(layer.data).any()
    assert layer.metadata[METADATA_KEY]["complete"]


def test_overwriting_fills_the_same_layer_anew(desk_that, voxels):
    desk = desk_that("works")
    desk.viewer.add_image(voxels)
    layer = desk.start()
    desk.wait_for_end()
    desk.form.overwrite.value = True
    desk.form.prompts.value = "one\ntwo"
    desk.form.scope.choose(0, 1)
    layer.data[4, :3] = 7
    desk.view.run_button.click()
    desk.wait_for_end()
    assert len(desk.viewer.layers) == 2
    expected = (voxels > 100).astype(int)  # the fake does all slices
    expected[4, :3] = 7
    np.testing.assert_array_equal(layer.data, expected)
    assert layer.features["prompt"].tolist() == ["background", "one", "two"]
    desk.viewer.layers.remove(layer)
    again = desk.start()  # nothing to overwrite
    desk.wait_for_end()
    np.testing.assert_array_equal(again.data, voxels > 100)


@pytest.mark.parametrize("instances", [False, True])
def test_a_layer_for_each_prompt_that_may_overlap(desk_that, tiny_model, instances):
    grey = np.random.default_rng(1).integers(0, 255, (4, 64, 48), dtype=np.uint8)
    prompts = ["nuclei", "mitochondria in electron microscopy"]
    options = {"overlaps": "separate", "instances": instances}
    expected = segment(grey, prompts, tiny_model, **options)
    desk = desk_that(None)
    desk.viewer.add_image(grey, name="stack")
    desk.form.prompts.value = "\n".join(prompts)
    for name, value in options.items():
        desk.form.set_option(name, value)
    desk.view.run_button.click()
    desk.wait_for_end()
    wanted = expected.instances if instances else expected.labels
    assert wanted.any()
    for text, labels in zip(prompts, wanted, strict=True):
        layer = desk.viewer.layers[f"{text}, stack (tiny)"]
        np.testing.assert_array_equal(layer.data, labels)
        assert layer.metadata[METADATA_KEY]["complete"]


def test_objects_live_on_the_finished_part(desk_that, tiny_model):
    grey = np.random.default_rng(1).integers(0, 255, (4, 64, 48), dtype=np.uint8)
    expected = segment(grey, "bright things", tiny_model, instances=True)
    desk = desk_that(None)
    desk.viewer.add_image(grey)
    layer = desk.start()
    desk.wait_for_end()
    desk.form.set_option("instances", True)
    desk.wait_until(lambda: np.array_equal(layer.data, expected.instances))
    desk.wait_for_end()
    desk.form.set_option("minimum_size", 10_000)
    desk.wait_until(lambda: not np.asarray(layer.data).any())
    desk.wait_for_end()
    desk.form.set_option("instances", False)
    desk.wait_until(lambda: np.array_equal(layer.data, expected.labels))
    assert layer.features["prompt"].tolist() == ["background", "bright things"]
    desk.wait_for_end()


def test_objects_are_corrected_during_and_after_a_run(desk_that, tiny_model):
    grey = np.random.default_rng(1).integers(0, 255, (4, 64, 48), dtype=np.uint8)
    desk = desk_that(None)
    desk.viewer.add_image(grey)
    desk.form.set_option("instances", True)
    layer = desk.start()
    desk.wait_until(lambda: desk.widget.run.task.plan is not None)
    assert layer.editable
    layer.data[2, 60:, 40:] = 9999
    layer.metadata[METADATA_KEY]["reviewed"] = {0: [3]}
    seen = np.array(layer.data[3])
    desk.wait_for_end()
    before = np.array(layer.data)
    assert (before[2, 60:, 40:] == 9999).all() and layer.features["index"][0] == 0
    np.testing.assert_array_equal(before[3], seen)
    for name, value in (("minimum_size", 9), ("instances", False), ("instances", True)):
        desk.form.set_option(name, value)
        desk.wait_until(lambda: desk.widget.run is not None)
        desk.wait_for_end()
        assert (layer.data[2, 60:, 40:] == 9999).all()
        np.testing.assert_array_equal(layer.data[3], seen)
        assert layer.metadata[METADATA_KEY]["reviewed"] == {0: [3]}
    for _ in range(3):
        layer.undo()
    np.testing.assert_array_equal(layer.data, before)


def test_a_single_image_keeps_what_was_painted_and_accepted(desk_that, voxels):
    desk = desk_that("works")
    desk.viewer.add_image(voxels[0])
    layer = desk.start()
    desk.wait_for_end()
    layer.paint((10, 10), 9)
    mine = np.asarray(layer.data) == 9
    desk.form.set_option("existence_threshold", 0.9)
    desk.wait_until(lambda: np.array_equal(layer.data, 9 * mine))
    desk.wait_for_end()
    layer.metadata[METADATA_KEY]["reviewed"] = {0: [0]}
    desk.form.set_option("existence_threshold", 0.1)
    last = desk.widget  # its run may end before anybody looks
    desk.wait_until(lambda: last._last.request.options.existence_threshold == 0.1)
    desk.wait_for_end()
    np.testing.assert_array_equal(layer.data, 9 * mine)


def test_labels_that_were_replaced_are_taken_over_or_left(desk_that, voxels):
    desk = desk_that("slow")
    desk.viewer.add_image(voxels)
    desk.form.overwrite.value = True
    layer = desk.start()
    desk.wait_for_slices(layer)
    theirs = np.array(layer.data)
    theirs[3] = 60
    kept = theirs.copy()
    layer.data = theirs  # during the run, which no longer shows
    desk.wait_for_end()
    desk.view.run_button.click()
    desk.wait_for_end()
    np.testing.assert_array_equal(theirs, kept)
    assert (layer.data[3] == 60).all() and len(desk.viewer.layers) == 2
    layer.data = np.zeros((2, 3, 3), np.uint8)  # another shape: a new layer
    desk.form.set_option("existence_threshold", 0.9)
    desk.wait_until(lambda: "were replaced. Press Run" in desk.view.problem.text())
    assert not layer.data.any()
    desk.form.set_option("existence_threshold", 0.5)
    desk.view.run_button.click()
    desk.wait_for_end()
    assert len(desk.viewer.layers) == 3 and not layer.data.any()
    assert desk.view.problem.isHidden()


def test_two_viewers_run_at_the_same_time(desk_that, voxels):
    desks = [desk_that("slow"), desk_that("slow")]
    stacks = voxels, voxels[::-1]
    layers = []
    for desk, stack in zip(desks, stacks, strict=True):
        desk.viewer.add_image(stack)
        layers.append(desk.start())
    for desk in desks:
        desk.wait_for_end()
    for layer, stack in zip(layers, stacks, strict=True):
        np.testing.assert_array_equal(layer.data, stack > 100)


@pytest.fixture
def v1_desk(desk_that, tmp_path):
    """A desk with a tiny v1, and prompts of which a table has two."""
    model = tiny_v1()
    path, table = tmp_path / "v1.safetensors", tmp_path / "own.json"
    save_weights(path, model.state_dict(), config=model.config)
    pairs = [[[3, 2], [1, 1], [2, 2], [1, 2]], [[1, 1]] * 4]
    known = dict(zip(("glass", "cell"), pairs, strict=True))
    table.write_text(json.dumps({"EM-Dish": known}))
    desk = desk_that(None)
    desk.form.model.choose(str(path))
    desk.form.set_option("table", str(table))
    desk.form.prompts.value = "cell in dish EM\ndot\nglass in dish EM"
    return desk


def table_of(desk):
    model = desk.form.prompts.model
    return [model.item(at, SCORE).text() for at in range(model.rowCount())]


def test_a_photograph_has_p_in_the_table(v1_desk):
    desk = v1_desk
    image = np.random.default_rng(1).integers(0, 256, (40, 50, 3), np.uint8)
    desk.viewer.add_image(image, rgb=True)
    layer = desk.start()
    desk.wait_for_end()
    options = {"table": desk.form.option_values()["table"], "axis": 0}
    prompts = desk.form.prompts.value.splitlines()
    expected = segment(image, prompts, tiny_v1(), **options)
    p = expected.existence[:, 0]
    np.testing.assert_array_equal(layer.data, expected.labels)
    assert table_of(desk) == [f"{p[0]:.3f}", "no table for this target", f"{p[2]:.3f}"]
    assert desk.form.prompts.model.horizontalHeaderItem(SCORE).text() == "p"
    desk.form.set_option("p_threshold", 1.0)
    desk.wait_until(lambda: set(np.unique(layer.data)) == {0, 2})
    desk.wait_for_end()
    dropped = segment(image, prompts, tiny_v1(), p_threshold=1.0, **options)
    np.testing.assert_array_equal(layer.data, dropped.labels)
    assert layer.metadata[METADATA_KEY]["parameters"]["p_threshold"] == 1.0
    desk.form.set_option("p_threshold", 0.0)
    desk.wait_until(lambda: np.array_equal(layer.data, expected.labels))
    desk.wait_for_end()
    assert len(desk.viewer.layers) == 2


def test_the_threshold_of_p_is_dragged(v1_desk, voxels):
    desk = v1_desk
    desk.viewer.add_image(voxels)
    layer = desk.start()
    desk.wait_for_end()
    before = np.asarray(layer.data).copy()
    assert desk.view.plot.score == "p" and desk.view.plot.threshold == 0.0
    assert before.any()
    drag_threshold(desk, 1.0)
    desk.wait_until(lambda: set(np.unique(layer.data)) == {0, 2})
    desk.wait_for_end()
    now = desk.form.option_values()
    assert (now["p_threshold"], now["existence_threshold"]) == (1.0, 0.5)
    assert desk.view.plot.threshold == 1.0
    desk.form.remember()
    assert last_values()["options"]["p_threshold"] == 0.0  # it was dragged
    desk.form.set_option("p_threshold", 0.0)
    desk.wait_until(lambda: np.array_equal(layer.data, before))
    desk.wait_for_end()
