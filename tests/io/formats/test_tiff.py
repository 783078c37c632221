from __future__ import annotations

import gc
import os
import pickle
import tracemalloc
import warnings
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import cloudpickle
import dask.array as da
import numpy as np
import pytest
import tifffile

from napari_biomedparse.data.prompts import PromptSet, parse_prompts
from napari_biomedparse.data.volume import Volume
from napari_biomedparse.errors import FormatError
from napari_biomedparse.io import recognise, save_labels
from napari_biomedparse.io.formats import tiff
from napari_biomedparse.io.formats.tiff import open_tiff

if TYPE_CHECKING:
    from pathlib import Path

MICRO = ("micrometer",) * 3
PIXEL = ("pixel",) * 3
STACK = np.arange(5 * 8 * 9, dtype=np.uint16).reshape(5, 8, 9)

SHARED_FILES = {
    "em/vnc_sstem_left_raw.tif": (
        (20, 512, 256), "zyx", (0.045, 0.0092, 0.0092), MICRO
    ),
    "em/vnc_sstem_left_labels.tif": (
        (20, 512, 256), "zyx", (0.045, 0.0092, 0.0092), MICRO
    ),
    "em/isbi2012_z00-13_raw.tif": ((14, 512, 512), "zyx", (0.05, 0.004, 0.004), MICRO),
    "em/isbi2012_z00-13_membrane.tif": (
        (14, 512, 512), "zyx", (0.05, 0.004, 0.004), MICRO
    ),
    "nuclei/stardist_img3d.tif": ((31, 61, 57), "zyx", (1.0,) * 3, PIXEL),
    "nuclei/stardist_mask3d.tif": ((31, 61, 57), "zyx", (1.0,) * 3, PIXEL),
    "nuclei/cellseg3d_test_very_small.tif": ((64,) * 3, "zyx", (1.0,) * 3, PIXEL),
    "nuclei/cellseg3d_c5image.tif": ((124, 86, 94), "zyx", (1.0,) * 3, PIXEL),
    "formats/thirdparty_test_image.ome.tif": (
        (3, 513, 639), "cyx", (1.0,) * 3, ("pixel", *MICRO[:2])
    ),
    "formats/derived_nuclei_zyx.ome.tif": (
        (31, 61, 57), "zyx", (0.5, 0.116, 0.116), MICRO
    ),
    "formats/derived_nuclei_czyx.ome.tif": (
        (2, 31, 61, 57), "czyx", (1.0, 500.0, 116.0, 116.0),
        ("pixel", *("nanometer",) * 3),
    ),
    "formats/derived_nuclei_tzcyx_imagej.tif": (
        (31, 2, 61, 57), "zcyx", (0.5, 1.0, 0.116, 0.116),
        ("micrometer", "pixel", "micrometer", "micrometer"),
    ),
    "formats/derived_em_uint8_plain_bigtiff.tif": (
        (6, 192, 192), "zyx", (1.0,) * 3, PIXEL
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SHARED_FILES)
def test_the_shared_files(name: str, shared: Path) -> None:
    path = shared / "data" / name
    shape, axes, spacing, units = SHARED_FILES[name]
    (volume,) = open_tiff(path).images
    assert volume.shape == shape
    assert volume.axes == tuple(axes)
    assert volume.spacing == pytest.approx(spacing)
    assert volume.units == units
    np.testing.assert_array_equal(np.asarray(volume.data), tifffile.imread(path))


def test_every_shared_tiff_is_listed(shared: Path) -> None:
    data = shared / "data"
    assert {str(p.relative_to(data)) for p in data.rglob("*.tif")} == set(SHARED_FILES)


def test_channel_names(shared: Path) -> None:
    folder = shared / "data" / "formats"
    for name, names in (
        ("derived_nuclei_czyx.ome.tif", ("nuclei", "mask")),
        ("derived_nuclei_tzcyx_imagej.tif", ()),
        ("thirdparty_test_image.ome.tif", ("red", "green", "blue")),
    ):
        assert open_tiff(folder / name).images[0].channel_names == names


@pytest.mark.parametrize(
    ("codes", "shape", "axes", "keywords"),
    [
        ("QYX", (5, 8, 9), "zyx", {}),
        ("YXS", (8, 9, 3), "yxc", {"photometric": "rgb"}),
        ("ZYXS", (3, 8, 9, 3), "zyxc", {"photometric": "rgb", "ome": True}),
        ("TZCYX", (2, 3, 2, 8, 9), "tzcyx", {"imagej": True}),
        ("TYX", (3, 8, 9), "tyx", {"ome": True}),
        ("YX", (8, 9), "yx", {}),
    ],
)
def test_axes(
    codes: str, shape: tuple[int, ...], axes: str, keywords: Any, tmp_path: Path
) -> None:
    values = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    metadata = {} if codes in ("QYX", "YX", "YXS") else {"axes": codes}
    tifffile.imwrite(tmp_path / "a.tif", values, metadata=metadata, **keywords)
    (volume,) = open_tiff(tmp_path / "a.tif").images
    assert volume.axes == tuple(axes)
    np.testing.assert_array_equal(np.asarray(volume.data), values)


@pytest.mark.parametrize(
    ("dtype", "keywords"),
    [
        (">u2", {"byteorder": ">"}),
        ("<f4", {"compression": "zlib", "predictor": True}),
        ("<i2", {"tile": (16, 16)}),
        ("|u1", {"bigtiff": True}),
        ("|u1", {"rowsperstrip": 2, "compression": "lzw"}),
    ],
)
def test_types_and_layouts(dtype: str, keywords: Any, tmp_path: Path) -> None:
    values = STACK.astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", values, metadata={"axes": "ZYX"}, **keywords)
    (volume,) = open_tiff(tmp_path / "a.tif").images
    assert volume.dtype.newbyteorder("=") == np.dtype(dtype).newbyteorder("=")
    np.testing.assert_array_equal(np.asarray(volume.data), values)


def test_large_tiled_planes_are_read_by_tile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiff, "_PLANE_BYTES", 1000)
    monkeypatch.setattr("napari_biomedparse.io.lazy.BLOCK_BYTES", 1)
    values = np.arange(2 * 64 * 48, dtype=np.uint16).reshape(2, 64, 48)
    tifffile.imwrite(tmp_path / "a.tif", values, tile=(16, 16))
    (volume,) = open_tiff(tmp_path / "a.tif").images
    data: Any = volume.data
    assert data.chunksize == (1, 16, 16)
    np.testing.assert_array_equal(data.compute(), values)


@pytest.mark.parametrize("keywords", [{}, {"compression": "zlib"}, {"tile": (16, 16)}])
def test_pages_that_were_appended_one_by_one(keywords: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    for plane in STACK:
        tifffile.imwrite(path, plane, append=True, **keywords)
    (volume,) = open_tiff(path).images
    assert volume.axes == ("z", "y", "x")
    np.testing.assert_array_equal(np.asarray(volume.data), STACK)
    tifffile.imwrite(path, STACK[0, :4], append=True, **keywords)
    assert [image.shape for image in open_tiff(path).images] == [(5, 8, 9), (4, 9)]
    for plane in STACK:
        tifffile.imwrite(tmp_path / "b.tif", plane[None], append=True, **keywords)
    np.testing.assert_array_equal(
        np.asarray(open_tiff(tmp_path / "b.tif").images[0].data), STACK
    )


def test_named_or_thick_images_stay_apart(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as writer:
        for name in ("raw", "mask"):
            writer.write(STACK[0], metadata={"name": name}, contiguous=False)
    assert [image.axes for image in open_tiff(path).images] == [("y", "x")] * 2
    for _ in range(2):
        tifffile.imwrite(tmp_path / "b.tif", STACK, append=True)
    assert len(open_tiff(tmp_path / "b.tif").images) == 2


def test_thumbnails_are_no_images(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(STACK[0, :4, :4], subfiletype=1, metadata=None)
        for plane in STACK:
            writer.write(plane, contiguous=False, metadata=None)
    (volume,) = open_tiff(path).images
    np.testing.assert_array_equal(np.asarray(volume.data), STACK)


@pytest.mark.parametrize(
    ("count", "keywords", "axes"),
    [
        (80, {"imagej": True}, "zyx"),
        (80, {"ome": True}, "zyx"),
        (5, {"imagej": True}, "cyx"),
        (80, {"ome": True, "metadata": {
            "axes": "CYX", "Channel": {"Name": [f"m{i}" for i in range(80)]}
        }}, "cyx"),
        (80, {"imagej": True, "metadata": {"axes": "TYX"}}, "tyx"),
    ],
)  # fmt: skip
def test_slices_that_are_called_channels(
    count: int,
    keywords: Any,
    axes: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((count, 8, 9), np.uint8), **keywords)
    (image,) = open_tiff(path).images
    assert image.axes == tuple(axes)
    assert ("taken as slices" in caplog.text) == (axes == "zyx")
    for given in ("zyx", "cyx"):
        assert open_tiff(path, tuple(given)).images[0].axes == tuple(given)


def test_pyramids_and_several_images(tmp_path: Path) -> None:
    values = np.arange(64 * 64, dtype=np.uint8).reshape(64, 64)
    with tifffile.TiffWriter(tmp_path / "a.ome.tif") as writer:
        writer.write(values, subifds=1, tile=(16, 16), metadata={"Name": "big"})
        writer.write(values[::2, ::2], subfiletype=1, tile=(16, 16))
        writer.write(values[:9], metadata={"Name": "small"}, contiguous=False)
    big, small = open_tiff(tmp_path / "a.ome.tif").images
    assert (big.name, small.name) == ("a big", "a small")
    (level,) = big.levels
    np.testing.assert_array_equal(np.asarray(level), values[::2, ::2])
    np.testing.assert_array_equal(np.asarray(small.data), values[:9])


def test_opening_reads_no_pixels_and_leaves_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, STACK, compression="zlib")

    def refuse(*_: Any) -> Any:
        raise AssertionError("pixels were read")

    monkeypatch.setattr(tifffile.FileHandle, "read_segments", refuse)
    monkeypatch.setattr(
        "napari_biomedparse.io.formats.tiff.zarr.Array.__getitem__", refuse
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        (volume,) = open_tiff(path).images
        data: Any = volume.data
        monkeypatch.undo()
        path.unlink()  # an open file would still be readable
        with pytest.raises(FormatError, match=r"a\.tif cannot be read at \(0, 0, 0\)"):
            data.compute()
        del data, volume
        gc.collect()
    assert not [w for w in caught if issubclass(w.category, ResourceWarning)]


def test_it_travels_to_other_processes(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", STACK)
    (volume,) = open_tiff(tmp_path / "a.tif").images
    copy = pickle.loads(cloudpickle.dumps(volume.data))
    np.testing.assert_array_equal(copy.compute(), STACK)


def test_many_threads(tmp_path: Path) -> None:
    values = np.arange(60 * 30 * 30, dtype=np.uint16).reshape(60, 30, 30)
    tifffile.imwrite(tmp_path / "a.tif", values, compression="zlib")
    (volume,) = open_tiff(tmp_path / "a.tif").images
    data: Any = volume.data
    planes = [data[i] for i in range(60)]
    np.testing.assert_array_equal(da.stack(planes).compute(num_workers=8), values)


@pytest.mark.parametrize("keep", [8, 60, 150])
def test_a_damaged_directory(keep: int, tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, STACK, metadata={"axes": "ZYX"})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(FormatError, match=r"a\.tif"):
        open_tiff(path)


@pytest.mark.parametrize(("pages", "back"), [(2, 1), (3, 0), (120, 110)])
def test_pages_in_a_ring(pages: int, back: int, tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as writer:
        for _ in range(pages):
            writer.write(STACK[0], metadata=None)
    with tifffile.TiffFile(path) as file:
        places = [page.offset for page in file.pages]
        tags = len(file.pages[-1].tags)
    content = bytearray(path.read_bytes())
    link = places[-1] + 2 + 12 * tags
    assert content[link : link + 4] == bytes(4)
    content[link : link + 4] = places[back].to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(FormatError, match=rf"from page {pages} back"):
        open_tiff(path)


@pytest.mark.parametrize(
    ("compression", "rows", "found"),
    [
        (None, 2**24, r"lacks pixels of its planes"),
        ("zlib", 2**24, r"takes 288 MiB, which its \d+ bytes cannot hold"),
        ("zlib", 8, "lies in 2097152 strips or tiles"),
    ],
)
def test_a_plane_that_the_file_cannot_hold(
    compression: str | None, rows: int, found: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, STACK[0], compression=compression, metadata=None)
    _change(path, ImageLength=2**24, RowsPerStrip=rows)
    with pytest.raises(FormatError, match=found):
        open_tiff(path)


def test_a_strip_that_claims_gigabytes(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, STACK[0], compression="zlib", metadata=None)
    _change(path, StripByteCounts=2**32 - 1)
    tracemalloc.start()
    with pytest.raises(FormatError, match="ends before the end of page 0"):
        open_tiff(path)
    assert tracemalloc.get_traced_memory()[1] < 2**26
    tracemalloc.stop()


def _change(path: Path, **tags: int) -> None:
    with tifffile.TiffFile(path, mode="r+") as file:
        page = file.pages.first
        for name, value in tags.items():
            page.tags[name].overwrite(value, dtype="I")


@pytest.mark.parametrize(
    "changes",
    [
        {'SizeX="9"': f'SizeX="{9 * 10**9}"'},
        {'SizeX="9"': f'SizeX="{9 * 10**9}"', 'SizeC="1"': 'SizeC="1e-99"',
         "XYCZT": "XYZT"},
        {"XYCZT": "XYCT" + 14 * "Z"},
        {"XYCZT": "XYCZQ", 'SizeX="9"': f'SizeX="9" SizeQ="{10**8}"'},
        {'SamplesPerPixel="1"': f'SamplesPerPixel="{10**8}"'},
        {"Pixels": "OddPixels", 'SizeX="9"': f'SizeX="{9 * 10**9}"'},
        {"TiffData": "OddTiffData", 'PlaneCount="5"': f'PlaneCount="{10**8}"'},
        {"<TiffData": f'<XAlongT Start="0" End="{10**8}"/><TiffData'},
    ],
)  # fmt: skip
def test_ome_sizes_that_would_list_endless_pages(
    changes: dict[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, STACK, metadata={"axes": "ZYX"})
    with tifffile.TiffFile(path, mode="r+") as file:
        text = file.ome_metadata or ""
        for old, new in changes.items():
            assert old in text
            text = text.replace(old, new)
        file.pages.first.tags["ImageDescription"].overwrite(text)
    with pytest.raises(FormatError, match=r"claims .* planes"):
        open_tiff(path)


def test_planes_in_files_beside_it(tmp_path: Path) -> None:
    other = tmp_path / "b.tif"
    tifffile.imwrite(other, STACK, metadata=None, contiguous=False)
    plane = '<TiffData IFD="{0}" FirstZ="{0}" PlaneCount="1">{1}</TiffData>'
    place = '<UUID FileName="b.tif">urn:uuid:b</UUID>'
    xml = (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
        'UUID="urn:uuid:a"><Image ID="Image:0"><Pixels ID="Pixels:0" SizeX="9" '
        'SizeY="8" SizeZ="5" SizeC="1" SizeT="1" DimensionOrder="XYZCT" '
        f'Type="uint16">{"".join(plane.format(z, place) for z in range(5))}'
        "</Pixels></Image></OME>"
    )
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, STACK[0] * 0, description=xml, metadata=None)
    (image,) = open_tiff(path).images
    np.testing.assert_array_equal(np.asarray(image.data), STACK)


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_pixels_cut_short(compression: str | None, tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    values = np.random.default_rng(0).integers(0, 255, (5, 90, 90), np.uint8)
    tifffile.imwrite(path, values, compression=compression)
    path.write_bytes(path.read_bytes()[:-4000])
    with pytest.raises(FormatError, match=r"a\.tif"):
        np.asarray(open_tiff(path).images[0].data)


def test_axes_that_cannot_be_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    values = np.zeros((2, 2, 2, 2, 8, 9), np.uint8)
    tifffile.imwrite(path, values, metadata={"axes": "TRZCYX"})
    if "R" not in _codes(path):
        pytest.skip("tifffile names the axes otherwise")
    with pytest.raises(FormatError, match="are ambiguous"):
        open_tiff(path)


def _codes(path: Path) -> str:
    with tifffile.TiffFile(path) as file:
        return str(file.series[0].axes)


def test_a_codec_that_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", STACK, compression="zlib")
    monkeypatch.setattr(tifffile.TIFF, "DECOMPRESSORS", {})
    with pytest.raises(FormatError, match="pip install imagecodecs"):
        open_tiff(tmp_path / "a.tif")


def test_a_tiff_is_known_by_its_first_bytes(tmp_path: Path) -> None:
    for i, keywords in enumerate(({}, {"bigtiff": True}, {"byteorder": ">"})):
        tifffile.imwrite(tmp_path / f"{i}.npz", STACK, **keywords)
        assert recognise(tmp_path / f"{i}.npz") == "tiff"


LABELS = STACK % 3
PROMPTS = parse_prompts({1: "mitochondria <a> & b \N{MICRO SIGN}", 2: "nuclei"})


def _volume(units: tuple[str, ...]) -> Volume:
    return Volume(STACK, ("z", "y", "x"), (0.5, 0.25, 0.125), units, (0.0,) * 3, "a b")


@pytest.mark.parametrize(
    "units", [MICRO, ("nanometer",) * 3, ("pixel", *MICRO[:2]), PIXEL]
)
@pytest.mark.parametrize("instance", [False, True])
def test_labels_read_back(
    units: tuple[str, ...], instance: bool, tmp_path: Path
) -> None:
    path = tmp_path / "a.tif"
    prompts = PromptSet(PROMPTS.prompts, instance)
    save_labels(path, LABELS, volume=_volume(units), prompts=prompts, overwrite=False)
    contents = open_tiff(path)
    (labels,) = contents.labels
    assert contents.images == ()
    assert contents.prompts == prompts
    assert labels.texts == {1: PROMPTS.texts[0], 2: "nuclei"}
    assert labels.volume.spacing == (0.5, 0.25, 0.125)
    assert labels.volume.units == units
    assert labels.volume.dtype == np.uint8
    np.testing.assert_array_equal(np.asarray(labels.volume.data), LABELS)
    np.testing.assert_array_equal(tifffile.imread(path), LABELS)


def test_equal_labels_are_equal_files_whose_xml_is_well_formed(tmp_path: Path) -> None:
    labels = np.stack([np.eye(4, dtype=np.uint8)] * 2)
    name = os.fsdecode(b"caf\xe9 \x1b[31m")
    volume = Volume(
        labels, ("z", "y", "x"), (1.0,) * 3, ("micrometer",) * 3, (0.0,) * 3, name
    )
    prompts = parse_prompts({1: "liver \x00 <b> \ufffe"})
    paths = [tmp_path / os.fsdecode(file) for file in (b"a.tif", b"\xe9.tif", b"c.tif")]
    for path, found in zip(paths, (labels, labels, 1 - labels), strict=True):
        save_labels(path, found, volume=volume, prompts=prompts, overwrite=False)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    with tifffile.TiffFile(paths[0]) as file:
        root = ElementTree.fromstring(file.ome_metadata)
    with tifffile.TiffFile(paths[2]) as file:
        assert ElementTree.fromstring(file.ome_metadata).get("UUID") != root.get("UUID")
    (read,) = open_tiff(paths[1]).labels
    assert read.texts == {1: r"liver \x00 <b> \ufffe"}
    np.testing.assert_array_equal(read.volume.data, labels)


def test_labels_over_time(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    units = ("second", *MICRO[:2])
    volume = Volume(STACK, ("t", "y", "x"), (2.0, 0.25, 0.25), units, (0.0,) * 3)
    save_labels(path, LABELS, volume=volume, prompts=None, overwrite=False)
    (labels,) = open_tiff(path).labels
    assert labels.volume.axes == ("t", "y", "x")
    assert (labels.volume.spacing, labels.volume.units) == ((2.0, 0.25, 0.25), units)
    assert labels.texts == {}


def test_big_labels_become_bigtiff(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for limit, big in ((LABELS.size, False), (LABELS.size - 1, True)):
        monkeypatch.setattr(tiff, "_CLASSIC_BYTES", limit)
        path = tmp_path / "a.tif"
        save_labels(path, LABELS, volume=_volume(MICRO), prompts=None, overwrite=True)
        with tifffile.TiffFile(path) as file:
            assert file.is_bigtiff is big
            assert file.pages[0].compression == tifffile.COMPRESSION.ADOBE_DEFLATE
