"""The Review widget in a real viewer: accept slices, and collect them to learn from."""

from __future__ import annotations

import numpy as np
import pytest
from filelock import FileLock
from qtpy.QtCore import QPoint, Qt
from training.data_folder import arrays

from napari_biomedparse.runs.folder import LOCK
from napari_biomedparse.runs.run import segment_to_folder
from napari_biomedparse.training.cases import load_cases
from napari_biomedparse.viewer.layers import METADATA_KEY
from napari_biomedparse.widgets.shared.docks import open_widget
from napari_biomedparse.widgets.training.review import ReviewWidget
from napari_biomedparse.widgets.training.review_strip import reviewed_slices

TEXTS = {1: "bright squares", 2: "dark corner"}


@pytest.fixture
def bench(make_napari_viewer, qtbot, tmp_path):
    viewer = make_napari_viewer()
    image, labels = arrays(0)
    place = {"scale": (2.0, 0.5, 0.5), "units": ("um",) * 3}
    viewer.add_image(image, name="stack", **place)
    known = {"text_prompts": TEXTS, "instance_label": 0}
    metadata = {METADATA_KEY: known}
    viewer.add_labels(labels, name="found", metadata=metadata, **place)
    widget = ReviewWidget(viewer)
    viewer.window.add_dock_widget(widget, name="Review labels")
    widget.reset_choices()
    widget.folder.value = tmp_path / "set"
    return viewer, widget, qtbot


def added(widget, qtbot):
    widget.add_button.click()
    qtbot.waitUntil(widget.add_button.isEnabled, timeout=30_000)


def test_accepting_goes_on_to_the_next_slice_and_is_kept_in_the_layer(bench):
    viewer, widget, qtbot = bench
    layer = viewer.layers["found"]
    viewer.dims.set_current_step(0, 3)
    widget.accept_button.click()
    assert reviewed_slices(layer, 0) == (3,) and viewer.dims.current_step[0] == 4
    assert not widget.reject_button.isEnabled()  # of slice 4
    viewer.dims.set_current_step(0, 3)
    assert widget.count.text() == "1 of 10 slices accepted; slice 3 is accepted."
    widget.reject_button.click()
    assert reviewed_slices(layer, 0) == ()
    assert "slice 3 is not accepted" in widget.count.text()
    widget.accept_all_button.click()
    assert reviewed_slices(layer, 0) == tuple(range(10))
    strip = widget.strip
    qtbot.mouseClick(
        strip,
        Qt.MouseButton.LeftButton,
        pos=QPoint(strip.width() - 3, strip.height() // 2),
    )
    assert viewer.dims.current_step[0] == 9


def test_accepted_slices_of_a_run_folder_are_there_when_it_is_opened_again(
    make_napari_viewer, qtbot, tmp_path
):
    grey, _ = arrays(0)
    run = segment_to_folder(grey, "bright squares", tmp_path / "run", "tiny")
    for _ in range(2):
        viewer = make_napari_viewer()
        viewer.add_image(grey, name="stack")
        (layer,) = viewer.open(run.labels_path, plugin="napari-biomedparse")
        widget = ReviewWidget(viewer)
        qtbot.addWidget(widget)
        widget.reset_choices()
        if not reviewed_slices(layer, 0):
            layer.paint((3, 5, 5), 1)
            for at in (3, 4):
                viewer.dims.set_current_step(0, at)
                widget.accept()
            viewer.dims.set_current_step(0, 6)
            layer.data.flush()
        assert reviewed_slices(layer, 0) == (3, 4)
    assert widget.count.text().startswith("2 of 10 slices accepted")
    widget.folder.value = tmp_path / "set"
    added(widget, qtbot)
    (case,) = load_cases(tmp_path / "set", tmp_path / "cache")
    np.testing.assert_array_equal(np.asarray(case.labels)[[1, 2]], layer.data[[3, 4]])
    with FileLock(run.folder / LOCK):  # a run is under way
        widget.accept_all()
        assert "is being written by another process" in widget.problem.text()
    assert reviewed_slices(layer, 0) == (3, 4)


def test_accepted_slices_are_added_and_finetune_reads_them(bench, tmp_path):
    viewer, widget, qtbot = bench
    layer = viewer.layers["found"]
    for at in (3, 4):
        viewer.dims.set_current_step(0, at)
        widget.accept()
    layer.data[8] = 2  # wrong, but nobody accepted it
    added(widget, qtbot)
    path = tmp_path / "set" / "stack.npz"
    assert widget.status.text() == f"Added 2 slices as {path}"
    (case,) = load_cases(tmp_path / "set", tmp_path / "cache")
    assert case.reviewed == (1, 2) and case.wordings.texts[1] == ("bright squares",)
    np.testing.assert_array_equal(np.asarray(case.labels)[[1, 2]], layer.data[[3, 4]])
    widget.everything.value = True
    added(widget, qtbot)
    (case,) = load_cases(tmp_path / "set", tmp_path / "cache")
    assert case.reviewed is None and case.labels.shape == layer.data.shape


def test_the_set_is_handed_to_the_finetune_widget(bench, tmp_path):
    viewer, widget, _ = bench
    widget.learn_button.click()
    tune = open_widget(viewer, "Fine-tune a model")
    assert tune.form.data.value == tmp_path / "set"
    assert tune.form.source.value == "a data folder"
    tune.session.close()


def test_slices_accepted_before_objects_were_separated_are_not_learnt(bench, notes):
    viewer, widget, qtbot = bench
    layer = viewer.layers["found"]
    known = layer.metadata[METADATA_KEY]
    for at in (3, 4):
        viewer.dims.set_current_step(0, at)
        widget.accept()
    known["instance_label"] = 1  # Separate objects is turned on
    widget.add()
    assert widget.form.objects.value
    widget.form.names.value = "bright squares"
    assert "Slices 3, 4 were accepted before Separate objects" in notes[-1]
    assert not widget.problem.isHidden() and "3, 4" in widget.problem.text()
    viewer.dims.set_current_step(0, 3)
    widget.reject()
    widget.accept()
    widget.add()
    assert "Slices 4 were accepted before" in notes[-1]
    viewer.dims.set_current_step(0, 4)
    widget.reject()
    widget.accept()
    added(widget, qtbot)
    assert widget.status.text().startswith("Added 2 slices")
    assert widget.problem.isHidden()


def test_values_that_a_person_made_objects_are_learnt_as_such(bench):
    _, widget, qtbot = bench
    widget.accept()
    widget.form.names.value, widget.form.objects.value = "bright squares", True
    added(widget, qtbot)
    assert widget.status.text().startswith("Added 1 slice")


def test_what_is_missing_is_told(bench, notes):
    viewer, widget, qtbot = bench
    added(widget, qtbot)
    assert "No slice was reviewed" in notes[-1]
    widget.folder.value = None
    widget.add()
    assert "folder for the training set" in notes[-1]
    widget.learn()
    assert len(notes) == 3
    viewer.layers.remove("found")
    widget.reset_choices()
    assert not widget.accept_button.isEnabled()
