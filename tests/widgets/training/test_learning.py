"""Accepted slices teach: in real widgets, with the demo model in its process."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from discs import discs

from napari_biomedparse.pipeline.segment import segment
from napari_biomedparse.process.messages import Learned
from napari_biomedparse.viewer.layers import METADATA_KEY
from napari_biomedparse.widgets.segment.teaching import most_doubtful
from napari_biomedparse.widgets.shared.docks import open_widget
from napari_biomedparse.widgets.training import learning
from napari_biomedparse.widgets.training.learning import describe

PROMPT = "nuclei in light-sheet microscopy"
LONGEST_WAIT = 90_000


def dice(found: np.ndarray, truth: np.ndarray) -> float:
    return float(2 * (found & truth).sum() / (found.sum() + truth.sum()))


@pytest.fixture
def desk(make_napari_viewer: Any, qtbot: Any) -> Any:
    viewer = make_napari_viewer()
    image, truth = discs()
    viewer.add_image(image, name="discs")
    widget = open_widget(viewer, "Segment with text")
    widget.form.model.value = "demo"
    widget.form.device.value = "cpu"
    widget.form.prompts.model.add([PROMPT])
    widget.start()

    def wait() -> None:
        qtbot.waitUntil(lambda: widget.run is None, timeout=LONGEST_WAIT)

    wait()
    layer = viewer.layers[-1]
    review = open_widget(viewer, "Review labels")
    review.form.labels.value = layer
    yield SimpleNamespace(
        viewer=viewer, widget=widget, review=review, layer=layer, wait=wait,
        image=image, truth=truth,
    )  # fmt: skip
    widget.session.close()


def correct(layer: Any, at: int, plane: np.ndarray) -> None:
    """Paint a slice as a person does, in one stroke."""
    voxels = np.nonzero(layer.data[at] != plane)
    layer.data_setitem((np.full(len(voxels[0]), at), *voxels), plane[voxels])


def test_an_accepted_slice_makes_the_others_better(
    desk: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, review, widget, truth = desk.layer, desk.review, desk.widget, desk.truth
    before = np.array(layer.data)
    assert review.learning.isVisibleTo(review)
    others = [0, 1, 5, 6]
    assert dice(before[others] > 0, truth[others]) < 0.5
    desk.viewer.dims.set_current_step(0, 3)
    correct(layer, 3, truth[3].astype(layer.data.dtype))
    layer.data_setitem((np.array([6]), np.array([1]), np.array([1])), 1)
    review.accept_button.click()
    desk.wait()
    assert dice(np.asarray(layer.data)[others] > 0, truth[others]) > 0.8
    np.testing.assert_array_equal(layer.data[3], truth[3])
    assert layer.data[6, 1, 1] == 1  # what was painted stays
    learned = widget.learned
    assert learned.slices == (3, 6)
    assert PROMPT in review.learning.lessons.text()
    after = np.array(layer.data)
    proposed = review.learning.next_slice
    assert proposed != 3
    assert f"Next: slice {proposed}" in review.learning.next_text.text()
    assert "taught" in layer.metadata[METADATA_KEY]["parameters"]["model"]
    # It is a file only once it is saved, and copied commands name that file.
    widget.view.copy_menu.triggered.emit(widget.view.copy_menu.actions()[0])
    assert "Save taught model" in widget.view.problem.text()
    target = tmp_path / "discs.taught.safetensors"
    monkeypatch.setattr(learning, "ask_where", lambda *_: str(target))
    review.learning.save_button.click()
    assert widget.form.model.value == str(target)
    found = segment(desk.image, PROMPT, target, device="cpu").labels
    mine = np.ones(after.shape, bool)
    mine[3] = mine[6, 1, 1] = False
    np.testing.assert_array_equal(after[mine], found[mine])
    # Forget, and what the text finds is there again, but for what a person did.
    review.learning.forget_button.click()
    desk.wait()
    np.testing.assert_array_equal(layer.data[mine], before[mine])
    np.testing.assert_array_equal(layer.data[3], truth[3])
    assert widget.form.model.value == "demo"
    assert not review.learning.forget_button.isEnabled()
    layer.undo()
    np.testing.assert_array_equal(layer.data, after)


def test_the_newest_corrections_win_and_nothing_is_learned_unasked(desk: Any) -> None:
    layer, review, widget, truth = desk.layer, desk.review, desk.widget, desk.truth
    review.learning.learn_box.setChecked(False)
    desk.viewer.dims.set_current_step(0, 2)
    correct(layer, 2, truth[2].astype(layer.data.dtype))
    review.accept_button.click()
    assert widget.run is None
    assert desk.viewer.dims.current_step[0] == 3
    review.learning.learn_box.setChecked(True)
    review.learning.teach_button.click()
    assert widget.run is not None
    correct(layer, 4, truth[4].astype(layer.data.dtype))
    desk.viewer.dims.set_current_step(0, 4)
    review.accept_button.click()
    desk.wait()
    assert widget.learned.slices == (2, 4)


def test_what_was_learned_is_shown_before_a_queued_run(desk: Any) -> None:
    layer, widget = desk.layer, desk.widget
    before = np.array(layer.data)
    desk.viewer.dims.set_current_step(0, 3)
    correct(layer, 3, desk.truth[3].astype(layer.data.dtype))
    desk.review.accept_button.click()
    widget.form.overwrite.value = False
    widget.start()  # waits
    assert len(widget.view.queue) == 1
    desk.wait()
    assert widget.learned is not None
    assert dice(np.asarray(layer.data)[5:] > 0, desk.truth[5:]) > 0.8
    assert dice(before[5:] > 0, desk.truth[5:]) < 0.5
    assert len(widget.view.queue) == 0


def test_labels_of_another_kind_do_not_offer_to_learn(desk: Any) -> None:
    assert desk.widget.can_teach(desk.layer)
    assert not desk.widget.can_teach(None)
    desk.widget.form.set_option("overlaps", "separate")
    desk.widget.start()
    desk.wait()
    layer = desk.viewer.layers[-1]
    assert layer is not desk.layer
    desk.review.form.labels.value = layer
    assert not desk.review.learning.isVisibleTo(desk.review)
    desk.widget.teach()
    assert "one layer" in desk.widget.view.problem.text()


def test_the_next_slice_is_the_one_in_most_doubt() -> None:
    rare, frequent = [0.001, 0.003, np.nan, 0.001], [0.2, 0.2, 0.3, 0.25]
    doubt = np.array([rare, frequent], np.float32)
    assert most_doubtful(doubt, ()) == 1
    assert most_doubtful(doubt, (1, 9)) == 3
    assert most_doubtful(doubt, (0, 1, 3)) is None
    assert most_doubtful(np.full_like(doubt, np.nan), ()) is None


def test_what_did_not_help_is_said() -> None:
    learned = Learned(Path("a"), (1,), ("cells", "rims"), (0.4, 0.8), (0.7, 0.8))
    assert describe(learned).splitlines() == [
        "cells: Dice 0.40 by text, 0.70 taught",
        "rims: Dice 0.80 by text, 0.80 taught, so the text alone stays",
    ]
