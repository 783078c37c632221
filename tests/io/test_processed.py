"""The published layout of PNGs: names, sentences, pixels, and what is wrong with it."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import imagecodecs
import numpy as np
import pytest

from napari_biomedparse.errors import FormatError, VolumeError
from napari_biomedparse.io.inputs import Pair
from napari_biomedparse.io.processed import (
    is_processed,
    processed_pairs,
    read_processed,
)

IMAGE = np.random.default_rng(0).integers(0, 255, (6, 5, 3), np.uint8)
MASK = np.zeros((6, 5), np.uint8)
MASK[1:3, 2:4] = 1


def put(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(imagecodecs.png_encode(np.ascontiguousarray(pixels)))


def write(folder: Path, part: str = "test") -> Path:
    for name in ("1_a_MRI-FLAIR_brain", "2_T1_brain", "3_CT_abdomen"):
        put(folder / part / f"{name}.png", IMAGE)
    for name in (
        "1_a_MRI-FLAIR_brain_edema",
        "1_a_MRI-FLAIR_brain_tumor+core",
        "2_T1_brain_edema",
        "3_CT_abdomen_left+kidney",
    ):
        put(folder / f"{part}_mask" / f"{name}.png", MASK)
    return folder


def test_names_tell_target_modality_and_site(tmp_path: Path) -> None:
    folder = write(tmp_path)
    assert is_processed(folder, "test") and not is_processed(folder)
    first, second, third = read_processed(folder, "test")
    assert first.path == folder / "test" / "1_a_MRI-FLAIR_brain.png"
    assert [mask.target for mask in first.masks] == ["edema", "tumor core"]
    found = [(i.modality, i.sequence, i.site) for i in (first, second, third)]
    assert found == [
        ("MRI-FLAIR", "FLAIR", "brain"), ("T1", "T1", "brain"), ("CT", "", "abdomen"),
    ]  # fmt: skip
    assert first.group == "MRI-FLAIR, brain"
    assert first.masks[1].sentences == ("tumor core in brain MRI-FLAIR",)
    assert third.masks[0].sentences == ("left kidney in abdomen CT",)


def test_a_json_has_the_sentences(tmp_path: Path) -> None:
    folder = write(tmp_path, "train")
    sentences = [{"raw": "kidney", "sent": "x"}, {"sent": "the left one"}]
    annotations = [
        {"mask_file": "3_CT_abdomen_left+kidney.png", "image_id": 7,
         "sentences": sentences},
        {"mask_file": "odd.png", "file_name": "2_T1_brain.png",
         "sentences": sentences[:1]},
    ]  # fmt: skip
    put(folder / "train_mask" / "odd.png", MASK)
    images = [{"id": 7, "file_name": "3_CT_abdomen.png"}]
    content = {"images": images, "annotations": annotations}
    (folder / "train.json").write_text(json.dumps(content))
    odd, known = read_processed(folder)
    assert (known.path.name, known.group) == ("3_CT_abdomen.png", "CT, abdomen")
    assert known.masks[0].target == "left kidney"
    assert known.masks[0].sentences == ("kidney", "the left one")
    assert (odd.path.name, odd.modality, odd.group) == ("2_T1_brain.png", "", "kidney")
    assert odd.masks[0].target == "kidney"


@pytest.mark.parametrize("kind", ["grey", "blue", "opaque", "see-through"])
def test_a_mask_is_where_a_color_is_not_0(tmp_path: Path, kind: str) -> None:
    pixels = np.zeros((6, 5, 4), np.uint8)
    pixels[..., 2] = 9 * MASK
    pixels[..., 3] = 255 if kind == "opaque" else 10
    some = MASK if kind == "grey" else pixels[..., :3] if kind == "blue" else pixels
    folder = write(tmp_path, "test")
    put(folder / "test_mask" / "3_CT_abdomen_left+kidney.png", some)
    (mask,) = read_processed(folder, "test")[-1].masks
    np.testing.assert_array_equal(mask.read((6, 5)), MASK > 0)
    with pytest.raises(VolumeError, match=r"left\+kidney.png has the shape \(6, 5\)"):
        mask.read((5, 6))


def test_images_are_read_in_color_without_alpha(tmp_path: Path) -> None:
    folder = write(tmp_path)
    put(folder / "test" / "2_T1_brain.png", IMAGE[..., 0].copy())
    put(folder / "test" / "3_CT_abdomen.png", np.dstack([IMAGE, IMAGE[..., 0] // 2]))
    color, grey, with_alpha = (one.read() for one in read_processed(folder, "test"))
    np.testing.assert_array_equal(color, IMAGE)
    np.testing.assert_array_equal(grey, np.stack([IMAGE[..., 0]] * 3, axis=-1))
    np.testing.assert_array_equal(with_alpha, IMAGE)
    put(folder / "test" / "2_T1_brain.png", IMAGE[..., 0].astype(np.uint16))
    with pytest.raises(FormatError, match="uint16; 8-bit is required"):
        read_processed(folder, "test")[1].read()


def test_what_does_not_fit_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write(tmp_path)
    put(folder / "test" / "4_CT_chest.png", IMAGE)
    with caplog.at_level(logging.WARNING):
        assert len(read_processed(folder, "test")) == 3
    assert "1 images without masks are left out" in caplog.text
    (folder / "test" / "2_T1_brain.png").unlink()
    with pytest.raises(FormatError, match=r"lacks 1 images .* 2_T1_brain\.png"):
        read_processed(folder, "test")
    put(folder / "test" / "2_T1_brain.png", IMAGE)
    for name in ("noscore.png", "abdomen_liver.png", "1_CT_abdomen_.png"):
        put(folder / "test_mask" / name, MASK)
        with pytest.raises(FormatError, match=f"{name} is not named NAME_MODALITY"):
            read_processed(folder, "test")
        (folder / "test_mask" / name).unlink()
    for path in (folder / "test_mask").iterdir():
        path.unlink()
    with pytest.raises(FormatError, match="test_mask lists no masks"):
        read_processed(folder, "test")


def test_each_mask_is_a_pair_with_its_image(tmp_path: Path) -> None:
    folder = write(write(tmp_path), "train")
    pairs = processed_pairs(folder, None)
    assert [pair.name for pair in pairs] == [
        "1_a_MRI-FLAIR_brain_edema", "1_a_MRI-FLAIR_brain_tumor+core",
        "2_T1_brain_edema", "3_CT_abdomen_left+kidney",
    ]  # fmt: skip
    image = folder / "test" / "3_CT_abdomen.png"
    mask = folder / "test_mask" / "3_CT_abdomen_left+kidney.png"
    prompt = "left kidney in abdomen CT"
    assert pairs[3] == Pair(pairs[3].name, image, mask, prompt=prompt)
    assert processed_pairs(str(folder / "test"), str(folder / "test_mask")) == pairs
    train = processed_pairs(folder / "train", None)
    assert train == processed_pairs(folder, folder / "train_mask")
    assert {pair.image.parent.name for pair in train} == {"train"}
    (tmp_path / "found").mkdir()
    put(tmp_path / "found" / mask.name, MASK)
    predicted = processed_pairs(folder, None, tmp_path / "found")
    assert predicted[3].prediction == tmp_path / "found" / mask.name
    assert [pair.missing for pair in predicted] == ["predictions"] * 3 + [""]


def test_other_folders_have_no_such_pairs(tmp_path: Path) -> None:
    folder = write(tmp_path)
    assert processed_pairs(folder / "test_mask", None) == ()
    assert processed_pairs(folder, tmp_path / "labels") == ()
    assert processed_pairs([folder], None) == ()
