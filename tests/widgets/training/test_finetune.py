"""The Fine-tune widget in a real viewer: learn from layers, stop, use the result."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from training.data_folder import arrays, write_folder

from napari_biomedparse.networks.weights import load_model
from napari_biomedparse.training.cases import load_cases
from napari_biomedparse.training.options import FinetuneOptions
from napari_biomedparse.viewer.layers import METADATA_KEY
from napari_biomedparse.widgets.shared.docks import open_widget
from napari_biomedparse.widgets.training.finetune import FinetuneWidget
from napari_biomedparse.widgets.training.tuning_form import FOLDER, SMALL_RATE

WAIT = 120_000
TEXTS = {1: "bright squares", 2: "dark corner"}


@pytest.fixture
def bench(make_napari_viewer, qtbot, tmp_path):
    """A viewer with an image and its labels, and the widget set to the tiny model."""
    viewer = make_napari_viewer()
    image, labels = arrays(0)
    known = {"text_prompts": TEXTS, "instance_label": 0}
    viewer.add_image(image, name="stack", metadata={METADATA_KEY: dict(known)})
    viewer.add_labels(labels, name="right", metadata={METADATA_KEY: dict(known)})
    widget = FinetuneWidget(viewer)
    viewer.window.add_dock_widget(widget, name="Fine-tune a model")
    widget.reset_choices()
    form = widget.form
    form.model.value, form.device.value = "tiny", "cpu"
    form.output.value = tmp_path / "out"
    form.options["batch_size"].value = 4
    form.options["epochs"].value = 2
    yield viewer, widget, qtbot
    widget.session.close()


def test_the_learning_rate_suits_the_network(bench, tmp_path):
    _, widget, _ = bench
    form, large, small = widget.form, tmp_path / "large.ckpt", tmp_path / "small.ckpt"
    small.write_bytes(bytes(1000))
    with large.open("wb") as file:
        file.truncate(2**30)
    form.model.choose(str(large))
    assert form.rate.value == FinetuneOptions.learning_rate
    form.model.choose(str(small))
    assert form.rate.value == SMALL_RATE
    form.model.choose("v2")
    assert form.rate.value == FinetuneOptions.learning_rate


def finished(widget, qtbot):
    qtbot.waitUntil(lambda: widget.tuning is None, timeout=WAIT)


def test_layers_are_learned_and_the_result_segments(bench, tmp_path):
    viewer, widget, qtbot = bench
    assert widget.form.rate.value == SMALL_RATE
    assert widget.form.layers.names.value == "1: bright squares\n2: dark corner"
    widget.start_button.click()
    assert widget.stop_button.isEnabled() and not widget.start_button.isEnabled()
    finished(widget, qtbot)
    assert widget.status.text().startswith("Done:"), widget.status.text()
    assert len(widget.curves.learned) >= 2 and widget.curves.held_out
    (case,) = load_cases(tmp_path / "out" / "data", tmp_path / "cache")
    np.testing.assert_array_equal(case.labels, viewer.layers["right"].data)
    path = Path(widget.result.checkpoint)
    assert load_model(path) and path.parent == tmp_path / "out"

    widget.use_button.click()
    segment = open_widget(viewer, "Segment with text")
    assert segment.form.model.value == str(path)
    segment.form.device.value = "cpu"
    viewer.layers.selection.active = viewer.layers["stack"]
    segment.start()
    qtbot.waitUntil(lambda: segment.run is None, timeout=WAIT)
    layer = viewer.layers[-1]
    known = layer.metadata[METADATA_KEY]
    assert known["complete"] and known["provenance"]["load"] == str(path)
    segment.session.close()


def test_a_folder_is_learned_from_and_stop_keeps_the_best(bench, tmp_path):
    _, widget, qtbot = bench
    widget.form.learn_from_folder(write_folder(tmp_path / "data"))
    assert widget.form.source.value == FOLDER and widget.form.layers.isHidden() is False
    assert widget.form._from_layers.isHidden()
    widget.form.options["epochs"].value = 10_000
    widget.form.options["patience"].value = 10_000
    widget.start_button.click()
    qtbot.waitUntil(lambda: len(widget.curves.learned) > 2, timeout=WAIT)
    widget.stop_button.click()
    finished(widget, qtbot)
    assert widget.status.text().startswith("Stopped:"), widget.status.text()
    assert load_model(widget.result.checkpoint)


def test_what_is_missing_is_told(bench, notes, monkeypatch):
    viewer, widget, _ = bench
    monkeypatch.setattr(
        "napari_biomedparse.widgets.weights.weights_panel.is_downloaded",
        lambda _: False,
    )
    widget.form.model.value = "v2"
    widget.start()
    assert "not been downloaded" in notes[-1] and not widget.form.weights.isHidden()
    widget.form.model.value = "tiny"
    widget.form.output.value = None
    widget.start()
    assert "folder for the result" in notes[-1]
    widget.form.source.value = FOLDER
    widget.form.output.value = Path("out")
    widget.start()
    assert "training data" in notes[-1]
    widget.form.source.value = "layers"
    widget.form.layers.names.value = ""
    widget.start()
    assert "no prompt" in notes[-1]
    widget.form.layers.names.value = "bright squares"
    viewer.layers.clear()
    widget.reset_choices()
    widget.start()
    assert "Open an image" in notes[-1] and widget.tuning is None


def test_labels_that_do_not_fit_are_told_and_nothing_is_trained(bench, qtbot, notes):
    viewer, widget, _ = bench
    viewer.layers["right"].data = viewer.layers["right"].data[1:]
    widget.start()
    finished(widget, qtbot)
    assert "must be equal" in notes[-1] and widget.result is None
    assert not widget.use_button.isEnabled()
