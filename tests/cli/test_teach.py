"""The command `teach`, and its file as a model of the others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile
from typer.testing import CliRunner

from napari_biomedparse.cli import app


def run(*arguments: str | Path) -> str:
    done = CliRunner().invoke(app, list(map(str, arguments)))
    assert done.exit_code == 0, done.output
    return done.output


def test_a_corrected_slice_becomes_a_model(tmp_path: Path) -> None:
    image, labels = tmp_path / "image.tif", tmp_path / "labels.tif"
    bright = np.zeros((4, 64, 64), np.uint8)
    bright[:, 20:30, 12:40] = 1
    for path, values in ((image, 40 + 150 * bright), (labels, bright)):
        tifffile.imwrite(
            path, values, photometric="minisblack", metadata={"axes": "ZYX"}
        )
    out = tmp_path / "bright.taught.safetensors"
    given = image, labels, "-p", "bright bars", "-m", "tiny", "--corrected", "1,2"
    shown = run("teach", *given, "-o", out)
    assert "2 corrected slices of image" in shown
    assert "taught" in shown
    run("segment", image, "-p", "bright bars", "-m", out, "-o", tmp_path / "found.tif")
    found = tifffile.imread(tmp_path / "found.tif") > 0
    assert (found == (bright > 0)).mean() > 0.97
    again = tmp_path / "again.tif"
    run("segment", image, "-p", "bright bars", "--taught", out, "-o", again)
    assert again.read_bytes() == (tmp_path / "found.tif").read_bytes()
    refused = CliRunner().invoke(app, ["teach", *map(str, given), "-o", str(out)])
    assert refused.exit_code == 1
    assert "exists" in refused.output
    refused = CliRunner().invoke(
        app,
        [
            "teach",
            *map(str, given[:-1]),
            "one",
            "-o",
            str(tmp_path / "a.taught.safetensors"),
        ],
    )
    assert "'one' is not a list of slices" in refused.output
