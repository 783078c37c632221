"""Every script in `examples/` runs as it is."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import napari
import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image, ImageSequence
from skimage.io import imread
from tiny_v1 import tiny_v1
from typer.testing import CliRunner

import napari_biomedparse as nbp
from napari_biomedparse.cli import app
from napari_biomedparse.networks.checkpoint import save_weights
from napari_biomedparse.samples import make_phantom

if TYPE_CHECKING:
    from collections.abc import Callable

EXAMPLES = Path(__file__).parents[1] / "examples"
ANIMATION = EXAMPLES.parent / "docs" / "images" / "teach.gif"


def commands_of(heading: str) -> list[str]:
    """Return the blocks of commands of a chapter of the tutorial."""
    text = (EXAMPLES.parent / "docs" / "tutorial.md").read_text("utf-8")
    chapter = text.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return [block.partition("```")[0] for block in chapter.split("```bash\n")[1:]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """Run an example as a script, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(name: str, *arguments: object) -> None:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")

    return run


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    """A small OME-TIFF with voxels longer along Z."""
    path = tmp_path / "cells.ome.tif"
    size = {"PhysicalSizeZ": 0.05, "PhysicalSizeY": 0.01, "PhysicalSizeX": 0.01}
    image = make_phantom("em", 3, shape=(5, 64, 48)).image
    tifffile.imwrite(path, image, metadata={"axes": "ZYX", **size})
    return path


def test_segment_array(
    run: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    run("segment_array.py")
    assert [
        line.partition(":")[0] for line in capsys.readouterr().out.splitlines()
    ] == [
        "mitochondria in electron microscopy",
        "cell nucleus in electron microscopy",
    ]


def test_stream_to_zarr(
    run: Callable[..., None], cells: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("stream_to_zarr.py", cells, "labels.zarr", "nucleus")
    written = zarr.open_array("labels.zarr", mode="r")
    expected = nbp.segment(nbp.open_volume(cells), "nucleus", model="tiny")
    np.testing.assert_array_equal(written[...], np.asarray(expected.labels))
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_show_in_napari(
    run: Callable[..., None],
    cells: Path,
    make_napari_viewer: Callable[[], napari.Viewer],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    viewer = make_napari_viewer()
    monkeypatch.setattr(napari, "Viewer", lambda: viewer)
    monkeypatch.setattr(napari, "run", lambda: None)
    run("show_in_napari.py", cells, "nucleus", "membrane")
    image, labels = viewer.layers
    assert labels.name == "nucleus, membrane"
    assert labels.data.shape == image.data.shape == (5, 64, 48)
    np.testing.assert_array_equal(labels.scale, image.scale)
    np.testing.assert_allclose(image.scale, (0.05, 0.01, 0.01))


@pytest.mark.slow
@pytest.mark.usefixtures("qapp")
def test_readme_pictures(cells: Path, tmp_path: Path) -> None:
    script = [sys.executable, EXAMPLES / "readme_pictures.py", "--model", "tiny"]
    given = ["--volume", cells, "--slices", "1", "2", "--out", tmp_path / "pictures"]
    settings = {"NAPARI_CONFIG": str(tmp_path / "settings.yaml")}
    subprocess.run([*script, *given], check=True, env=os.environ | settings)
    before, after = sorted((tmp_path / "pictures").iterdir(), reverse=True)
    assert (before.name, after.name) == ("cells.ome_form.png", "cells.ome.png")
    assert not np.array_equal(imread(before), imread(after))


@pytest.mark.slow
@pytest.mark.usefixtures("qapp")
def test_readme_animation(tmp_path: Path) -> None:
    script = [sys.executable, EXAMPLES / "readme_pictures.py", "--animation"]
    settings = {"NAPARI_CONFIG": str(tmp_path / "settings.yaml")}
    subprocess.run([*script, "--out", tmp_path], check=True, env=os.environ | settings)
    before, after = frames(tmp_path / "teach.gif"), frames(ANIMATION)
    assert before.shape == after.shape


def test_the_animation_of_the_readme_is_short_and_moves() -> None:
    assert "(docs/images/teach.gif)" in (EXAMPLES.parent / "README.md").read_text()
    assert ANIMATION.stat().st_size < 1.2e6
    with Image.open(ANIMATION) as picture:
        shown = [one.info["duration"] for one in ImageSequence.Iterator(picture)]
        assert picture.width == 800
    assert 4000 <= sum(shown) <= 8000
    seen = frames(ANIMATION)
    assert all((one != two).any() for one, two in pairwise(seen))


def frames(path: Path) -> np.ndarray:
    """Return the frames of an animation, uint8 [T, Y, X, 3]."""
    with Image.open(path) as picture:
        return np.stack(
            [np.asarray(one.convert("RGB")) for one in ImageSequence.Iterator(picture)]
        )


def test_every_state_that_is_taken_is_in_the_docs() -> None:
    script = (EXAMPLES / "readme_pictures.py").read_text("utf-8")
    taken = set(re.findall(r'self\.take\("(\w+)"', script)) | {"settings"}
    docs = EXAMPLES.parent / "docs"
    shown = re.findall(
        r"images/widget_(\w+)\.png", (docs / "widget.md").read_text("utf-8")
    )
    assert sorted(shown) == sorted(taken)
    assert all((docs / "images" / f"widget_{name}.png").is_file() for name in shown)


@pytest.mark.slow
@pytest.mark.usefixtures("qapp")
def test_tutorial_pictures(tmp_path: Path) -> None:
    script = [sys.executable, EXAMPLES / "tutorial_pictures.py", "--epochs", "1"]
    given = ["--out", tmp_path / "pictures", "--files", tmp_path / "files"]
    (tmp_path / "files").mkdir()
    settings = {"NAPARI_CONFIG": str(tmp_path / "settings.yaml")}
    subprocess.run([*script, *given], check=True, env=os.environ | settings)
    taken = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    shown = (EXAMPLES.parent / "docs" / "tutorial.md").read_text("utf-8")
    assert len(taken) == 9 and all(f"(images/{name})" in shown for name in taken)
    rows = (tmp_path / "files" / "objects.csv").read_text("utf-8").splitlines()
    assert "sphericity" in rows[0] and len(rows) > 10
    made = {path.name for path in (tmp_path / "files").iterdir()}
    assert {"labels.zarr", "report.html", "training set", "tuned"} <= made
    assert {"mitochondria.taught.safetensors", "better.tif", "as_taught"} <= made


def test_every_example_is_tested_here() -> None:
    tested = Path(__file__).read_text("utf-8")
    assert all(f'"{path.name}"' in tested for path in EXAMPLES.glob("*.py"))


def test_the_commands_about_a_photograph_run_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (block,) = commands_of("A photograph: find, measure, recognise")
    commands = block.splitlines()
    assert len(commands) == 4
    model = tiny_v1()
    weights = tmp_path / "v1.safetensors"
    save_weights(weights, model.state_dict(), config=model.config)
    monkeypatch.chdir(tmp_path)
    for command in commands:
        program, *arguments = shlex.split(command)
        if program == "python":
            subprocess.run([sys.executable, *arguments], check=True)
            continue
        assert program == "napari-biomedparse"
        asked = [str(weights) if one == "v1" else one for one in arguments]
        told = CliRunner().invoke(app, asked)
        assert told.exit_code == 0, told.output
    written = {"colon.png", "cells.tif", "cells.csv", "found.tif", "found.csv"}
    assert written <= {path.name for path in tmp_path.iterdir()}


def test_the_commands_about_teaching_run_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, use = commands_of("Teach: correct one slice, watch the others")
    monkeypatch.chdir(tmp_path)
    program, *arguments = shlex.split(make)
    assert program == "python"
    subprocess.run([sys.executable, *arguments], check=True)
    truth = np.load("stack.npz")["gts"]
    corrected = [12, 16]  # as in the window
    prompt = "mitochondria in electron microscopy"
    taught = nbp.teach("stack.npz", truth, prompt, "demo", corrected=corrected)
    taught.save("mitochondria.taught.safetensors")
    for command in use.replace("\\\n", "").splitlines():
        program, *arguments = shlex.split(command)
        assert program == "napari-biomedparse"
        told = CliRunner().invoke(app, arguments)
        assert told.exit_code == 0, told.output
    true = np.load("other.npz")["gts"] > 0
    by_text = np.asarray(nbp.segment("other.npz", prompt, "demo").labels) > 0
    dice = [
        2 * (found & true).sum() / (found.sum() + true.sum())
        for found in (by_text, tifffile.imread("better.tif") > 0)
    ]
    np.testing.assert_allclose(dice, [0.81, 0.86], atol=0.02)  # what the chapter says


def test_the_pictures_of_the_tutorial_are_there() -> None:
    docs = EXAMPLES.parent / "docs"
    shown = re.findall(r"\((images/\w+\.png)\)", (docs / "tutorial.md").read_text())
    assert len(shown) == 12 and "images/photo_1_form.png" in shown
    assert all((docs / path).is_file() for path in shown)
