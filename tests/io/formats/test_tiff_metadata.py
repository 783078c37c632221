from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile

from napari_biomedparse.io.formats.tiff_metadata import (
    Calibration,
    name_axes,
    read_calibration,
    split_labels,
)

if TYPE_CHECKING:
    from pathlib import Path

STACK = np.zeros((5, 8, 9), np.uint8)


@pytest.mark.parametrize(
    ("codes", "axes"),
    [
        ("ZYX", "zyx"),
        ("QYX", "zyx"),
        ("IYX", "zyx"),
        ("SYX", "cyx"),
        ("YXS", "yxc"),
        ("TZCYX", "tzcyx"),
        ("TQYX", "tzyx"),
        ("QZYX", "tzyx"),
        ("QTZYX", "ctzyx"),
        ("CYXS", "tyxc"),
        ("EYX", "zyx"),
    ],
)
def test_axes(codes: str, axes: str) -> None:
    assert name_axes(codes, "a file") == tuple(axes)


@pytest.mark.parametrize("codes", ["QQYX", "TCYXS", "QTCZYX", "QIPZYX"])
def test_axes_that_cannot_be_told_apart(codes: str) -> None:
    with pytest.raises(ValueError, match=codes):
        name_axes(codes, "a file")


def _read(path: Path, **keywords: Any) -> Calibration:
    tifffile.imwrite(path, STACK, **keywords)
    with tifffile.TiffFile(path) as file:
        return read_calibration(file, 0)


@pytest.mark.parametrize(
    ("unit", "name"),
    [("um", "micrometer"), ("micron", "micrometer"), (r"\u00B5m", "micrometer"),
     ("nm", "nanometer"), ("inch", "inch")],
)  # fmt: skip
def test_imagej(unit: str, name: str, tmp_path: Path) -> None:
    metadata = {"spacing": 0.5, "unit": unit, "finterval": 3.0, "axes": "ZYX"}
    found = _read(
        tmp_path / "a.tif", imagej=True, resolution=(4.0, 8.0), metadata=metadata
    )
    assert found.spacing == {"x": 0.25, "y": 0.125, "z": 0.5, "t": 3.0}
    assert found.units == {"x": name, "y": name, "z": name, "t": "second"}


@pytest.mark.parametrize("unit", [None, "pixel", "bananas"])
def test_imagej_without_a_unit_of_length(unit: str | None, tmp_path: Path) -> None:
    metadata = {"spacing": 0.5, "axes": "ZYX"} | ({"unit": unit} if unit else {})
    found = _read(
        tmp_path / "a.tif", imagej=True, resolution=(4.0, 4.0), metadata=metadata
    )
    assert found.spacing == {}


def test_imagej_channel_names(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    values = np.zeros((2, 2, 8, 9), np.uint8)
    metadata = {"axes": "ZCYX", "Labels": ["nuclei", "membrane"] * 2}
    tifffile.imwrite(path, values, imagej=True, metadata=metadata)
    with tifffile.TiffFile(path) as file:
        assert read_calibration(file, 0).channel_names == ("nuclei", "membrane")


@pytest.mark.parametrize(
    ("resolution", "unit", "size"),
    [
        (20000.0, "CENTIMETER", 0.5),
        (254000.0, "INCH", 0.1),
        (72.0, "INCH", None),
        (300.0, "INCH", None),
        (28.35, "CENTIMETER", None),
        (4.0, "NONE", None),
    ],
)
def test_resolution_tags(
    resolution: float, unit: str, size: float | None, tmp_path: Path
) -> None:
    found = _read(
        tmp_path / "a.tif", resolution=(resolution, resolution), resolutionunit=unit
    )
    if size is None:
        assert found.spacing == {}
    else:
        assert found.spacing == pytest.approx({"x": size, "y": size})
        assert found.units == {"x": "micrometer", "y": "micrometer"}


def test_ome(tmp_path: Path) -> None:
    metadata = {
        "axes": "TYX", "PhysicalSizeX": 0.2, "PhysicalSizeY": 0.3,
        "PhysicalSizeYUnit": "nm", "TimeIncrement": 5.0, "TimeIncrementUnit": "min",
        "Name": "embryo", "Channel": {"Name": ["GFP"]},
    }  # fmt: skip
    found = _read(tmp_path / "a.tif", ome=True, metadata=metadata)
    assert found.spacing == {"x": 0.2, "y": 0.3, "t": 5.0}
    assert found.units == {"x": "micrometer", "y": "nanometer", "t": "minute"}
    assert (found.name, found.channel_names) == ("embryo", ("GFP",))
    assert found.labels is None


@pytest.mark.parametrize("size", ["0", "-1", "nan", "inf", "many"])
def test_sizes_that_are_none(size: str, tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    metadata = {"axes": "ZYX", "PhysicalSizeX": 0.125}
    tifffile.imwrite(path, STACK, ome=True, metadata=metadata)
    content = path.read_bytes().replace(b'"0.125"', f'"{size:5}"'.encode())
    path.write_bytes(content)
    with tifffile.TiffFile(path) as file:
        assert read_calibration(file, 0).spacing == {}


def test_label_entries() -> None:
    entries = {"background": "0", "2": "nuclei", "instance_label": "1"}
    assert split_labels(entries) == ({2: "nuclei"}, True, None)
    assert split_labels({}) == ({}, False, None)
