"""The Proofread widget in a real viewer: clicks, undo, run folders."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import binary_dilation

from napari_biomedparse.data.prompts import INSTANCE_KEY
from napari_biomedparse.runs.run import segment_to_folder
from napari_biomedparse.viewer.layers import METADATA_KEY
from napari_biomedparse.widgets.proofread.widget import ProofreadWidget
from napari_biomedparse.widgets.segment.written_labels import WrittenLabels


def balls() -> np.ndarray:
    """Two touching balls with one number, and a crumb."""
    z, y, x = np.ogrid[:12, :24, :40]
    labels = np.zeros((12, 24, 40), np.int32)
    for center in (12, 27):
        labels[(z * 2 - 11) ** 2 + (y - 12) ** 2 + (x - center) ** 2 < 90] = 7
    labels[1, 1, 1:3] = 8
    return labels


@pytest.fixture
def bench(make_napari_viewer: Any, qtbot: Any) -> Any:
    viewer = make_napari_viewer()
    metadata = {METADATA_KEY: {INSTANCE_KEY: 1}}
    layer = viewer.add_labels(balls(), scale=(2, 1, 1), metadata=metadata)
    widget = ProofreadWidget(viewer)
    qtbot.addWidget(widget)
    widget.reset_choices()
    return viewer, layer, widget


def press(layer: Any, *positions: tuple[int, ...], moved: int = 0) -> None:
    """Click on the canvas where some voxels are, perhaps while moving the mouse."""
    for at in positions:
        pos = np.array([50, 50])
        event = SimpleNamespace(
            pos=pos, position=layer.data_to_world(at), type="mouse_press"
        )
        steps = layer.mouse_drag_callbacks[-1](layer, event)
        next(steps)
        if moved:
            event.type, event.pos = "mouse_move", pos + moved
            next(steps)
        event.type = "mouse_release"
        with pytest.raises(StopIteration):
            next(steps)


def test_clicks_correct_and_can_be_undone(bench: Any) -> None:
    _, layer, widget = bench
    before = layer.data.copy()
    press(layer, (5, 12, 12))  # no tool is chosen
    widget.tools["Split"].click()
    press(layer, (5, 12, 12), (6, 12, 27))
    assert layer.data[6, 12, 27] == 9 and layer.data[5, 12, 12] == 7
    assert "Split" in widget.status.text()
    split = layer.data.copy()
    widget.tools["Merge"].click()
    assert not widget.tools["Split"].isChecked()
    press(layer, (5, 12, 12), (6, 12, 27))
    np.testing.assert_array_equal(layer.data, before)
    layer.undo()
    np.testing.assert_array_equal(layer.data, split)
    widget.tools["Delete"].click()
    press(layer, (6, 12, 27), moved=9)  # a drag, which pans
    press(layer, (6, 12, 27))
    assert not (layer.data == 9).any()
    layer.undo()
    layer.undo()
    np.testing.assert_array_equal(layer.data, before)
    layer.redo()
    np.testing.assert_array_equal(layer.data, split)


def test_mistakes_are_told_and_small_objects_go(bench: Any) -> None:
    _, layer, widget = bench
    widget.tools["Fill holes"].click()
    press(layer, (0, 0, 20))
    assert "no object here" in widget.problem.text()
    widget.tools["Smooth"].click()
    press(layer, (5, 12, 12))
    assert not widget.problem.text()
    widget.smallest.value = 3
    widget.small_button.click()
    assert not (layer.data == 8).any() and (layer.data == 7).any()


def test_slices_between_two_are_filled(bench: Any) -> None:
    viewer, layer, widget = bench
    layer.data[4:8] = 0
    before = layer.data.copy()
    layer.selected_label = 7
    viewer.dims.set_current_step(0, 5)
    widget.interpolate_button.click()
    assert all((layer.data[z] == 7).sum() > 150 for z in range(4, 8))
    layer.undo()
    np.testing.assert_array_equal(layer.data, before)
    layer.selected_label = 5
    widget.interpolate_button.click()
    assert "Label 5 must be in a slice before" in widget.problem.text()


def test_a_correction_is_of_one_time_point(make_napari_viewer: Any, qtbot: Any) -> None:
    viewer = make_napari_viewer()
    layer = viewer.add_labels(np.stack([balls(), balls()]), scale=(1, 2, 1, 1))
    layer.metadata = {METADATA_KEY: {INSTANCE_KEY: 1}}
    widget = ProofreadWidget(viewer)
    qtbot.addWidget(widget)
    widget.reset_choices()
    widget.tools["Split"].click()
    press(layer, (1, 5, 12, 12), (1, 6, 12, 27))
    assert layer.data[1, 6, 12, 27] == 9
    np.testing.assert_array_equal(layer.data[0], balls())
    one = balls()
    one_layer = viewer.add_labels(one, scale=(2, 1, 1), metadata=dict(layer.metadata))
    widget.reset_choices()
    widget.labels.value = one_layer
    press(one_layer, (5, 12, 12), (6, 12, 27))
    np.testing.assert_array_equal(one_layer.data, layer.data[1])


def test_what_cannot_be_edited_is_told(bench: Any) -> None:
    _, layer, widget = bench
    before = layer.data.copy()
    layer.editable = False
    widget.tools["Delete"].click()
    press(layer, (5, 12, 12))
    assert "cannot be edited" in widget.problem.text()
    widget.small_button.click()
    np.testing.assert_array_equal(layer.data, before)


def test_every_split_gives_a_number_of_its_own_in_a_run_folder_too(
    make_napari_viewer: Any, qtbot: Any, tmp_path: Path
) -> None:
    grey = np.random.default_rng(0).integers(0, 255, (4, 64, 64), np.uint8)
    segment_to_folder(
        grey, "liver", tmp_path / "run", "tiny", existence_threshold=0.0,
        instances=True,
    )  # fmt: skip
    viewer = make_napari_viewer()
    objects = tmp_path / "run" / "instances.ome.zarr"
    (layer,) = viewer.open(objects, plugin="napari-biomedparse")
    widget = ProofreadWidget(viewer)
    qtbot.addWidget(widget)
    widget.reset_choices()
    widget.tools["Split"].click()
    count = len(np.unique(layer.data))
    for _ in range(2):
        sizes = np.bincount(np.asarray(layer.data).ravel())
        sizes[0] = 0
        places = np.argwhere(np.asarray(layer.data) == sizes.argmax())
        press(layer, tuple(places[0].tolist()), tuple(places[-1].tolist()))
        assert not widget.problem.text()
        count += 1
        assert len(np.unique(layer.data)) == count
    layer.data.flush()


def test_slices_along_the_slider_are_filled(bench: Any) -> None:
    viewer, layer, widget = bench
    layer.data = np.moveaxis(layer.data, 0, 2).copy()
    layer.data[..., 4:8] = 0
    viewer.dims.order = (2, 0, 1)
    viewer.dims.set_current_step(2, 5)
    layer.selected_label = 7
    widget.interpolate_button.click()
    assert not widget.problem.text()
    assert all((layer.data[..., x] == 7).sum() > 150 for x in range(4, 8))


def test_labels_of_a_run_folder_are_corrected_in_it(
    make_napari_viewer: Any, qtbot: Any, tmp_path: Path
) -> None:
    grey = np.random.default_rng(0).integers(0, 255, (4, 64, 64), np.uint8)
    run = segment_to_folder(
        grey, "liver", tmp_path / "run", "tiny", existence_threshold=0.0
    )
    viewer = make_napari_viewer()
    (layer,) = viewer.open(run.labels_path, plugin="napari-biomedparse")
    widget = ProofreadWidget(viewer)
    qtbot.addWidget(widget)
    widget.reset_choices()
    before = np.asarray(layer.data)
    at = tuple(np.argwhere(before)[0].tolist())
    widget.tools["Delete"].click()
    press(layer, at)
    assert not layer.data[at]
    layer.data.flush()
    (again,) = make_napari_viewer().open(run.labels_path, plugin="napari-biomedparse")
    assert not again.data[at]
    layer.undo()
    np.testing.assert_array_equal(np.asarray(layer.data), before)
    layer.data.flush()


def test_next_goes_from_object_to_object_and_skips_accepted_ones(bench: Any) -> None:
    viewer, layer, widget = bench
    layer.data[6, 3, 30:36] = 9
    widget.next_button.click()
    assert layer.selected_label == 8
    assert viewer.dims.current_step[0] == 1
    widget.next_button.click()
    assert layer.selected_label == 9
    assert viewer.dims.current_step[0] == 6
    widget.tools["Accept"].click()
    press(layer, (6, 3, 33))
    assert "Accepted object 9" in widget.status.text()
    widget.order.value = "largest"
    seen = []
    for _ in range(2):
        widget.next_button.click()
        seen.append(layer.selected_label)
    assert seen == [7, 8]
    widget.next_button.click()
    assert "starts again" in widget.status.text()
    widget.order.value = "lowest score"
    widget.next_button.click()
    assert "no scores" in widget.problem.text()
    layer.features = {"index": [0, 7, 8, 9], "score": [np.nan, 0.2, 0.1, 0.0]}
    widget.next_button.click()
    assert layer.selected_label == 8


def test_an_accepted_object_and_its_border_stay(bench: Any) -> None:
    _, layer, widget = bench
    written = WrittenLabels(layer.data)
    written.follow([layer])
    before = layer.data.copy()
    widget.tools["Accept"].click()
    press(layer, (5, 12, 12))
    written.write((slice(None),) * 3, np.full(before.shape, 3, np.int32))
    own = before == 7
    border = binary_dilation(own) & (before == 0)
    np.testing.assert_array_equal(layer.data[own], 7)
    np.testing.assert_array_equal(layer.data[border], 0)
    assert (layer.data[~own & ~border] == 3).all()
    layer.undo()
    assert (layer.data == 3).all()


def test_smaller_pieces_of_a_label_go(bench: Any) -> None:
    _, layer, widget = bench
    layer.data[1, 1, 1:3] = 7
    layer.data[11, 20, 1] = 8
    widget.tools["Keep largest"].click()
    press(layer, (1, 1, 1))
    assert not layer.data[1, 1].any() and layer.data[11, 20, 1] == 8
    assert (layer.data == 7).sum() > 500
    layer.undo()
    assert layer.data[1, 1, 1] == 7


@pytest.mark.parametrize("time", [(), (1,)])
def test_a_copied_object_comes_back_corrected(
    bench: Any, time: tuple[int, ...]
) -> None:
    viewer, layer, widget = bench
    if time:
        layer = viewer.add_labels(
            np.stack([balls(), balls()]), scale=(1, 2, 1, 1), translate=(0, 3, 0, 0)
        )
        widget.reset_choices()
        widget.labels.value = layer
    widget.back_button.click()
    assert "Select the layer of a copied object" in widget.problem.text()
    before = layer.data.copy()
    widget.tools["Copy"].click()
    press(layer, (*time, 5, 12, 12))
    copied = viewer.layers[-1]
    assert widget.labels.value is layer
    np.testing.assert_array_equal(copied.scale, layer.scale)
    np.testing.assert_array_equal(copied.translate, layer.translate)
    np.testing.assert_array_equal(copied.data > 0, _at(before == 7, time))
    copied.data[(*time, 5)] = 0
    copied.data[(*time, 2, slice(0, 3), slice(0, 20))] = 1
    copied.data[(*time, 1, 1, slice(0, 4))] = 1  # where another object is
    viewer.layers.selection.active = copied
    widget.back_button.click()
    assert not widget.problem.text()
    now = layer.data[time].copy()
    assert not (now[5] == 7).any() and (now[2, :3, :20] == 7).all()
    assert now[1, 1, :4].tolist() == [7, 8, 8, 7]
    layer.undo()
    np.testing.assert_array_equal(layer.data, before)
    widget.back_button.click()  # once more, as if it had not been undone
    np.testing.assert_array_equal(layer.data[time], now)
    copied.data[(*time, 2, slice(0, 3), slice(0, 20))] = 0  # what came back goes again
    widget.back_button.click()
    assert not (layer.data[time][2, :3, :20] == 7).any()
    other = viewer.add_labels(np.zeros_like(layer.data), name="others")
    viewer.layers.remove(layer)
    viewer.layers.selection.active = copied
    widget.back_button.click()
    assert "not there any more" in widget.problem.text() and not other.data.any()


def _at(mask: np.ndarray, time: tuple[int, ...]) -> np.ndarray:
    """Leave only one time point of a mask."""
    kept = np.zeros_like(mask)
    kept[time] = mask[time]
    return kept
