"""The original's folder of PNGs as training data."""

from __future__ import annotations

import json
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import torch

from napari_biomedparse.errors import FormatError, PromptError, VolumeError
from napari_biomedparse.io.processed import is_processed
from napari_biomedparse.training.losses import instance_edges
from napari_biomedparse.training.options import FinetuneOptions
from napari_biomedparse.training.processed import load_processed
from napari_biomedparse.training.slices import (
    Sample,
    SliceBatches,
    cut,
    make_targets,
    split,
)
from napari_biomedparse.training.volumes import TrainingVolume

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(1, 255, (32, 32, 3), np.uint8)


def box(*ranges: tuple[int, int]) -> np.ndarray:
    mask = np.zeros((32, 32), np.uint8)
    mask[tuple(slice(*r) for r in ranges)] = 255
    return mask


MASKS = {
    "a_CT_abdomen_liver.png": box((2, 30), (2, 30)),
    "a_CT_abdomen_liver+tumor.png": box((5, 9), (5, 9)),
    "b_CT_abdomen_left+kidney.png": box((10, 20), (10, 20)),
    "c_MRI_brain_glioma.png": box((3, 8), (3, 8)),
}


def write(folder: Path, masks: dict[str, np.ndarray] = MASKS) -> Path:
    (folder / "train").mkdir(parents=True)
    (folder / "train_mask").mkdir()
    annotations = []
    for name, mask in masks.items():
        image = f"{name[0]}.png"
        pixels = PIXELS if image == "a.png" else PIXELS[..., 0].copy()
        png = imagecodecs.png_encode(pixels)
        (folder / "train" / image).write_bytes(png)
        (folder / "train_mask" / name).write_bytes(imagecodecs.png_encode(mask))
        target = name.rsplit("_", 1)[-1].removesuffix(".png").replace("+", " ")
        sentences = [{"raw": f"{target} in {name.split('_')[1]}"}, {"sent": target}]
        annotations.append(
            {"mask_file": name, "image_id": ord(name[0]), "sentences": sentences}
        )
    names = {name[0] for name in masks}
    images = [{"id": ord(c), "file_name": f"{c}.png"} for c in names]
    content = {"images": images, "annotations": annotations}
    (folder / "train.json").write_text(json.dumps(content))
    return folder


def load(folder: Path) -> dict[str, TrainingVolume]:
    return {volume.name: volume for volume in load_processed(folder)}


def test_targets_of_one_modality_and_site_are_a_data_set(tmp_path: Path) -> None:
    assert is_processed(write(tmp_path / "d")) and not is_processed(tmp_path)
    volumes = load(tmp_path / "d")
    assert [v.dataset for v in volumes.values()] == [
        "CT, abdomen",
        "CT, abdomen",
        "MRI, brain",
    ]
    texts = volumes["b.png"].wordings.texts
    assert texts == {
        1: ("left kidney in CT", "left kidney"),
        2: ("liver in CT", "liver"),
        4: ("liver tumor in CT", "liver tumor"),
    }


def test_channels_enter_as_they_are_and_masks_that_overlap_stay_whole(
    tmp_path: Path,
) -> None:
    volume = load(write(tmp_path / "d"))["a.png"]
    picture, labels = cut(volume, Sample(0, 0, 0), 32)
    assert torch.equal(picture, torch.from_numpy(PIXELS).permute(2, 0, 1).float())
    truth = make_targets(labels[None], volume, [2, 4, 1, 0])
    for at, name in enumerate(("liver", "liver+tumor")):
        mask = torch.from_numpy(MASKS[f"a_CT_abdomen_{name}.png"] > 0)
        assert torch.equal(truth.masks[0, at] > 0, mask)
        assert torch.equal(truth.edges[0, at] > 0, instance_edges(mask[None])[0])
    assert truth.exists.tolist() == [[1, 1, 0, 0]]


def test_more_targets_than_fit_are_refused(tmp_path: Path) -> None:
    many = {f"{i}_CT_abdomen_target+{i}.png": box((0, 2)) for i in range(63)}
    with pytest.raises(PromptError, match="CT, abdomen has 63 targets, and at most 62"):
        load(write(tmp_path / "d", many))


def test_other_masks_are_other_data(tmp_path: Path) -> None:
    before = load(write(tmp_path / "a"))
    again = load(write(tmp_path / "b"))
    changed = MASKS | {"c_MRI_brain_glioma.png": box((3, 9), (3, 8))}
    after = load(write(tmp_path / "c", changed))
    for name in before:
        labels = [found[name].labels.identity for found in (before, again, after)]
        assert labels[0] == labels[1]
        assert (labels[0] == labels[2]) is (name != "c.png")


def test_batches_ask_for_what_is_absent_too(tmp_path: Path) -> None:
    volumes = load_processed(write(tmp_path / "d"))
    samples = split(volumes, 0.0, 0).train
    options = FinetuneOptions(batch_size=1, prompts=3)
    batches = SliceBatches(volumes, samples, options, 32, None)
    exists = [batches[i].targets.exists[0].tolist() for i in range(3)]
    assert exists == [[1, 1, 0], [1, 0, 0], [1]]


def test_bad_files_are_all_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "d")
    (folder / "train" / "a.png").write_bytes(b"\x89PNG cut short")
    small = imagecodecs.png_encode(box((1, 2))[:16])
    (folder / "train_mask" / "b_CT_abdomen_left+kidney.png").write_bytes(small)
    (folder / "train_mask" / "c_MRI_brain_glioma.png").unlink()
    with pytest.raises(VolumeError) as caught:
        load(folder)
    text = str(caught.value)
    assert "3 of 3 cases" in text and "a.png is not a complete picture" in text
    assert "has the shape (16, 32), but its image has (32, 32)" in text
    assert "glioma.png does not exist" in text


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"annotations": [{"mask_file": "x"}]}']
)
def test_a_list_that_is_none_is_named(tmp_path: Path, content: str) -> None:
    folder = write(tmp_path / "d")
    (folder / "train.json").write_text(content)
    with pytest.raises(FormatError, match=r"train\.json is not a list of annotations"):
        load(folder)
    (folder / "train.json").write_text('{"annotations": []}')
    with pytest.raises(FormatError, match="lists no masks"):
        load(folder)
