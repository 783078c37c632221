"""Recognise: all targets of a kind of image in the slice in view, as a run."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_v1 import tiny_v1

from napari_biomedparse.networks.checkpoint import save_weights
from napari_biomedparse.pipeline.recognize import TARGETS, recognize
from napari_biomedparse.viewer.layers import METADATA_KEY, prompts_of_layer
from napari_biomedparse.widgets.measure.widget import MeasureWidget

KIND = "MRI-T1-Gd-Brain"


@pytest.fixture(scope="module")
def model():
    return tiny_v1()


@pytest.fixture(scope="module")
def weights(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    save_weights(path, model.state_dict(), config=model.config)
    return str(path)


@pytest.fixture(scope="module")
def voxels():
    return np.random.default_rng(3).integers(0, 256, (4, 50, 70), np.uint8)


@pytest.fixture
def desk(desk_that, weights):
    desk = desk_that(None)
    desk.form.model.choose(weights)
    desk.form.set_option("kind", KIND)
    return desk


def press(desk):
    """Press Recognise, wait for the end, and return the new Labels layer."""
    before = set(desk.viewer.layers)
    desk.form.recognition.button.native.click()
    (layer,) = set(desk.viewer.layers) - before
    desk.wait_for_end()
    return layer


def rows(desk):
    """What the table of outcomes shows."""
    table = desk.view.outcomes
    items = [table.topLevelItem(at) for at in range(table.topLevelItemCount())]
    return [tuple(item.text(column) for column in range(4)) for item in items]


def test_it_is_offered_for_v1_alone(desk, weights):
    row = desk.form.recognition
    assert not row.native.isHidden()
    for model, hidden in (("tiny", True), (weights, False), ("demo", True)):
        desk.form.model.value = model
        assert row.native.isHidden() == hidden


def test_one_choice_of_kind_is_for_recognition_and_for_p_and_is_remembered(
    desk, desk_that, voxels
):
    desk.viewer.add_image(voxels)
    assert desk.form.options(0).kind == KIND
    desk.form.remember()
    desk.form.set_option("kind", "auto")
    desk.widget.recognize()
    assert desk.view.problem.text().startswith("Choose the kind of image")
    assert desk.widget.run is None
    later = desk_that(None)
    assert later.form.options(0).kind == KIND
    assert later.form.recognition.native.isAncestorOf(
        later.form.options_by_name["kind"].native
    )


def test_the_slice_in_view_is_recognised_as_by_python(desk, model, voxels):
    desk.viewer.add_image(voxels)
    desk.viewer.dims.set_point(0, 2)
    layer = press(desk)
    expected = recognize(voxels[2], KIND, model, device="cpu")
    assert any(expected.found) and not all(expected.found)
    np.testing.assert_array_equal(layer.data[2], expected.labels)
    assert not np.delete(layer.data, 2, axis=0).any()
    assert layer.name.startswith(f"{KIND}, voxels (small.safetensors)")
    assert prompts_of_layer(layer).texts == TARGETS[KIND]
    shown = zip(expected.targets, expected.p_values, expected.outcomes, strict=True)
    assert rows(desk) == [
        (target, f"{p:.3f}", f"{np.sum(expected.labels == label):,}", outcome)
        for label, (target, p, outcome) in enumerate(shown, start=1)
    ]
    known = layer.metadata[METADATA_KEY]
    assert known["parameters"]["recognized"] == KIND
    assert known["complete"]
    assert not desk.view.outcomes.isHidden() and desk.view.plot.isHidden()
    assert "Done: looked for 2 targets of voxels in" in desk.view.status.text()


def test_a_photograph_without_prompts_goes_on_to_its_report(desk, voxels, tmp_path):
    desk.form.prompts.value = ""
    image = desk.viewer.add_image(voxels[0], name="photo")
    layer = press(desk)
    assert layer.data.shape == voxels.shape[1:]
    desk.viewer.layers.selection.active = layer
    measure = MeasureWidget(desk.viewer)
    measure.labels.value, measure.image.value = layer, image
    measure.save(str(tmp_path / "found.tif"))
    measure.report(str(tmp_path / "page.html"))
    page = tmp_path / "page.html"
    desk.wait_until(lambda: page.exists() and (tmp_path / "found.tif").exists())
    text = page.read_text("utf-8")
    assert TARGETS[KIND][0] in text and "recognized" in text


def test_a_run_and_another_image_hide_the_outcomes(desk, voxels):
    other = desk.viewer.add_image(voxels[0], name="other")
    image = desk.viewer.add_image(voxels[1], name="photo")
    press(desk)
    desk.viewer.layers.selection.active = other
    assert desk.view.results.isHidden()
    desk.viewer.layers.selection.active = image
    assert not desk.view.results.isHidden()
    assert len(rows(desk)) == 2
    desk.start()
    desk.wait_for_end()
    assert desk.view.outcomes.isHidden()
    assert "slices" in desk.view.bar.format()


def test_another_model_is_refused_in_one_sentence(desk, voxels):
    desk.viewer.add_image(voxels)
    desk.form.model.value = "tiny"
    desk.widget.recognize()
    desk.wait_for_end()
    assert desk.view.problem.text().startswith("Recognition needs BiomedParse v1")
    stopped = "Stopped by an error: looked for 0 of 2 targets of voxels."
    assert desk.view.status.text() == stopped
    assert desk.view.resume_button.isHidden()
