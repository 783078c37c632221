"""One TIFF a slice: a volume in order, read when it is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from napari_biomedparse.errors import FormatError
from napari_biomedparse.io import can_open, open_file, open_volume
from napari_biomedparse.io.files import open_labels
from napari_biomedparse.io.formats.tiff import TiffSource
from napari_biomedparse.io.inputs import find_files, stack_files
from napari_biomedparse.networks.v2.biomedparse import BiomedParse
from napari_biomedparse.pipeline.segment import segment
from napari_biomedparse.runs.reproduce import reproduce
from napari_biomedparse.runs.run import segment_to_folder

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
    real = TiffSource.read

    def note(source: TiffSource, **how: bool) -> Any:
        read.append(source.path.name)
        return real(source, **how)

    monkeypatch.setattr(TiffSource, "read", note)
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
    with pytest.raises(FormatError, match=r"cell_5\.tif.*must be alike"):
        open_volume(folder)


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


def named(folder: Path, *names: str) -> Path:
    folder.mkdir()
    for name, plane in zip(names, GREY, strict=False):
        tifffile.imwrite(folder / name, plane, metadata=None)
    return folder


@pytest.mark.parametrize(
    "names",
    [
        ("s_8.tif", "s_9.tif", "s_10.tif"),
        ("s_08.tif", "s_9.tif", "s_010.tif"),
        ("a_0000.tif", "a_0005.tif", "a_0010.tif"),
        ("2024_x_1.tif", "2024_x_2.tif", "2024_x_3.TIF"),
        ("slice_1_z=0.05um.tif", "slice_2_z=0.10um.tif", "slice_3_z=0.15um.tif"),
        ("Image.tif",),
    ],
)
def test_whole_series(
    names: tuple[str, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = stack_files(named(tmp_path / "a", *names))
    if names[0] == "s_8.tif":
        assert [file.name for file in files] == list(names)
    volume = open_volume(tmp_path / "a")
    assert volume.shape[0] == len(names)
    assert all(one.name in ("dask", "tifffile") for one in caplog.records)


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (("s_0.tif", "s_1.tif", "s_4.tif"), "its 3 files leave out 2, 3."),
        (("s_00.tif", "s_10.tif", "s_30.tif"), "leave out 20."),
        (("s_1_z0.1.tif", "s_2_z0.2.tif", "s_4_z0.4.tif"), "leave out 3."),
        (("s_1.tif", "s_2.tif", "s_99.tif"), "11, 12 and more"),
        (("a.tif", "b.tif", "c.tif"), "no number in common"),
    ],
)
def test_what_names_leave_out_is_told(
    names: tuple[str, ...],
    told: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert open_volume(named(tmp_path / "a", *names)).shape[0] == len(names)
    assert told in caplog.text


@pytest.mark.parametrize(
    "names",
    [
        ("a_1.tif", "a_2.tif", "b_1.tif", "b_2.tif"),
        ("s_t0_z0.tif", "s_t0_z1.tif", "s_t1_z0.tif", "s_t1_z1.tif"),
        ("s_1.tif", "s_2.tif", "MAX_s.tif"),
        ("s_1.tif", "s_01.tif", "s_2.tif"),
    ],
)
def test_several_series_in_a_folder(names: tuple[str, ...], tmp_path: Path) -> None:
    folder = named(tmp_path / "a", *names)
    with pytest.raises(FormatError, match="several series, or repeat a number"):
        open_volume(folder)
    if names[0] == "a_1.tif":
        assert open_volume(folder / "b_*.tif").shape == (2, 40, 30)


def test_what_does_not_belong_to_the_slices(folder: Path) -> None:
    for name in ("._cell_0.tif", ".DS_Store", "Thumbs.db", ".hidden.tif"):
        (folder / name).write_bytes(b"\0\5\x16\7" + bytes(116))
    (folder / "Thumbnails").mkdir()
    tifffile.imwrite(folder / "Thumbnails" / "cell_0.tif", GREY[0, :4, :4])
    np.testing.assert_array_equal(np.asarray(open_volume(folder).data), GREY)
    assert len(find_files([folder])) == len(GREY)


def test_slices_that_are_cut_or_differ_in_pages(folder: Path) -> None:
    path = folder / "cell_7.tif"
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(FormatError, match=r"cell_7\.tif ends before"):
        open_volume(folder)
    tifffile.imwrite(path, GREY[:2], imagej=True)
    with pytest.raises(FormatError, match=r"cell_7\.tif.*must be alike"):
        open_volume(folder)


def test_axes_and_white_of_slices(tmp_path: Path) -> None:
    folder = write(tmp_path / "w", GREY, photometric="miniswhite", metadata=None)
    volume = open_volume(folder, axes="TYX")
    assert volume.axes == ("t", "y", "x")
    np.testing.assert_array_equal(np.asarray(volume.data), 65535 - GREY)
    stored = open_labels(folder).volume.data
    np.testing.assert_array_equal(np.asarray(stored), GREY)


def test_slices_whose_pixels_differ_in_size_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    size = {"resolutionunit": "CENTIMETER", "metadata": None}
    folder = write(tmp_path / "s", GREY, resolution=(1e5, 1e5), **size)
    open_volume(folder)
    assert not caplog.records
    tifffile.imwrite(folder / "cell_4.tif", GREY[4], resolution=(5e4, 5e4), **size)
    assert open_volume(folder).spacing == pytest.approx((1.0, 0.1, 0.1))
    assert "cell_4.tif has pixels of another size" in caplog.text


def image_j(z: int, unit: str, per: float, spacing: float = 1.0) -> dict[str, Any]:
    known = {"unit": unit, "spacing": spacing}
    return {"imagej": True, "resolution": (per, per), "metadata": known}


def of_ome(z: int, unit: str, per: float, spacing: float = 1.0) -> dict[str, Any]:
    known = {f"PhysicalSize{a}": 1 / per for a in "XY"} | {"PhysicalSizeZ": spacing}
    units = {f"PhysicalSize{a}Unit": unit for a in "XYZ"}
    return {"ome": True, "metadata": {"axes": "YX", **known, **units}}


@pytest.mark.parametrize("way", [image_j, of_ome])
@pytest.mark.parametrize(
    ("other", "told"),
    [
        (("um", 10.0), False),
        (("nm", 0.01, 1000.0), False),  # the same
        (("nm", 10.0), True),
        (("mm", 10.0), True),
        (("um", 10.0, 2.0), True),
        (("um", 11.0), True),
        (None, True),
    ],
)
def test_slices_whose_units_or_voxels_differ_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, way: Any, other: Any, told: bool
) -> None:
    for z in range(4):
        keywords = way(z, "um", 10.0)
        if z in (2, 3):
            keywords = {"metadata": None} if other is None else way(z, *other)
        tifffile.imwrite(tmp_path / f"cell_{z}.tif", GREY[z], **keywords)
    volume = open_volume(tmp_path)
    assert volume.spacing == pytest.approx((1.0, 0.1, 0.1))
    assert ("cell_2.tif has pixels of another size" in caplog.text) == told
    assert len(caplog.records) == told
