"""What is copied, run as it is: the same labels as from Python, to the bit."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

from napari_biomedparse.cli import app
from napari_biomedparse.data.options import SegmentOptions
from napari_biomedparse.data.prompts import parse_prompts
from napari_biomedparse.errors import OptionError
from napari_biomedparse.io import open_file
from napari_biomedparse.pipeline.segment import segment
from napari_biomedparse.runs.folder import Run
from napari_biomedparse.runs.recipe import Recipe, as_command, as_python

TEXTS = ["the cell's nuclei", "mitochondria in electron microscopy"]
PROMPTS = parse_prompts(TEXTS)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path: Path, shape: tuple[int, ...], axes: str) -> Any:
    grey = np.random.default_rng(2).integers(0, 255, shape, dtype=np.uint8)
    tifffile.imwrite(path, grey, metadata={"axes": axes}, ome=True)
    return grey


def run_command(text: str) -> None:
    program, *words = shlex.split(text)
    assert program == "napari-biomedparse"
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output


def run_python(text: str) -> Any:
    names: dict[str, Any] = {}
    exec(text, names)
    return np.asarray(names["labels"])


def labels_in(path: Path) -> Any:
    (labels,) = open_file(path).labels
    return np.asarray(labels.volume.data)


@pytest.mark.parametrize("instances", [False, True])
def test_volume_with_options(here: Path, tiny_model: Any, instances: bool) -> None:
    grey = write(here / "a b.ome.tif", (6, 40, 50), "ZYX")
    options = SegmentOptions(
        axis="y",
        slices=(3, 20),
        tile=32,
        seed=4,
        existence_threshold=0.4,
        region="x=5:45,y=2:38",
        overlaps="order",
        minimum_size=2,
        edge_threshold=0.55,
    )
    prompts = parse_prompts({1: TEXTS[0], 2: TEXTS[1], "instance_label": instances})
    recipe = Recipe(here / "a b.ome.tif", prompts, options, "tiny", device="cpu")
    expected = segment(grey, TEXTS, tiny_model, options, instances=instances)
    wanted = expected.instances if instances else expected.labels
    assert wanted.any()
    run_command(as_command(recipe))
    np.testing.assert_array_equal(labels_in(here / "a b_labels.ome.zarr"), wanted)
    np.testing.assert_array_equal(run_python(as_python(recipe)), wanted)


def test_series_with_channels(here: Path, tiny_model: Any) -> None:
    path = here / "movie.ome.tif"
    grey = write(path, (3, 4, 2, 40, 50), "TZCYX")
    options = SegmentOptions(slices=(1, 3))
    series = np.moveaxis(grey, 2, 1)
    expected = segment(series, TEXTS, tiny_model, options, channel=1)
    assert expected.labels.any()
    whole = Recipe(path, PROMPTS, options, "tiny", device="cpu", channel=1, series=True)
    run_command(as_command(whole))
    np.testing.assert_array_equal(
        labels_in(here / "movie_labels.ome.zarr"), expected.labels
    )
    np.testing.assert_array_equal(run_python(as_python(whole)), expected.labels)
    one = Recipe(path, PROMPTS, options, "tiny", device="cpu", channel=1, time=2)
    np.testing.assert_array_equal(run_python(as_python(one)), expected.labels[2])
    assert "--time 2" in as_command(one)


def test_consensus(here: Path, tiny_model: Any) -> None:
    grey = write(here / "cube.ome.tif", (20, 30, 25), "ZYX")
    expected = segment(grey, TEXTS, tiny_model, consensus=True).labels
    assert expected.any()
    recipe = Recipe(
        here / "cube.ome.tif",
        PROMPTS,
        SegmentOptions(),
        "tiny",
        device="cpu",
        consensus=True,
    )
    run_command(as_command(recipe))
    np.testing.assert_array_equal(labels_in(here / "cube_labels.ome.zarr"), expected)
    np.testing.assert_array_equal(run_python(as_python(recipe)), expected)


def test_run_folder(here: Path, tiny_model: Any) -> None:
    grey = write(here / "big.ome.tif", (6, 40, 50), "ZYX")
    expected = segment(grey, TEXTS, tiny_model).labels
    recipe = Recipe(
        here / "big.ome.tif",
        PROMPTS,
        SegmentOptions(),
        "tiny",
        device="cpu",
        folder=here / "run",
    )
    run_command(as_command(recipe))
    np.testing.assert_array_equal(np.asarray(Run(here / "run").labels), expected)
    # The script finds the finished run: the same source, prompts and parameters.
    finished = Run(here / "run").manifest.finished
    np.testing.assert_array_equal(run_python(as_python(recipe)), expected)
    assert Run(here / "run").manifest.finished == finished


def test_label_ids_that_a_command_cannot_say(here: Path, tiny_model: Any) -> None:
    grey = write(here / "a.ome.tif", (4, 40, 50), "ZYX")
    prompts = parse_prompts({3: TEXTS[0], 8: TEXTS[1]})
    recipe = Recipe(here / "a.ome.tif", prompts, SegmentOptions(), "tiny", device="cpu")
    with pytest.raises(OptionError, match="3, 8"):
        as_command(recipe)
    expected = segment(grey, prompts, tiny_model).labels
    assert 8 in expected
    np.testing.assert_array_equal(run_python(as_python(recipe)), expected)


def test_a_scheduler_is_named(here: Path) -> None:
    recipe = Recipe(
        here / "a.zarr",
        PROMPTS,
        SegmentOptions(),
        "tiny",
        folder=here / "run",
        scheduler="tcp://server:8786",
    )
    assert "--scheduler tcp://server:8786" in as_command(recipe)
    assert "scheduler='tcp://server:8786'" in as_python(recipe)


def test_an_order_of_prompts_can_be_said_in_python_only(
    here: Path, tiny_model: Any
) -> None:
    grey = write(here / "a.ome.tif", (3, 40, 50), "ZYX")
    prompts = parse_prompts({2: TEXTS[1], 1: TEXTS[0]})
    options = SegmentOptions(overlaps="order")
    recipe = Recipe(here / "a.ome.tif", prompts, options, "tiny", device="cpu")
    with pytest.raises(OptionError, match=r"order \[2, 1\].*copy the run as Python"):
        as_command(recipe)
    expected = segment(grey, prompts, tiny_model, options).labels
    np.testing.assert_array_equal(run_python(as_python(recipe)), expected)
    assert "-p" in as_command(replace(recipe, options=SegmentOptions()))
