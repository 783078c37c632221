"""v2's 2-D mode beside the plain formulas, and which mode is meant."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_v1 import tiny_v1
from torch.nn import functional as F

from napari_biomedparse import reproduce, segment, segment_to_folder
from napari_biomedparse.engine.engine import Engine
from napari_biomedparse.errors import OptionError
from napari_biomedparse.networks.v2.biomedparse import BiomedParse
from napari_biomedparse.runs.manifest import read_manifest

PROMPTS = ["bright things", "a dark thing that has a long name"]
LOW = {"existence_threshold": 0.0, "overlaps": "separate"}


def image(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def plain(model: BiomedParse, picture: np.ndarray) -> np.ndarray:
    """Masks [P, Y, X] of an image in color, by the formulas of the specification."""
    height, width, _ = picture.shape
    edge, size = max(height, width), model.image_size
    top, left = (edge - height) // 2, (edge - width) // 2
    square = np.zeros((3, edge, edge), np.float32)
    square[:, top : top + height, left : left + width] = np.moveaxis(picture, -1, 0)
    seen = F.interpolate(torch.from_numpy(square)[None], size, mode="bicubic")
    engine = Engine(model, device="cpu")
    found = engine.predict(seen, engine.encode_prompts(PROMPTS))
    masks = F.interpolate(found.mask_logits, edge, mode="bicubic", antialias=True)[0]
    there = found.existence[0] > 0
    return ((masks > 0) & there[:, None, None]).numpy()[
        :, top : top + height, left : left + width
    ]


@pytest.mark.parametrize("shape", [(90, 70), (50, 64), (40, 30)])
def test_an_image_in_color_is_read_by_the_published_rules(
    tiny_model: BiomedParse, shape: tuple[int, int]
) -> None:
    picture = image(*shape, 3)
    expected = plain(tiny_model, picture)
    found = segment(picture, PROMPTS, tiny_model, device="cpu", overlaps="separate")
    np.testing.assert_array_equal(found.labels.reshape(expected.shape) > 0, expected)
    assert expected.any()
    other = segment(picture, PROMPTS, tiny_model, device="cpu", mode="3d", **LOW)
    same_grid = max(shape) == tiny_model.image_size  # then nothing is resized
    assert (other.labels != found.labels).any() != same_grid


def test_slices_of_a_volume_are_images_on_request(tiny_model: BiomedParse) -> None:
    volume = image(4, 90, 70)
    found = segment(volume, PROMPTS, tiny_model, device="cpu", mode="2d", **LOW)
    grey = segment(volume[2], PROMPTS, tiny_model, device="cpu", **LOW)
    np.testing.assert_array_equal(found.labels[:, 2], grey.labels.reshape(2, 90, 70))
    color = np.repeat(volume[2][..., None], 3, axis=-1)
    same = segment(color, PROMPTS, tiny_model, device="cpu", **LOW)
    np.testing.assert_array_equal(same.labels, grey.labels)
    usual = segment(volume, PROMPTS, tiny_model, device="cpu", **LOW)
    context = segment(volume, PROMPTS, tiny_model, device="cpu", mode="3d", **LOW)
    np.testing.assert_array_equal(usual.labels, context.labels)
    assert (usual.labels != found.labels).any()


def test_masks_of_images_may_overlap_and_are_not_suppressed(
    tiny_model: BiomedParse,
) -> None:
    picture = image(64, 64, 3)
    how = {"device": "cpu", "existence_threshold": 0.0}
    found = segment(picture, PROMPTS, tiny_model, **how, overlap_threshold=0.0)
    free = segment(picture, PROMPTS, tiny_model, **how, overlap_threshold=1.0)
    np.testing.assert_array_equal(found.labels, free.labels)


@pytest.mark.parametrize("tile", [32, 50])
def test_tiles_of_large_images(tiny_model: BiomedParse, tile: int) -> None:
    found = segment(
        image(130, 90, 3), PROMPTS, tiny_model, device="cpu", tile=tile, **LOW
    )
    assert found.labels.any() and found.labels.reshape(2, 130, 90).any((1, 2)).all()


def test_v1_knows_no_other_mode() -> None:
    with pytest.raises(OptionError, match="leave the mode at auto"):
        segment(image(64, 64, 3), PROMPTS, tiny_v1(), device="cpu", mode="3d")


def test_records_of_before_the_mode_mean_3d(tmp_path: Path) -> None:
    picture, run = image(64, 70, 3), tmp_path / "run"
    segment_to_folder(picture, PROMPTS, run, "tiny", device="cpu", mode="3d")
    path = run / "manifest.json"
    record = json.loads(path.read_text("utf-8"))
    del record["parameters"]["mode"]
    path.write_text(json.dumps(record))
    assert read_manifest(run).options.mode == "3d"
    again, differences = reproduce(run, tmp_path / "new", volume=picture)
    assert differences == [] and again.manifest.options.mode == "3d"
