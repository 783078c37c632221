"""The command `report`: a page, or one line that says why not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile
from typer.testing import CliRunner

from napari_biomedparse.cli import app
from napari_biomedparse.runs.run import segment_to_folder


def test_a_page_is_written(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 255, (3, 40, 40), np.uint8)
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, image, photometric="minisblack", metadata={"axes": "ZYX"})
    segment_to_folder(path, ["bright"], tmp_path / "run", "tiny", device="cpu")
    done = CliRunner().invoke(app, ["report", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "run" / "report.html").stat().st_size > 1000
    path.unlink()
    done = CliRunner().invoke(app, ["report", str(tmp_path / "run")])
    assert done.exit_code == 1 and "stack.tif" in done.output
