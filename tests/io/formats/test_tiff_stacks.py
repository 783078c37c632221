"""One TIFF a slice: a volume in order, read when it is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from napari_biomedparse.errors import FormatError
from napari_biomedparse.io import can_open, open_file, open_volume
from napari_biomedparse.io.inputs import stack_files
from napari_biomedparse.networks.v2.biomedparse import BiomedParse
from napari_biomedparse.pipeline.segment import segment
from napari_biomedparse.runs.run import reproduce, segment_to_folder

GREY = np.random.default_rng(0).integers(0, 2**12, (12, 40, 30), dtype=np.uint16)


def write(folder: Path, slices: Any, **keywords: Any) -> Path:
    folder.mkdir()
    for i, plane in enumerate(slices):
        tifffile.imwrite(folder / f"cell_{i}.tif", plane, **keywords)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(
        tmp_path / "cell",
        GREY,
        imagej=True,
        resolution=(4, 2),
        metadata={"unit": "um"},
    )


@pytest.mark.parametrize("pattern", ["", "*.tif", "cell_*"])
def test_a_folder_or_pattern_is_a_volume(folder: Path, pattern: str) -> None:
    (folder / "notes.txt").write_text("not a slice")
    assert can_open(folder / pattern)
    volume = open_volume(folder / pattern)
    assert volume.axes == ("z", "y", "x")
    assert volume.spacing == (1.0, 0.5, 0.25)
    assert volume.units == ("pixel", "micrometer", "micrometer")
    assert volume.name == "cell"
    np.testing.assert_array_equal(np.asarray(volume.data), GREY)  # 2 before 10


def test_only_what_is_looked_at_is_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = open_volume(folder)
    read: list[str] = []
    real = tifffile.imread
    monkeypatch.setattr(
        tifffile, "imread", lambda path: (read.append(path.name), real(path))[1]
    )
    np.testing.assert_array_equal(np.asarray(volume.data[3:5, 7:9]), GREY[3:5, 7:9])
    assert sorted(read) == ["cell_3.tif", "cell_4.tif"]


def test_colours(tmp_path: Path) -> None:
    values = np.random.default_rng(1).integers(0, 255, (3, 20, 24, 3), dtype=np.uint8)
    folder = write(tmp_path / "rgb", values, photometric="rgb")
    volume = open_volume(folder)
    assert volume.axes == ("z", "y", "x", "c")
    np.testing.assert_array_equal(np.asarray(volume.data), values)


def test_slices_that_are_not_alike(folder: Path) -> None:
    tifffile.imwrite(folder / "cell_5.tif", GREY[5, :20])
    volume = open_volume(folder)
    np.testing.assert_array_equal(np.asarray(volume.data[:5]), GREY[:5])
    with pytest.raises(FormatError, match=r"cell_5\.tif.*must be alike"):
        np.asarray(volume.data)


def test_what_is_no_stack(tmp_path: Path) -> None:
    volumes = write(tmp_path / "volumes", [GREY, GREY])
    assert not can_open(volumes)
    with pytest.raises(FormatError, match="is not one slice"):
        open_file(volumes)
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "a.tif").write_bytes(b"II*\0")
    assert not can_open(tmp_path / "damaged")
    (tmp_path / "empty").mkdir()
    assert stack_files(tmp_path / "empty") == ()
    assert stack_files(tmp_path / "none*.tif") == ()
    assert stack_files(volumes / "cell_0.tif") == ()


def test_a_run_in_a_folder(
    folder: Path, tiny_model: BiomedParse, tmp_path: Path
) -> None:
    expected = segment(GREY, "liver", tiny_model)
    run = segment_to_folder(folder, "liver", tmp_path / "run", "tiny")
    np.testing.assert_array_equal(run.labels, expected.labels)
    again, differences = reproduce(run.folder, tmp_path / "again")
    assert differences == []
    np.testing.assert_array_equal(again.labels, run.labels)
    tifffile.imwrite(folder / "cell_3.tif", GREY[3] + 1)
    _, differences = reproduce(run.folder, tmp_path / "changed")
    assert any(one.startswith("source.files") for one in differences)
