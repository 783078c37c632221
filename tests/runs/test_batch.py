"""Many files: one result each, a table, and failures that stop nothing."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from napari_biomedparse.errors import FormatError, OutputError
from napari_biomedparse.io.inputs import find_files, folder_names
from napari_biomedparse.networks.v2.biomedparse import BiomedParse
from napari_biomedparse.pipeline.segment import segment
from napari_biomedparse.runs.batch import SUMMARY, segment_files


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Three TIFFs, of which one is damaged, and a text."""
    folder = tmp_path / "scans"
    folder.mkdir()
    for name in ("a", "c"):
        grey = np.random.default_rng(ord(name)).integers(0, 255, (3, 30, 20), np.uint8)
        tifffile.imwrite(folder / f"{name}.tif", grey, photometric="minisblack")
    (folder / "b.tif").write_bytes(b"no TIFF at all")
    (folder / "readme.txt").write_text("hello")
    return folder


def test_a_failed_file_stops_nothing(
    scans: Path, tmp_path: Path, tiny_model: BiomedParse
) -> None:
    seen: list[str] = []
    outcomes = segment_files(
        [scans],
        tmp_path / "out",
        ["liver", "cell"],
        tiny_model,
        on_file=lambda file, number, count: seen.append(
            f"{number}/{count} {file.name}"
        ),
    )
    assert seen == ["0/3 a.tif", "1/3 b.tif", "2/3 c.tif"]
    assert [o.status for o in outcomes] == ["done", "failed", "done"]
    assert "b.tif" in outcomes[1].error
    last = outcomes[2].run
    assert last is not None
    expected = segment(tifffile.imread(scans / "c.tif"), ["liver", "cell"], tiny_model)
    np.testing.assert_array_equal(np.asarray(last.labels), expected.labels)
    with (tmp_path / "out" / SUMMARY).open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(Path(x["file"]).name, x["status"], x["prompt"]) for x in lines] == [
        ("a.tif", "done", "liver"),
        ("a.tif", "done", "cell"),
        ("b.tif", "failed", ""),
        ("c.tif", "done", "liver"),
        ("c.tif", "done", "cell"),
    ]
    assert int(lines[3]["voxels"]) == (expected.labels == 1).sum()
    assert float(lines[4]["existence"]) == pytest.approx(
        expected.existence[1].max(), abs=1e-3
    )


def test_continue_skips_what_is_finished(
    scans: Path, tmp_path: Path, tiny_model: BiomedParse
) -> None:
    out = tmp_path / "out"
    segment_files([scans / "a.tif"], out, "liver", tiny_model)
    with pytest.raises(OutputError, match=r"1 of 2 results exist.*--continue"):
        segment_files([scans / "[ac].tif"], out, "liver", tiny_model)
    outcomes = segment_files(
        [scans / "[ac].tif"], out, "liver", tiny_model, continue_=True
    )
    assert [o.status for o in outcomes] == ["skipped", "done"]
    (other,) = segment_files(
        [scans / "a.tif"], out, "kidney", tiny_model, continue_=True
    )
    assert other.status == "failed"
    assert "'liver' and is 'kidney'" in other.error


def test_prompts_must_come_from_somewhere(
    scans: Path, tmp_path: Path, tiny_model: BiomedParse
) -> None:
    (outcome,) = segment_files([scans / "a.tif"], tmp_path / "o", model=tiny_model)
    assert "holds no prompts" in outcome.error


def test_inputs(scans: Path) -> None:
    files = find_files([scans / "c.tif", scans])
    assert [file.name for file in files] == ["c.tif", "a.tif", "b.tif"]
    for nothing in (scans / "*.zarr", scans / "empty"):
        if not nothing.name.startswith("*"):
            nothing.mkdir()
        with pytest.raises(FormatError, match="No file to segment was found"):
            find_files([nothing])


def test_pictures_beside_volumes_are_left_out(scans: Path, tmp_path: Path) -> None:
    (scans / "a.png").write_bytes(b"\x89PNG")
    assert [file.name for file in find_files([scans])] == ["a.tif", "b.tif", "c.tif"]
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "a.png").write_bytes(b"\x89PNG")
    assert [file.name for file in find_files([alone])] == ["a.png"]


def test_names_of_results() -> None:
    files = [Path("/d/x/a.ome.tif"), Path("/d/y/a.tif"), Path("/d/b.ome.zarr")]
    assert folder_names(files) == ["d_x_a_ome_tif", "d_y_a_tif", "b"]
    with pytest.raises(OutputError, match="segment them separately"):
        folder_names([Path("/1/d/x/a.tif"), Path("/2/d/x/a.tif")])


def test_a_table_of_something_else_is_kept(
    scans: Path, tmp_path: Path, tiny_model: BiomedParse
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / SUMMARY).write_text("precious")
    with pytest.raises(OutputError, match="exists already"):
        segment_files([scans], out, ["liver"], tiny_model)
    with pytest.raises(OutputError, match="is a file, not a folder"):
        segment_files([scans], out / SUMMARY, ["liver"], tiny_model)
    assert [path.read_text() for path in out.iterdir()] == ["precious"]


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
def test_a_folder_of_images_killed_again_and_again(tmp_path: Path) -> None:
    images, out, made = tmp_path / "images", tmp_path / "out", np.random.default_rng(0)
    images.mkdir()
    for number in range(40):
        colours = made.integers(0, 256, (30, 40, 3), np.uint8)
        Image.fromarray(colours).save(images / f"{number}.png")
    script = Path(__file__).with_name("killed_runs.py")
    found = os.pathsep.join((str(script.parents[1]), os.environ.get("PYTHONPATH", "")))
    done = subprocess.run(
        [sys.executable, str(script), str(out), "2", str(images)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": found},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "40 of 40 equal" in done.stdout
    with (out / SUMMARY).open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert {line["status"] for line in lines} <= {"done", "skipped"}
    assert len(lines) == 80  # of two prompts each
