"""BiomedParse v1 by all doors: images in colour or grey, and slices by themselves."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import dask.array as da
import nibabel
import numpy as np
import pytest
import tifffile
import torch
from golden_v1 import enlarged, prepared
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import beta, kstest
from tiny_v1 import tiny_v1
from typer.testing import CliRunner

from napari_biomedparse import (
    reproduce,
    segment,
    segment_files,
    segment_to_folder,
)
from napari_biomedparse.cli import _show, app
from napari_biomedparse.data.options import SegmentOptions
from napari_biomedparse.engine.engine import Engine
from napari_biomedparse.errors import Cancelled, OptionError
from napari_biomedparse.labels.likeness import combine_masks
from napari_biomedparse.labels.watershed import split_by_shape
from napari_biomedparse.networks.checkpoint import save_weights
from napari_biomedparse.networks.v1.biomedparse import BiomedParseV1
from napari_biomedparse.networks.v2.biomedparse import BiomedParse
from napari_biomedparse.networks.weights import load_model
from napari_biomedparse.report.run_page import report_run

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
    return probabilities(model, image, PROMPTS) > 0.5


def probabilities(
    model: BiomedParseV1, image: NDArray[np.uint8], prompts: list[str]
) -> NDArray[np.float32]:
    """Probabilities [P, Y, X] as the original makes them of an image in colour."""
    squares = prepared(image, model.image_size)
    tokens = Engine(model).encode_prompts(prompts)
    with torch.inference_mode():
        features = model.encode_image(squares)
        found = model.decode(features, tokens, lambda call, keys: torch.empty(0))
    return enlarged(found.mask_logits[0], image.shape[:2])


def separate(image: Any, model: Any, **options: Any) -> NDArray[np.bool_]:
    found = segment(image, PROMPTS, model, overlaps="separate", **options)
    assert np.isnan(found.existence).all()  # the prompts name no kind of image
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


SHAPE = {"instances": True, "separate_by": "shape"}


def test_objects_are_separated_by_shape_by_all_doors(
    model: BiomedParseV1, file: str, tmp_path: Path
) -> None:
    volume = random_image(5, 40, 50)
    path = tmp_path / "grey.tif"
    tifffile.imwrite(path, volume, metadata={"axes": "ZYX"})
    found = segment(volume, PROMPTS, model, axis="z", minimum_size=3, **SHAPE)
    expected, last = np.zeros(volume.shape, int), 0
    for plane, labels in zip(expected, found.labels, strict=True):
        for label in (1, 2):
            own = split_by_shape(labels == label, 3)
            plane[own > 0] = own[own > 0] + last
            last += own.max()
    assert found.instances is not None and last > 6
    np.testing.assert_array_equal(found.instances, expected)
    assert found.parameters["separate_by"] == "shape"
    owners = found.owners
    assert owners is not None and np.isnan(owners.scores[1:]).all()
    inside = expected > 0
    np.testing.assert_array_equal(owners.labels[expected[inside]], found.labels[inside])
    lazy = da.from_array(volume, chunks=(2, 40, 50))
    far = segment(lazy, PROMPTS, model, axis="z", minimum_size=3, **SHAPE)
    np.testing.assert_array_equal(np.asarray(far.instances), expected)
    chosen = {"axis": "z", "minimum_size": 3, **SHAPE}
    run = segment_to_folder(path, PROMPTS, tmp_path / "run", file, **chosen)
    np.testing.assert_array_equal(np.asarray(run.instances), expected)
    assert run.manifest.owners == owners.describe()
    again, differences = reproduce(tmp_path / "run", tmp_path / "again")
    assert differences == []
    np.testing.assert_array_equal(np.asarray(again.instances), expected)
    out = tmp_path / "objects.tif"
    asked = ["segment", str(path), "-m", file, "--axis=z", "-o", str(out)]
    asked += [f"--prompt={text}" for text in PROMPTS]
    asked += ["--instances", "--separate-by=shape", "--minimum-size=3"]
    told = CliRunner().invoke(app, asked)
    assert told.exit_code == 0, told.output
    np.testing.assert_array_equal(tifffile.imread(out), expected)


def test_of_an_image_and_of_separate_labels_too(model: BiomedParseV1) -> None:
    image = random_image(60, 70, 3)
    found = segment(image, PROMPTS, model, overlaps="separate", **SHAPE)
    assert found.instances is not None
    for instances, labels in zip(found.instances, found.labels, strict=True):
        own, first = split_by_shape(labels > 0), instances[instances > 0].min()
        np.testing.assert_array_equal(instances > 0, own > 0)
        np.testing.assert_array_equal(instances[own > 0], own[own > 0] + first - 1)
    assert len(np.unique(found.instances)) == found.instances.max() + 1


def test_a_consensus_has_no_objects_by_shape(tiny_model: BiomedParse) -> None:
    grey = random_image(4, 30, 40)
    flat = segment(grey[0], PROMPTS, tiny_model, existence_threshold=0, **SHAPE)
    assert flat.labels.any() and flat.instances is not None
    owners = flat.owners
    assert owners is not None and (owners.labels[1:] > 0).all()  # edges take nothing
    with pytest.raises(OptionError, match="separate_by"):
        segment(grey, PROMPTS, tiny_model, consensus=True, **SHAPE)


def test_confident_masks_are_combined_as_published(
    model: BiomedParseV1, file: str, tmp_path: Path
) -> None:
    image, prompts = random_image(60, 70, 3), [*PROMPTS, "a third", "a fourth"]
    engine = Engine(model)
    with torch.inference_mode():
        found = model.decode(
            model.encode_image(prepared(image, model.image_size)),
            engine.encode_prompts(prompts),
            lambda call, keys: torch.empty(0),
        )
    probabilities = enlarged(found.mask_logits[0], image.shape[:2])
    kept, masks = combine_masks(probabilities)
    expected = np.zeros(image.shape[:2], int)
    for index, mask in zip(kept, masks, strict=True):
        expected[mask] = index + 1
    assert 0 < len(kept) < len(prompts)
    labels = segment(image, prompts, model, overlaps="confident").labels
    np.testing.assert_array_equal(np.squeeze(labels), expected)
    Image.fromarray(image).save(tmp_path / "a.png")
    png = tmp_path / "a.png"
    segment_to_folder(png, prompts, tmp_path / "run", file, overlaps="confident")
    again, differences = reproduce(tmp_path / "run", tmp_path / "again")
    assert differences == []
    assert again.manifest.options.overlaps == "confident"
    np.testing.assert_array_equal(np.squeeze(np.asarray(again.labels)), expected)
    out = tmp_path / "labels.tif"
    asked = [f"--prompt={text}" for text in prompts]
    asked += ["-m", file, "--overlaps=confident", "-o", str(out)]
    told = CliRunner().invoke(app, ["segment", str(png), *asked])
    assert told.exit_code == 0, told.output
    np.testing.assert_array_equal(tifffile.imread(out), expected)


NAMED = ["cell in dish EM", "dot", "Glass in a dish of EM"]
OWN = {"EM-Dish": {"glass": [[3, 2], [1, 1], [2, 2], [1, 2]], "cell": [[1, 1]] * 4}}
"""Prompts, and a table that has the first and the last."""


@pytest.fixture
def table(tmp_path: Path) -> str:
    path = tmp_path / "own.json"
    path.write_text(json.dumps(OWN))
    return str(path)


def expected_p(model: BiomedParseV1, image: NDArray[np.uint8]) -> list[float]:
    """P of each of `NAMED`, from section 8 of the architecture description."""
    found = []
    for text, mask in zip(NAMED, probabilities(model, image, NAMED), strict=True):
        pairs = {NAMED[0]: OWN["EM-Dish"]["cell"], NAMED[2]: OWN["EM-Dish"]["glass"]}
        inside = np.float64(mask) * 255 >= 128
        numbers = [mask[inside].mean(dtype=float) * 255, *image[inside].mean(axis=0)]
        p = [
            kstest([number / 256], beta(*pair).cdf).pvalue
            for number, pair in zip(numbers, pairs.get(text, ()), strict=False)
        ]
        found.append(np.prod(p) ** 0.25 if p else np.nan)
    return found


def test_the_score_of_an_image_is_p(model: BiomedParseV1, table: str) -> None:
    image = random_image(50, 70, 3)
    found = segment(image, NAMED, model, table=table)
    expected = expected_p(model, image)
    assert 0.05 < min(expected[0], expected[2]) < 0.99
    assert found.p_values is found.existence
    np.testing.assert_allclose(found.existence[:, 0], expected, rtol=1e-5)
    described = found.parameters["p_values"]
    assert described["2"] is None
    assert described["3"]["kind"], described["3"]["target"] == ("EM-Dish", "glass")
    assert described["3"]["pairs"] == OWN["EM-Dish"]["glass"]
    assert segment(image, "cell", "tiny").p_values is None


def test_masks_below_the_threshold_are_dropped_in_their_slice(
    model: BiomedParseV1, table: str
) -> None:
    volume = random_image(4, 40, 50)
    volume[1] //= 3
    volume[3] //= 9
    found = segment(volume, NAMED, model, table=table, axis=0, overlaps="separate")
    for index, plane in enumerate(volume):
        colours = np.repeat(plane[..., None], 3, axis=-1)
        p = found.existence[:, index]
        np.testing.assert_allclose(p, expected_p(model, colours), rtol=1e-5)
    threshold = float(np.sort(found.existence[0])[2])
    again = segment(
        volume, NAMED, model, table=table, axis=0, overlaps="separate",
        p_threshold=threshold,
    )  # fmt: skip
    np.testing.assert_array_equal(again.existence, found.existence)
    stays = ~(found.existence < threshold)
    assert stays[0].sum() == 2  # one of them has just this p
    assert stays[1].all()  # without a table
    np.testing.assert_array_equal(again.labels, found.labels * stays[..., None, None])


def test_p_of_slices_that_the_network_sees_turned(
    model: BiomedParseV1, table: str, tmp_path: Path
) -> None:
    volume = random_image(3, 40, 50)
    volume[:, :20] //= 3
    path = tmp_path / "a.nii"
    nibabel.save(nibabel.Nifti1Image(volume.T, np.eye(4)), path)
    found = segment(path, NAMED, model, table=table, axis="z")
    assert found.parameters["turned"] == "x downwards, y to the right"
    for index, plane in enumerate(volume):
        colours = np.repeat(plane.T[..., None], 3, axis=-1)
        p = found.existence[:, index]
        np.testing.assert_allclose(p, expected_p(model, colours), rtol=1e-5)


@pytest.mark.parametrize("tile", ["none", 32])
def test_a_single_prompt_may_have_just_the_threshold(
    model: BiomedParseV1, table: str, tile: Any
) -> None:
    image = random_image(50, 70, 3)
    options = SegmentOptions(table=table, tile=tile)
    found = segment(image, NAMED[0], model, options)
    p = float(found.existence[0, 0])
    assert 0 < p < 1
    for threshold, stays in ((p, True), (np.nextafter(np.float32(p), 2), False)):
        again = segment(
            image, NAMED[0], model, options, p_threshold=float(threshold)
        ).labels
        np.testing.assert_array_equal(again, found.labels * stays)


def test_a_mask_whose_p_is_0_stays_unless_a_threshold_is_given(
    model: BiomedParseV1, tmp_path: Path
) -> None:
    image = random_image(50, 70, 3)
    path = tmp_path / "far.json"
    path.write_text(json.dumps({"EM": {"cell": [[1, 1e9]] * 4}}))
    found = segment(image, "cell in EM", model, table=str(path))
    assert found.existence.tolist() == [[0.0]]
    assert found.labels.any()
    given = segment(image, "cell in EM", model, table=str(path), p_threshold=1e-3)
    assert not given.labels.any()


def test_p_stands_in_run_folders_their_page_and_the_table_of_many(
    model: BiomedParseV1, file: str, table: str, tmp_path: Path
) -> None:
    volume, path = random_image(5, 40, 50), tmp_path / "grey.tif"
    tifffile.imwrite(path, volume, metadata={"axes": "ZYX"})
    expected = segment(path, NAMED, model, axis="z", table=table, p_threshold=0.1)
    options = SegmentOptions(axis="z", table=table, p_threshold=0.1)
    folder = tmp_path / "run"
    with pytest.raises(Cancelled):
        segment_to_folder(path, NAMED, folder, file, options, stopped=lambda: True)
    run = segment_to_folder(path, NAMED, folder, file, options)
    np.testing.assert_array_equal(np.asarray(run.labels), expected.labels)
    np.testing.assert_array_equal(run.existence, expected.existence)
    assert run.p_values is not None
    record = (folder / "manifest.json").read_text()
    assert "NaN" not in record
    assert json.loads(record)["blocks"][0]["existence"][1] == [None] * 5
    assert reproduce(folder, tmp_path / "again")[1] == []
    page = report_run(folder).read_text(encoding="utf-8")
    assert "best p (slice)" in page and "no table for this target" in page
    assert "xistence (" not in page and "nan" not in page.split("<h2>Pictures")[0]
    assert "<h2>Scores p</h2>" in page
    out = tmp_path / "many"
    segment_files([path], out, NAMED, file, options)
    with (out / "summary.csv").open(encoding="utf-8", newline="") as summary:
        rows = list(csv.DictReader(summary))
    assert [row["p"] for row in rows] == [
        f"{expected.existence[0].max():.3f}",
        "no table for this target",
        f"{expected.existence[2].max():.3f}",
    ]


@pytest.fixture
def wide_output(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_show.out, "width", 200)


@pytest.mark.usefixtures("wide_output")
def test_the_command_line_shows_p(file: str, table: str, tmp_path: Path) -> None:
    image, path = random_image(50, 70, 3), tmp_path / "in.png"
    Image.fromarray(image).save(path)
    model = load_model(file)
    expected = segment(image, NAMED, model, table=table).existence[0, 0]
    asked = [f"--prompt={text}" for text in NAMED]
    asked = ["segment", str(path), "-m", file, "--device=cpu", *asked]
    told = CliRunner().invoke(
        app,
        [*asked, "-o", str(tmp_path / "a.tif"), "--table", table],
    )
    assert told.exit_code == 0, told.output
    assert "existence" not in told.output and "nan" not in told.output
    assert f"{expected:.3f} (slice 0)" in told.output
    assert "no table for this target" in told.output
    told = CliRunner().invoke(
        app,
        [*asked, "-o", str(tmp_path / "b.tif"), "--kind", "EM-Disk", "--table", table],
    )
    assert told.exit_code != 0
    assert "EM-Disk" in told.output and "choose one of EM-Dish" in told.output


@pytest.mark.usefixtures("wide_output")
def test_series_and_consensus_have_p(
    model: BiomedParseV1, file: str, table: str, tmp_path: Path
) -> None:
    path = tmp_path / "cube.tif"
    cube = random_image(6, 6, 6)
    tifffile.imwrite(path, cube, metadata={"axes": "ZYX"})
    found = segment(cube, NAMED, model, table=table, consensus=True)
    assert found.p_values is not None
    assert np.isnan(found.existence[1]).all() and (found.existence[0] > 0).any()
    series = tmp_path / "film.tif"
    film = random_image(2, 3, 30, 40)
    tifffile.imwrite(series, film, photometric="minisblack", metadata={"axes": "TZYX"})
    for volume, column, more in (
        (path, "p along z", ["--consensus"]),
        (series, "best p", []),
    ):
        asked = ["segment", str(volume), "-m", file, "--device=cpu", *more]
        asked += [f"--prompt={text}" for text in NAMED]
        told = CliRunner().invoke(
            app,
            [
                *asked,
                "-o",
                str(tmp_path / f"{volume.stem}_labels.tif"),
                "--table",
                table,
            ],
        )
        assert told.exit_code == 0, told.output
        assert column in told.output and "nan" not in told.output
        assert "no table for this target" in told.output
