"""BiomedParse v1 by all doors: images in colour or grey, and slices by themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from golden_v1 import enlarged, prepared
from numpy.typing import NDArray
from PIL import Image
from tiny_v1 import tiny_v1
from typer.testing import CliRunner

from napari_biomedparse import segment, segment_to_folder
from napari_biomedparse.cli import app
from napari_biomedparse.engine.engine import Engine
from napari_biomedparse.networks.checkpoint import save_weights
from napari_biomedparse.networks.v1.biomedparse import BiomedParseV1
from napari_biomedparse.networks.weights import load_model

PROMPTS = ["bright things", "a dark thing"]


@pytest.fixture(scope="module")
def model() -> BiomedParseV1:
    return tiny_v1()


@pytest.fixture
def file(model: BiomedParseV1, tmp_path: Path) -> str:
    path = tmp_path / "tiny_v1.safetensors"
    save_weights(path, model.state_dict(), config=model.config)
    return str(path)


def random_image(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def plain(model: BiomedParseV1, image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Masks [P, Y, X] as the original makes them of an image in colour."""
    squares = prepared(image, model.image_size)
    tokens = Engine(model).encode_prompts(PROMPTS)
    with torch.inference_mode():
        features = model.encode_image(squares)
        found = model.decode(features, tokens, lambda call, keys: torch.empty(0))
    return enlarged(found.mask_logits[0], image.shape[:2]) > 0.5


def separate(image: Any, model: Any, **options: Any) -> NDArray[np.bool_]:
    found = segment(image, PROMPTS, model, overlaps="separate", **options)
    assert (found.existence[np.isfinite(found.existence)] == 1).all()
    return np.squeeze(found.labels) > 0


@pytest.mark.parametrize("shape", [(64, 64, 3), (90, 41, 3), (30, 50, 3)])
def test_masks_are_those_of_the_original(
    model: BiomedParseV1, shape: tuple[int, ...]
) -> None:
    image = random_image(*shape)
    expected = plain(model, image)
    assert 0.01 < expected.mean() < 0.99
    np.testing.assert_array_equal(separate(image, model), expected)


def test_a_slice_of_a_volume_is_an_image_in_grey(model: BiomedParseV1) -> None:
    volume = random_image(5, 40, 50)
    found = separate(volume, model, axis=0)
    for index, plane in enumerate(volume):
        colours = np.repeat(plane[..., None], 3, axis=-1)
        np.testing.assert_array_equal(found[:, index], plain(model, colours))
    np.testing.assert_array_equal(
        separate(volume, model, axis=0, slices=(2, 4))[:, 2:4], found[:, 2:4]
    )


def test_prompts_by_themselves_do_not_depend_on_others(model: BiomedParseV1) -> None:
    image = random_image(64, 64, 3)
    apart = separate(image, model, prompts_apart=True)
    for index, prompt in enumerate(PROMPTS):
        alone = segment(image, [prompt], model)
        np.testing.assert_array_equal(apart[index], np.squeeze(alone.labels) > 0)
    assert (apart != separate(image, model)).any()


def test_of_two_masks_the_more_probable_wins_and_none_is_suppressed(
    model: BiomedParseV1,
) -> None:
    image = random_image(64, 64, 3)
    claimed = separate(image, model).any(axis=0)
    found = np.squeeze(segment(image, PROMPTS, model).labels)
    np.testing.assert_array_equal(found > 0, claimed)


def test_large_images_are_cut_into_tiles(model: BiomedParseV1) -> None:
    image = random_image(150, 230, 3)
    assert segment(image, PROMPTS, model, tile=64).labels.shape == (150, 230)


def test_run_folder_command_line_and_file_give_the_same_labels(
    model: BiomedParseV1, file: str, tmp_path: Path
) -> None:
    volume = random_image(5, 40, 50)
    path = tmp_path / "grey.tif"
    tifffile.imwrite(path, volume, metadata={"axes": "ZYX"})
    expected = segment(path, PROMPTS, model, axis="z").labels
    loaded = load_model(file)
    assert isinstance(loaded, BiomedParseV1)
    np.testing.assert_array_equal(
        segment(path, PROMPTS, loaded, axis="z").labels, expected
    )
    run = segment_to_folder(path, PROMPTS, tmp_path / "run", file, axis="z")
    np.testing.assert_array_equal(np.asarray(run.labels), expected)
    out = tmp_path / "labels.tif"
    asked = [f"--prompt={text}" for text in PROMPTS]
    told = CliRunner().invoke(
        app, ["segment", str(path), *asked, "-m", file, "--axis=z", "-o", str(out)]
    )
    assert told.exit_code == 0, told.output
    np.testing.assert_array_equal(tifffile.imread(out), expected)


def test_a_picture_is_segmented_as_its_pixels(
    model: BiomedParseV1, file: str, tmp_path: Path
) -> None:
    rgba, out = random_image(50, 70, 4), tmp_path / "labels.tif"
    Image.fromarray(rgba).save(tmp_path / "a.png")
    expected = segment(rgba[..., :3], PROMPTS, model).labels
    found = segment(tmp_path / "a.png", PROMPTS, model).labels
    np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))
    given = [part for text in PROMPTS for part in ("-p", text)]
    command = ["segment", str(tmp_path / "a.png"), *given, "-m", file, "-o", str(out)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    np.testing.assert_array_equal(tifffile.imread(out), np.squeeze(expected))
