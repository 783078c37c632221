from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile

from napari_biomedparse.errors import FormatError
from napari_biomedparse.io.formats.tiff import open_tiff
from napari_biomedparse.io.formats.tiff_metadata import (
    Calibration,
    name_axes,
    read_calibration,
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
     ("nm", "nanometer"), ("&#181;m", "micrometer"), (r"\u03bcm", "micrometer")],
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


@pytest.mark.parametrize(
    ("unit", "resolution", "size"),
    [("inch", 72.0, None), ("inch", 300.0, None), ("cm", 28.35, None),
     ("inch", 254000.0, 1 / 254000.0), ("cm", 1e5, 1e-5)],
)  # fmt: skip
def test_the_resolution_of_a_print_in_imagej(
    unit: str, resolution: float, size: float | None, tmp_path: Path
) -> None:
    metadata = {"unit": unit, "axes": "ZYX"}
    resolutions = (resolution, resolution)
    found = _read(
        tmp_path / "a.tif", imagej=True, resolution=resolutions, metadata=metadata
    )
    assert found.spacing.get("x") == (size if size is None else pytest.approx(size))


def test_imagej_units_of_each_axis(tmp_path: Path) -> None:
    metadata = {
        "axes": "ZYX", "spacing": -30.0, "unit": "um", "yunit": "mm", "zunit": "nm",
        "finterval": 2.0, "tunit": "min",
    }  # fmt: skip
    found = _read(
        tmp_path / "a.tif", imagej=True, resolution=(10.0, 20.0), metadata=metadata
    )
    assert found.spacing == {"x": 0.1, "y": 0.05, "z": 30.0, "t": 2.0}
    units = {"x": "micrometer", "y": "millimeter", "z": "nanometer", "t": "minute"}
    assert found.units == units


@pytest.mark.parametrize(
    "unit", [b"\xb5m", "\xb5m".encode(), "\u03bcm".encode(), "\xc2\xb5m".encode()]
)
def test_imagej_micro_signs(unit: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    metadata = {"axes": "ZYX", "unit": "Q" * len(unit)}
    tifffile.imwrite(path, STACK, imagej=True, resolution=(4, 4), metadata=metadata)
    path.write_bytes(path.read_bytes().replace(b"Q" * len(unit), unit))
    with tifffile.TiffFile(path) as file:
        assert read_calibration(file, 0).units["x"] == "micrometer"


def test_metadata_that_cannot_be_read_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.tif"
    tags: Any = [(34682, "s", 0, "[Scan]\r\nPixelWidth=wide\r\n", True)]
    tifffile.imwrite(path, STACK, extratags=tags, metadata=None)
    (image,) = open_tiff(path).images
    assert image.spacing == (1.0, 1.0, 1.0)
    assert "metadata cannot be read" in caplog.text


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
        (10.0, "MICROMETER", 0.1),
        (10000.0, "MILLIMETER", 0.1),
        (2.0**32 - 1, "CENTIMETER", None),
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


def test_sizes_of_an_image_whose_neighbor_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    with tifffile.TiffWriter(path) as writer:
        for name, size in (("one", 0.125), ("two", 0.25)):
            metadata = {"axes": "ZYX", "Name": name, "PhysicalSizeX": size}
            writer.write(STACK, metadata=metadata)
    text = path.read_bytes()
    at = text.index(b'DimensionOrder="')
    path.write_bytes(text[:at] + text[at:].replace(b'SizeX="9"', b'SizeX="8"', 1))
    contents = open_tiff(path)
    assert contents.images[0].spacing[2] == 0.25


@pytest.mark.parametrize("size", ["0", "-1", "nan", "inf", "many"])
def test_sizes_that_are_none(size: str, tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    metadata = {"axes": "ZYX", "PhysicalSizeX": 0.125}
    tifffile.imwrite(path, STACK, ome=True, metadata=metadata)
    content = path.read_bytes().replace(b'"0.125"', f'"{size:5}"'.encode())
    path.write_bytes(content)
    with tifffile.TiffFile(path) as file:
        assert read_calibration(file, 0).spacing == {}


def _instrument(path: Path, tag: int, kind: str, value: Any, **keywords: Any) -> Any:
    count = 0 if kind == "s" else len(value)
    tags = [(tag, kind, count, value, True)]
    tifffile.imwrite(path, STACK, metadata=None, extratags=tags, **keywords)
    with tifffile.TiffFile(path) as file:
        return read_calibration(file, 0)


def test_sizes_by_fei_and_zeiss(tmp_path: Path) -> None:
    text = "[Scan]\r\nPixelWidth=4e-9\r\nPixelHeight=5e-9\r\n"
    found = _instrument(tmp_path / "a.tif", 34682, "s", text)
    assert found.spacing == {"x": 0.004, "y": 0.005}
    text = "AP_PIXEL_SIZE\r\nPixel Size = 4.5 nm\r\n"
    found = _instrument(tmp_path / "a.tif", 34118, "s", text)
    assert (found.spacing, found.units["x"]) == ({"x": 4.5, "y": 4.5}, "nanometer")


def test_sizes_by_metaxpress_and_aperio(tmp_path: Path) -> None:
    plane = "".join(
        f'<prop id="spatial-calibration-{key}" type="{kind}" value="{value}"/>'
        for key, kind, value in (
            ("x", "float", 0.65), ("y", "float", 0.7), ("units", "string", "um")
        )
    )  # fmt: skip
    text = f"<MetaData><PlaneInfo>{plane}</PlaneInfo></MetaData>"
    path = tmp_path / "a.tif"
    found = _read(path, metadata=None, description=text, software="MetaSeries")
    assert found.spacing == {"x": 0.65, "y": 0.7}
    text = "Aperio Image Library v1|AppMag = 20|MPP = 0.25|Left = 1"
    image = np.zeros((64, 64, 3), np.uint8)
    keywords: Any = {"photometric": "rgb", "metadata": None}
    with tifffile.TiffWriter(path) as writer:
        writer.write(image, tile=(16, 16), description=text, **keywords)
        writer.write(image[:16, :16], description="Aperio thumbnail", **keywords)
        for kind, name in ((1, "label"), (9, "macro")):
            writer.write(image[:20], subfiletype=kind, description=name, **keywords)
    (slide,) = open_tiff(path).images
    assert slide.spacing[:2] == (0.25, 0.25)


def test_sizes_by_leica(tmp_path: Path) -> None:
    text = (
        '<scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01"><collection '
        'sizeX="9" sizeY="9"><image name="a"><pixels sizeX="64" sizeY="48"><dimension '
        'sizeX="64" sizeY="48" r="0" ifd="0"/></pixels><view sizeX="32000" '
        'sizeY="48000"/></image></collection></scn>'
    )
    path = tmp_path / "a.tif"
    image = np.zeros((48, 64, 3), np.uint8)
    tifffile.imwrite(path, image, photometric="rgb", description=text, metadata=None)
    (slide,) = open_tiff(path).images
    assert slide.spacing[:2] == (1000.0, 500.0)
    assert slide.units[0] == "nanometer"


def _lsm(path: Path, planes: int, promised: int) -> Path:
    info = np.zeros(1, np.dtype(tifffile.TIFF.CZ_LSMINFO))
    values = {
        "MagicNumber": 67127628, "StructureSize": info.itemsize, "DimensionX": 9,
        "DimensionY": 8, "DimensionZ": promised, "DimensionChannels": 1,
        "DimensionTime": 1, "DataType": 1, "VoxelSizeX": 1e-7, "VoxelSizeY": 2e-7,
        "VoxelSizeZ": 5e-7,
    }  # fmt: skip
    for name, value in values.items():
        info[name] = value
    tag = [(34412, "B", info.itemsize, info.tobytes(), True)]
    with tifffile.TiffWriter(path) as writer:
        for i in range(planes):
            writer.write(STACK[i], metadata=None, extratags=[] if i else tag)
            small = np.zeros((4, 4, 3), np.uint8)
            writer.write(small, photometric="rgb", metadata=None, subfiletype=1)
    return path


def test_sizes_by_zeiss_lsm(tmp_path: Path) -> None:
    (image,) = open_tiff(_lsm(tmp_path / "a.tif", 5, 5)).images
    assert (image.spacing, image.units[0]) == ((0.5, 0.2, 0.1), "micrometer")
    assert image.name == "a"
    with pytest.raises(FormatError, match="lacks 2 of the 5 planes"):
        open_tiff(_lsm(tmp_path / "a.tif", 3, 5))


def _fluoview(path: Path, planes: int, promised: int) -> Path:
    header = np.zeros(1, np.dtype(tifffile.TIFF.MM_HEADER))
    sizes = ((b"X", 9, 0.1), (b"Y", 8, 0.2), (b"Z", promised, 0.5))
    for at, (name, size, step) in enumerate(sizes):
        header["Dimensions"][0, at] = (name, size, 0, step, b"um")
    raw = header.tobytes()
    tags = [(34361, "B", len(raw), raw, True), (34362, "B", 64, bytes(64), True)]
    with tifffile.TiffWriter(path) as writer:
        for i in range(planes):
            writer.write(STACK[i], metadata=None, contiguous=False, extratags=tags)
    return path


def test_sizes_by_olympus(tmp_path: Path) -> None:
    (image,) = open_tiff(_fluoview(tmp_path / "a.tif", 5, 5)).images
    assert (image.spacing, image.units[0]) == ((0.5, 0.2, 0.1), "micrometer")
    with pytest.raises(FormatError, match="lacks 1 of the 5 planes"):
        open_tiff(_fluoview(tmp_path / "a.tif", 4, 5))


def _metamorph(path: Path, planes: int, kept: float, unit: bytes) -> Path:
    """Write an STK: one page whose tags count its planes."""
    at, values = 8 + 2 + 12 * 12 + 4, b""
    places = []
    for value in (
        struct.pack("<6I", 500, 1000, 2450000, 1, 0, 0) * planes,
        struct.pack("<2I", 1, 10),
        struct.pack("<I", len(unit) + 1) + unit + b"\0",
    ):
        places.append(at + len(values))
        values += value
    second, size, symbol = places
    first = at + len(values)
    values += struct.pack("<8I", 3, 1, 4, size, 5, size, 6, symbol)
    tags = (
        (254, 4, 1, 0), (256, 4, 1, 9), (257, 4, 1, 8), (258, 4, 1, 8), (259, 4, 1, 1),
        (262, 4, 1, 1), (273, 4, 1, at + len(values)), (277, 4, 1, 1), (278, 4, 1, 8),
        (279, 4, 1, 72), (33628, 4, 4, first), (33629, 5, planes, second),
    )  # fmt: skip
    packed = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    pixels = STACK[:planes].tobytes()[: int(72 * kept)]
    head = struct.pack("<2sHIH", b"II", 42, 8, len(tags))
    path.write_bytes(head + packed + bytes(4) + values + pixels)
    return path


def test_sizes_by_metamorph(tmp_path: Path) -> None:
    (image,) = open_tiff(_metamorph(tmp_path / "a.tif", 5, 5, b"um")).images
    assert (image.shape, image.spacing) == ((5, 8, 9), (0.5, 0.1, 0.1))
    assert image.units == ("micrometer",) * 3
    (image,) = open_tiff(_metamorph(tmp_path / "a.tif", 5, 5, b"pixel")).images
    assert image.units == ("pixel",) * 3
    with pytest.raises(FormatError, match="lacks pixels of its planes"):
        open_tiff(_metamorph(tmp_path / "a.tif", 5, 3.5, b"um"))


GREY = np.arange(40, dtype=np.uint8).reshape(5, 8)
RAMP = np.arange(256) * 257


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (GREY, 255 - GREY),
        (GREY.astype(np.uint16), 65535 - GREY.astype(np.uint16)),
        (GREY.astype(np.int16), -1 - GREY.astype(np.int16)),
        (GREY.astype(np.float32), -GREY.astype(np.float32)),
        (GREY > 20, GREY > 20),
    ],
)
def test_white_is_zero(values: Any, expected: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, values, photometric="miniswhite", metadata=None)
    for stored, right in ((False, expected), (True, values)):
        (image,) = open_tiff(path, stored=stored).images
        assert image.dtype == values.dtype
        np.testing.assert_array_equal(np.asarray(image.data), right)


@pytest.mark.parametrize(
    ("colours", "expected", "told"),
    [
        ((RAMP, RAMP, RAMP), GREY, False),
        ((RAMP[::-1],) * 3, 255 - GREY, False),
        ((0 * RAMP, RAMP, 0 * RAMP), GREY, False),
        ((RAMP, RAMP[::-1], RAMP), GREY, True),
    ],
)
def test_palettes(
    colours: Any,
    expected: Any,
    told: bool,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = tmp_path / "a.tif"
    keywords: Any = {"photometric": "palette", "metadata": None}
    tifffile.imwrite(path, GREY, colormap=np.array(colours, np.uint16), **keywords)
    (image,) = open_tiff(path).images
    np.testing.assert_array_equal(np.asarray(image.data), expected)
    assert ("holds numbers of colors" in caplog.text) == told


def test_inks_are_not_red_green_blue(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    values = np.zeros((8, 9, 4), np.uint8)
    tifffile.imwrite(path, values, photometric="separated", metadata=None)
    (image,) = open_tiff(path).images
    assert image.channel_names == ("cyan", "magenta", "yellow", "black")


def test_label_entries(tmp_path: Path) -> None:
    entries = {"background": "0", "2": "nuclei", "instance_label": "1", "owners": "{"}
    path, namespace = tmp_path / "a.ome.tif", "napari-biomedparse/labels"
    annotation = {"Namespace": namespace, **entries}
    metadata = {"axes": "ZYX", "MapAnnotation": annotation}
    tifffile.imwrite(path, STACK, metadata=metadata)
    (labels,) = open_tiff(path).labels
    assert (labels.texts, labels.instance, labels.owners) == ({2: "nuclei"}, True, None)
