"""Corrected labels become training data: only what was reviewed, and it is learned."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
from training.data_folder import arrays

from napari_biomedparse.data.prompts import PromptSet, parse_prompts
from napari_biomedparse.data.volume import Volume
from napari_biomedparse.errors import PromptError, VolumeError
from napari_biomedparse.io import open_file
from napari_biomedparse.networks.weights import load_model
from napari_biomedparse.training.cases import load_cases
from napari_biomedparse.training.collect import add_to_training_set
from napari_biomedparse.training.finetune import finetune
from napari_biomedparse.training.options import FinetuneOptions
from napari_biomedparse.training.slices import split
from napari_biomedparse.training.wordings import FILE_NAME

PROMPTS = parse_prompts({"1": "bright squares", "2": "dark corner"})
IMAGE, LABELS = arrays(0)


def volume(name: str = "my stack", image: np.ndarray = IMAGE) -> Volume:
    spacing, unit = (2.0, 0.5, 0.5), ("micrometer",) * 3
    return Volume(image, ("z", "y", "x"), spacing, unit, (0.0,) * 3, name)


def test_a_whole_volume_comes_back_with_scale_and_prompts(tmp_path: Path) -> None:
    path = add_to_training_set(tmp_path, volume(), LABELS, PROMPTS)
    assert path == tmp_path / "my_stack.npz"
    found = open_file(path)
    np.testing.assert_array_equal(found.images[0].data, IMAGE)
    np.testing.assert_array_equal(found.labels[0].volume.data, LABELS)
    assert found.prompts == PROMPTS
    np.testing.assert_allclose(found.images[0].spacing, (2e-3, 5e-4, 5e-4))
    with np.load(path) as kept:
        assert {"imgs", "gts", "spacing"} <= set(kept.files)
    assert json.loads((tmp_path / FILE_NAME).read_text())["*"]["1"] == [
        "bright squares"
    ]


@pytest.mark.parametrize("axis", [0, 2])
def test_only_reviewed_slices_are_learned_from(tmp_path: Path, axis: int) -> None:
    image = np.moveaxis(IMAGE, 0, axis)
    labels = np.moveaxis(LABELS, 0, axis).copy()
    right = np.moveaxis(labels, axis, 0)[[3, 6]].copy()
    wrong = np.moveaxis(labels, axis, 0)
    wrong[[2, 4, 5, 7]] = 1  # what nobody looked at
    lazy = replace(volume(), data=da.from_array(image, chunks=4))
    add_to_training_set(tmp_path, lazy, labels, PROMPTS, reviewed=[6, 3, 3], axis=axis)
    (one,) = load_cases(tmp_path, tmp_path / "cache")
    assert (one.axes, one.reviewed) == ((axis,), (1, 4))
    kept = np.moveaxis(np.asarray(one.labels), axis, 0)
    np.testing.assert_array_equal(
        np.moveaxis(np.asarray(one.image), axis, 0), IMAGE[2:8]
    )
    np.testing.assert_array_equal(kept[[1, 4]], right)
    assert not kept[[0, 2, 3, 5]].any()
    samples = split([one], 0.0, 0).train
    assert [(s.axis, s.place) for s in samples] == [(axis, 1), (axis, 4)]


def test_held_out_of_one_volume_are_reviewed_slices(tmp_path: Path) -> None:
    reviewed = [1, 2, 4, 5, 7, 8]
    add_to_training_set(tmp_path, volume(), LABELS, PROMPTS, reviewed=reviewed)
    (one,) = load_cases(tmp_path, tmp_path / "cache")
    for seed in range(6):
        parts = split([one], 0.3, seed)
        places = {s.place for s in parts.validation}
        assert places and places <= set(one.reviewed or ())
        seen = {s.place + step for s in parts.train for step in (-1, 0, 1)}
        assert parts.train and not places & seen


def test_finetune_learns_from_what_was_added(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    for number in range(2):
        image, labels = arrays(number)
        reviewed = [2, 3, 4, 6] if number else None
        add_to_training_set(
            folder,
            volume(f"stack {number}", image),
            labels,
            PROMPTS,
            reviewed=reviewed,
        )
    options = FinetuneOptions(epochs=1, batch_size=4, validation=0.5, max_steps=3)
    result = finetune(folder, tmp_path / "out", "tiny", options, device="cpu")
    assert result.step > 0 and load_model(result.checkpoint)


def test_a_volume_added_again_is_replaced(tmp_path: Path) -> None:
    add_to_training_set(tmp_path, volume(), LABELS, PROMPTS)
    corrected = np.where(LABELS == 2, 0, LABELS).astype(np.uint8)
    add_to_training_set(tmp_path, volume(), corrected, PROMPTS)
    (one,) = load_cases(tmp_path, tmp_path / "cache")
    np.testing.assert_array_equal(one.labels, corrected)


def test_wordings_that_were_added_by_hand_stay(tmp_path: Path) -> None:
    add_to_training_set(tmp_path, volume("a"), LABELS, PROMPTS)
    path = tmp_path / FILE_NAME
    known = json.loads(path.read_text())
    known["*"]["1"].append("squares")
    path.write_text(json.dumps(known))
    add_to_training_set(tmp_path, volume("b"), LABELS, PROMPTS)
    assert json.loads(path.read_text()) == known
    other = parse_prompts({"1": "nuclei", "2": "dark corner"})
    add_to_training_set(tmp_path, volume("c"), LABELS, other)
    added = json.loads(path.read_text())
    assert added["*"] == known["*"] and added["c"]["1"] == ["nuclei"]
    texts = {v.name: v.wordings.texts for v in load_cases(tmp_path, tmp_path / "x")}
    assert texts["b"][1] == ("bright squares", "squares")
    assert texts["c"][1] == ("nuclei",)


def test_objects_keep_their_numbers(tmp_path: Path) -> None:
    objects = LABELS.astype(np.int32) * 1000
    prompts = PromptSet(parse_prompts(["squares"]).prompts, instance=True)
    add_to_training_set(tmp_path, volume(), objects, prompts)
    (one,) = load_cases(tmp_path, tmp_path / "cache")
    assert one.wordings.instance and np.asarray(one.labels).max() == 2000


def test_what_does_not_fit_is_said_before_anything_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    with pytest.raises(VolumeError, match="No slice was reviewed"):
        add_to_training_set(folder, volume(), LABELS, PROMPTS, reviewed=[])
    with pytest.raises(VolumeError, match="there are 10"):
        add_to_training_set(folder, volume(), LABELS, PROMPTS, reviewed=[10])
    with pytest.raises(VolumeError, match="labels of shape"):
        add_to_training_set(folder, volume(), LABELS[1:], PROMPTS)
    with pytest.raises(PromptError, match="without a prompt"):
        add_to_training_set(folder, volume(), LABELS * 4, PROMPTS)
    assert not folder.exists()
