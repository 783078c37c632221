"""What runs wrote and what a person set on top of it are told apart."""

from __future__ import annotations

import numpy as np
import pytest
from corrections import SHAPE, Corrections
from hypothesis import settings, strategies as st
from hypothesis.stateful import rule, run_state_machine_as_test
from napari.components import ViewerModel

from napari_biomedparse.widgets.segment import written_labels
from napari_biomedparse.widgets.segment.written_labels import WrittenLabels

FIRST = (slice(0, 1), slice(None))
ALL = (slice(None),) * 4
UINT8, INT32 = np.dtype(np.uint8), np.dtype(np.int32)


def test_what_a_script_set_stays_and_all_else_is_new():
    labels = np.zeros((2, 3), np.uint8)
    written = WrittenLabels(labels)
    written.write(FIRST, np.array([1, 1, 0], np.uint8))
    labels[0, 1] = 7
    labels[0, 2] = 0  # as it was
    written.write(FIRST, np.array([2, 2, 2], np.uint8))
    np.testing.assert_array_equal(labels, [[2, 7, 2], [0, 0, 0]])
    labels[0, 1] = 1  # what the machine wrote first
    written.write(FIRST, np.array([3, 3, 3], np.uint8))
    np.testing.assert_array_equal(labels, [[3, 1, 3], [0, 0, 0]])


class Shown:
    """Labels of one volume in a layer."""

    def __init__(self, shape=SHAPE, dtype=UINT8):
        self.viewer = ViewerModel()
        self.written = WrittenLabels(np.zeros((1, *shape), dtype))
        self.layer = self.viewer.add_labels(self.written.labels[0])
        self.written.follow([self.layer])

    def run(self, new, clear=None):
        assert self.written.open(UINT8)
        self.written.begin(clear)
        for z in range(len(new)):
            window = (slice(0, 1), slice(z, z + 1), slice(None), slice(None))
            self.written.write(window, new[z])
        self.finish()

    def separate(self, objects, owners=None, ids=(1,)):
        assert self.written.open(INT32)
        self.written.begin()
        owners = np.ones(objects.max() + 1, int) if owners is None else owners
        found = self.written.write_objects(ALL, objects, owners, ids)
        self.finish()
        return found

    def finish(self):
        self.written.end()
        self.written.commit()


class Runs(Corrections):
    """With runs that are arrays."""

    def __init__(self):
        super().__init__()
        self.desk = Shown()
        self.viewer, self.layer = self.desk.viewer, self.desk.layer

    @rule(seed=st.integers(0, 9), clear=st.booleans())
    def run(self, seed, clear):
        new = np.random.default_rng(seed).integers(0, 3, SHAPE, np.uint8)
        self.recompute(lambda: self.desk.run(new, ALL if clear else None))
        free = ~self.mine
        free[list(self.accepted)] = False
        np.testing.assert_array_equal(self.shown()[free], new[free])

    @rule(seed=st.integers(0, 9))
    def separate(self, seed):
        coarse = np.random.default_rng(seed).integers(0, 5, (2, 2, 2), np.int32)
        objects = np.kron(coarse, np.ones((2, 8, 6), np.int32))
        self.recompute(lambda: self.desk.separate(objects))


def test_random_corrections_stay():
    Runs.steps = 0
    options = settings(max_examples=20, stateful_step_count=20, deadline=None)
    run_state_machine_as_test(Runs, settings=options)
    assert Runs.steps > 200


def objects_at(*boxes):
    found = np.zeros(SHAPE, np.int32)
    for number, (z, y, x) in enumerate(boxes, 1):
        found[z, y, x] = number
    return found


LEFT, RIGHT = np.s_[:, :8, :4], np.s_[:, :8, 6:10]


def test_objects_keep_their_numbers_and_never_take_a_painted_one():
    desk = Shown()
    desk.run(np.zeros(SHAPE, np.uint8))
    desk.layer.paint((0, 15, 11), 1)
    owners = desk.separate(objects_at(LEFT, RIGHT), np.array([0, 2, 1]), (1, 2))
    assert desk.layer.data.dtype == np.int32
    assert (desk.layer.data[LEFT] == 2).all() and (desk.layer.data[RIGHT] == 3).all()
    assert owners.tolist() == [0, 1, 2, 1]  # the painted 1 was the label 1
    owners = desk.separate(objects_at(RIGHT, np.s_[:, 12:, :2]), np.array([0, 1, 2]))
    assert (desk.layer.data[RIGHT] == 3).all() and desk.layer.data[0, 15, 11] == 1
    assert desk.layer.data[0, 14, 0] == 4 and not desk.layer.data[LEFT].any()
    assert owners.tolist() == [0, 1, 0, 1, 2]


def test_accepted_slices_stay_as_labels_are_separated_and_keep_their_numbers():
    desk = Shown()
    desk.run(np.full(SHAPE, 2, np.uint8))
    desk.layer.metadata["biomedparse"] = {"reviewed": {0: [1]}}
    owners = desk.separate(objects_at(LEFT, RIGHT), np.array([0, 2, 2]), (1, 2))
    assert (desk.layer.data[1] == 2).all()
    assert desk.layer.data[0, 0, 0] == 1 and desk.layer.data[0, 0, 6] == 3
    assert owners.tolist() == [0, 2, 2, 2]
    desk.layer.undo()
    assert (desk.layer.data == 2).all()


def test_undo_takes_back_a_run_and_what_the_layer_says_of_it():
    desk = Shown()
    desk.run(np.ones(SHAPE, np.uint8))
    layer = desk.layer
    layer.metadata["biomedparse"] = {"instance": 0, "existence": "old"}
    layer.features = {"index": [0, 1], "prompt": ["background", "liver"]}
    assert desk.written.open(INT32)
    desk.written.begin()
    desk.written.write(ALL, np.full(SHAPE, 3))
    layer.metadata["biomedparse"] = {"instance": 1, "existence": "new"}
    layer.features = {"index": [0, 3], "prompt": ["background", "kidney"]}
    layer.paint((0, 4, 4), 300)
    desk.finish()
    layer.metadata["biomedparse"]["reviewed"] = {0: [2]}
    layer.undo()
    painted = np.asarray(layer.data) == 300
    assert painted.any() and (layer.data[2] == 3).all()
    assert (np.asarray(layer.data)[[0, 1, 3]][~painted[[0, 1, 3]]] == 1).all()
    known = layer.metadata["biomedparse"]
    assert known == {"instance": 0, "existence": "old", "reviewed": {0: [2]}}
    assert layer.features["prompt"].tolist() == ["background", "liver"]
    layer.redo()
    assert (np.asarray(layer.data)[~painted] == 3).all()
    assert layer.metadata["biomedparse"]["existence"] == "new"
    layer.undo()
    layer.undo()  # the stroke
    assert not (np.asarray(layer.data) == 300).any()


def test_labels_of_another_shape_are_not_written_into():
    desk = Shown()
    desk.run(np.ones(SHAPE, np.uint8))
    theirs = np.zeros((2, 5, 5), np.uint8)
    desk.layer.data = theirs
    assert not desk.written.open(UINT8)
    desk.written.write(ALL, np.full(SHAPE, 2, np.uint8))
    assert not theirs.any()


def test_a_replaced_array_is_left_alone_and_what_it_says_is_kept():
    desk = Shown()
    desk.run(np.ones(SHAPE, np.uint8))
    theirs = np.ones(SHAPE, np.int64)
    theirs[1, 2, 3] = 70_000
    desk.layer.data = theirs
    desk.run(np.full(SHAPE, 2, np.uint8))
    assert theirs.sum() == theirs.size + 69_999
    expected = np.full(SHAPE, 2)
    expected[1, 2, 3] = 70_000
    np.testing.assert_array_equal(desk.layer.data, expected)


def test_two_layers_of_one_array_have_edits_and_marks_of_their_own():
    written = WrittenLabels(np.zeros((1, 2, *SHAPE), np.uint8))
    viewer = ViewerModel()
    layers = [viewer.add_labels(written.labels[0, p]) for p in range(2)]
    written.follow(layers)
    layers[1].metadata["biomedparse"] = {"reviewed": {0: [1]}}
    layers[0].paint((2, 3, 3), 9)
    written.begin()
    written.write((slice(None),) * 5, np.ones((2, *SHAPE), np.uint8))
    written.end()
    written.commit()
    painted = np.asarray(layers[0].data) == 9
    assert painted.any() and (np.asarray(layers[0].data)[~painted] == 1).all()
    assert not layers[1].data[1].any() and layers[1].data[[0, 2, 3]].all()
    layers[1].undo()
    assert not layers[1].data.any() and layers[0].data.all()


def test_a_single_image_is_accepted_as_a_whole():
    written = WrittenLabels(np.zeros((1, 1, 8, 9), np.uint8))
    layer = ViewerModel().add_labels(written.labels[0, 0])
    written.follow([layer])
    layer.metadata["biomedparse"] = {"reviewed": {0: [0]}}
    written.begin()
    written.write(ALL, np.ones((8, 9), np.uint8))
    assert not layer.data.any()


def test_history_has_a_limit_of_memory(monkeypatch):
    desk = Shown()
    monkeypatch.setattr(written_labels, "UNDO_BYTES", 4 * desk.layer.data.size)
    for value in range(1, 6):
        desk.run(np.full(SHAPE, value, np.uint8))
    desk.layer.undo()
    desk.layer.undo()
    assert np.unique(desk.layer.data).tolist() == [4]


@pytest.mark.parametrize("writing", [False, True])
def test_undo_during_a_run_takes_back_strokes_alone(writing):
    desk = Shown()
    desk.run(np.ones(SHAPE, np.uint8))
    desk.written.open(UINT8)
    if writing:
        desk.written.begin()
    desk.layer.paint((0, 3, 3), 5)
    desk.layer.undo()
    desk.layer.undo()
    assert np.unique(desk.layer.data).tolist() == [int(writing)]


def test_forgotten_strokes_are_forgotten(monkeypatch):
    desk = Shown()
    monkeypatch.setattr(written_labels, "MOST_STROKES", 8)
    for value in range(1, 130):
        desk.layer.paint((0, 4, 4), value)
    (shown,) = desk.written._shown
    assert len(shown.already) <= 108
    for _ in range(100):
        desk.layer.undo()
    assert desk.layer.data[0, 4, 4] == 29
    desk.run(np.full(SHAPE, 200, np.uint8))
    assert desk.layer.data[0, 4, 4] == 29


def test_a_stroke_over_a_script_is_undone_to_what_the_script_set():
    desk = Shown()
    desk.run(np.ones(SHAPE, np.uint8))
    desk.layer.data[0, 3, 3] = 6
    desk.layer.brush_size = 1
    desk.layer.paint((0, 3, 3), 9)
    desk.layer.undo()
    desk.run(np.full(SHAPE, 2, np.uint8))
    assert desk.layer.data[0, 3, 3] == 6


def test_a_series_with_channels_has_edits_at_its_time_points():
    written = WrittenLabels(np.zeros((3, 2, 8, 9), np.uint8))
    viewer = ViewerModel()
    layer = viewer.add_labels(written.labels[:, None])
    written.follow([layer])
    viewer.dims.set_point([0, 1, 2], [1, 0, 1])
    layer.brush_size = 1
    layer.paint((1, 0, 1, 4, 4), 9)
    layer.metadata["biomedparse"] = {"reviewed": {2: [0]}}
    written.begin()
    written.write(ALL, np.ones((3, 2, 8, 9), np.uint8))
    written.end()
    written.commit()
    expected = np.ones((3, 1, 2, 8, 9), int)
    expected[:, :, 0], expected[1, 0, 1, 4, 4] = 0, 9
    np.testing.assert_array_equal(layer.data, expected)
    layer.undo()
    assert np.flatnonzero(layer.data).size == 1
    layer.undo()
    assert not layer.data.any()


def _drag(layer):
    with layer.block_history():
        layer.paint((1, 5, 5), 3)
        layer.paint((1, 6, 5), 4)


BOX = [(1, 2, 2), (1, 2, 6), (1, 6, 6), (1, 6, 2)]
TOOLS = {
    "brush": lambda layer: layer.paint((1, 10, 10), 5),
    "one whole box": lambda layer: layer.paint_polygon(BOX, 5),
    "eraser": lambda layer: layer.paint((1, 1, 1), 0),
    "fill": lambda layer: layer.fill((1, 10, 10), 6),
    "drag": _drag,
    "script": lambda layer: layer.data_setitem(
        (np.array([0, 1]), np.array([2, 3]), np.array([4, 5])), np.array([7, 8])
    ),
}


@pytest.mark.parametrize("tool", TOOLS)
def test_a_change_is_read_from_the_history_for_every_tool(tool):
    viewer, told = ViewerModel(), []
    layer = viewer.add_labels(np.ones((2, 20, 20), np.uint8))
    viewer.dims.set_point(0, 1)
    layer.brush_size = 4
    before = layer.data.copy()
    layer.events.paint.connect(lambda event: told.extend(event.value))
    TOOLS[tool](layer)
    found = before.copy()
    for voxels, old, new in map(written_labels.change_of, told):
        np.testing.assert_array_equal(found[voxels], old)
        found[voxels] = new
    assert (found != before).any()
    np.testing.assert_array_equal(found, layer.data)
    assert written_labels.change_of(object()) is None


def test_objects_that_a_person_made_are_of_the_only_prompt_or_unknown():
    objects = np.zeros((1, *SHAPE), np.int32)
    objects[0, 1, 2:5, 2:5] = 1
    for ids, of_new in (((4,), 4), ((4, 6), -1)):
        shown = Shown(dtype=INT32)
        owners = np.array([0, ids[-1]])
        shown.separate(objects, owners, ids)
        voxels = tuple(map(np.array, ([1, 1, 2], [2, 7, 7], [2, 7, 7])))
        shown.layer.data_setitem(voxels, np.array([9, 8, 0]))
        found = shown.written.corrected(ALL, 0, ids)
        assert sorted(found) == [1]  # where 0 was, 0 is nothing new
        plane = found[1]
        assert plane[2, 2] == plane[7, 7] == of_new
        assert plane[3, 3] == -1  # the machine's
