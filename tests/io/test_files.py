from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from napari_biomedparse import io
from napari_biomedparse.data.prompts import parse_prompts
from napari_biomedparse.data.volume import Volume, as_volume
from napari_biomedparse.errors import (
    BiomedParseError,
    FormatError,
    OptionError,
    OutputError,
    VolumeError,
)
from napari_biomedparse.io import (
    open_file,
    open_image,
    open_labels,
    open_volume,
    recognise,
    save_labels,
)
from napari_biomedparse.io.files import read_labels

if TYPE_CHECKING:
    from pathlib import Path

STACK = np.arange(5 * 8 * 9, dtype=np.uint8).reshape(5, 8, 9)
VOLUME = Volume(
    STACK, ("z", "y", "x"), (3.0, 0.5, 0.25), ("micrometer",) * 3, (0.0,) * 3
)
PROMPTS = parse_prompts(["mitochondria", "nuclei"])
LABELS = STACK % 3


def test_the_public_names() -> None:
    assert sorted(io.__all__) == io.__all__
    assert all(hasattr(io, name) for name in io.__all__)


def test_opening_needs_neither_torch_nor_napari() -> None:
    code = (
        "import sys, napari_biomedparse.io; "
        "sys.exit(bool({'torch', 'napari', 'qtpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_formats_are_told_by_content(tmp_path: Path) -> None:
    np.savez(tmp_path / "really.tif.npz", imgs=STACK)
    (tmp_path / "really.tif.npz").rename(tmp_path / "npz.tif")
    tifffile.imwrite(tmp_path / "tiff.tif", STACK)
    (tmp_path / "tiff.tif").rename(tmp_path / "tiff.npz")
    zarr.create_array(store=str(tmp_path / "folder"), data=STACK)
    for name, kind in (("npz.tif", "npz"), ("tiff.npz", "tiff"), ("folder", "zarr")):
        assert recognise(tmp_path / name) == kind
        volume = open_volume(str(tmp_path / name))
        np.testing.assert_array_equal(np.asarray(volume.data), STACK)
    assert recognise(tmp_path) is None
    assert recognise(tmp_path / "none") is None


@pytest.mark.parametrize("address", ["https://x.org/a.zarr", "s3://b/a.tif"])
def test_an_address_is_called_so(address: str) -> None:
    with pytest.raises(FormatError, match=r"is an address, .* download"):
        open_file(address)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\x89PNG\r\n\x1a\n", "a.npz is not a complete picture .* damaged"),
        (b"BM" + bytes(20), "a.npz is not a complete picture .* damaged"),
        (b"\x89HDF\r\n\x1a\n", "is HDF5, which is not in a supported"),
        (b"ZISRAWFILE", "is Zeiss CZI"),
        (bytes(128) + b"DICM", "a.npz holds no image"),
        (b"\x5c\1\0\0" + bytes(340) + b"n+1\0", "let its name end in .nii"),
        (b"\x5c\1\0\0" + bytes(340) + b"ni1\0", "the header of a pair of files"),
        (b"something", "a.npz is not in a supported format; supported"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<!DOCTYPE html>", "is a web page or XML"),
    ],
)
def test_files_of_other_kinds(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=message) as caught:
        open_file(path)
    assert "a.npz" in str(caught.value)


def test_paths_without_a_file(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="does not exist"):
        open_file(tmp_path / "none.tif")
    with pytest.raises(FormatError, match="folder without Zarr data"):
        open_file(tmp_path)


def test_a_channel_is_chosen_by_number_or_name(shared: Path) -> None:
    path = shared / "data" / "formats" / "derived_nuclei_czyx.ome.tif"
    expected = tifffile.imread(path)
    for channel, index in ((0, 0), (1, 1), ("nuclei", 0), ("mask", 1)):
        volume = open_volume(path, channel=channel)
        assert volume.axes == ("z", "y", "x")
        np.testing.assert_array_equal(np.asarray(volume.data), expected[index])
    for wrong in (None, 2, -1, "membrane"):
        with pytest.raises(VolumeError, match=r"choose one of 0 \(nuclei\), 1 \(mask"):
            open_volume(path, channel=wrong)


def test_a_time_point_is_chosen(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    values = np.arange(2 * 3 * 8 * 9, dtype=np.uint16).reshape(2, 3, 8, 9)
    tifffile.imwrite(path, values, imagej=True, metadata={"axes": "TZYX"})
    np.testing.assert_array_equal(np.asarray(open_volume(path, time=1).data), values[1])
    for wrong in (None, 2, -1):
        with pytest.raises(VolumeError, match=r"2 time points .* choose 0 to 1"):
            open_volume(path, time=wrong)


def test_choices_that_make_no_sense(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", STACK, metadata={"axes": "ZYX"}, ome=True)
    assert open_volume(tmp_path / "a.tif", channel=0, time=0).shape == STACK.shape
    with pytest.raises(VolumeError, match="one channel only"):
        open_volume(tmp_path / "a.tif", channel="red")
    with pytest.raises(VolumeError, match="only one time point"):
        open_volume(tmp_path / "a.tif", time=1)


def test_a_series_over_time_is_a_volume(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", STACK, metadata={"axes": "TYX"}, ome=True)
    volume = open_volume(tmp_path / "a.tif")
    assert volume.axes == ("t", "y", "x")
    assert open_volume(tmp_path / "a.tif", time=2).shape == (1, 8, 9)


def test_a_single_image_is_a_volume_of_one_slice(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", STACK[0])
    volume = open_volume(tmp_path / "a.tif")
    assert (volume.shape, volume.axes) == ((1, 8, 9), ("z", "y", "x"))
    assert as_volume(volume).shape == (1, 8, 9)
    save_labels(tmp_path / "b.tif", LABELS[:1], volume=volume, prompts=PROMPTS)
    found = np.asarray(open_file(tmp_path / "b.tif").labels[0].volume.data)
    np.testing.assert_array_equal(found, LABELS[0])


def test_colours_are_taken_together_or_one_by_one(shared: Path, tmp_path: Path) -> None:
    path = shared / "data" / "formats" / "thirdparty_test_image.ome.tif"
    colours = open_volume(path)
    assert colours.is_colour and colours.shape == (1, 513, 639, 3)
    expected = np.moveaxis(tifffile.imread(path), 0, -1)
    np.testing.assert_array_equal(np.asarray(colours.data[0]), expected)
    assert open_volume(path, channel="green").shape == (1, 513, 639)
    with pytest.raises(VolumeError, match=r"0 \(red\), 1 \(green\), 2 \(blue\)"):
        open_volume(path, channel="infrared")
    labels = np.ones((513, 639), np.uint8)
    for name in ("a.tif", "a.npz", "a.zarr"):
        save_labels(tmp_path / name, labels, volume=colours, prompts=PROMPTS)
        found = open_file(tmp_path / name).labels[0].volume
        assert (found.shape, found.axes) == (labels.shape, ("y", "x"))


def test_an_image_with_all_its_axes(shared: Path) -> None:
    formats = shared / "data" / "formats"
    assert open_image(formats / "derived_nuclei_czyx.ome.tif").axes == tuple("czyx")
    assert open_image(formats / "nibabel_example4d.nii.gz").axes == tuple("tzyx")


@pytest.mark.parametrize("name", ["a.npz", "a.tif", "a.zarr"])
@pytest.mark.parametrize("lazy", [False, True])
def test_labels_over_time(name: str, lazy: bool, tmp_path: Path) -> None:
    values = np.arange(2 * 5 * 300 * 9, dtype=np.uint16).reshape(2, 5, 300, 9) % 3
    units = ("second", *("micrometer",) * 3)
    spacing = (2.0, 3.0, 0.5, 0.25)
    volume = Volume(values, ("t", "z", "y", "x"), spacing, units, (0.0,) * 4)
    labels: Any = da.from_array(values, chunks=(1, 2, 300, 9)) if lazy else values
    save_labels(tmp_path / name, labels, volume=volume, prompts=PROMPTS)
    found = open_file(tmp_path / name).labels[0].volume
    np.testing.assert_array_equal(np.asarray(found.data), values)
    if not name.endswith("npz"):
        assert found.axes == volume.axes
        assert (found.spacing, found.units) == (spacing, units)
    if name.endswith("zarr"):
        np.testing.assert_array_equal(
            np.asarray(found.levels[0]), values[..., ::2, ::2]
        )


@pytest.mark.parametrize(
    ("dtype", "message"),
    [("?", "True and False only"), ("u1", None), ("<i2", None), (">u2", None)],
)
def test_types_of_voxels(dtype: str, message: str | None, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", imgs=STACK.astype(dtype))
    volume = open_volume(tmp_path / "a.npz")
    if message is None:
        assert as_volume(volume).dtype == np.dtype(dtype)
    else:
        with pytest.raises(VolumeError, match=message):
            as_volume(volume)


def test_an_empty_volume(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", imgs=STACK[:0])
    with pytest.raises(VolumeError, match="is empty"):
        as_volume(open_volume(tmp_path / "a.npz"))


def test_of_several_images_the_first_is_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = zarr.create_group(store=str(tmp_path / "a.zarr"))
    for i in (1, 2):
        root.create_array(str(i), data=STACK * i)
    volume = open_volume(tmp_path / "a.zarr")
    np.testing.assert_array_equal(np.asarray(volume.data), STACK)
    assert "contains 2 images; the first one, 1, is used" in caplog.text


def test_labels_are_no_image(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", gts=LABELS)
    with pytest.raises(FormatError, match="contains only labels"):
        open_volume(tmp_path / "a.npz")


@pytest.mark.parametrize(
    "name", ["a.npz", "a.tif", "a.ome.tiff", "a.ome.zarr", "a.ZARR"]
)
@pytest.mark.parametrize("lazy", [False, True])
def test_labels_round_trip(name: str, lazy: bool, tmp_path: Path) -> None:
    labels: Any = da.from_array(LABELS, chunks=(2, -1, -1)) if lazy else LABELS
    save_labels(tmp_path / name, labels, volume=VOLUME, prompts=PROMPTS)
    contents = open_file(tmp_path / name)
    found = contents.labels[0].volume
    np.testing.assert_array_equal(np.asarray(found.data), LABELS)
    assert contents.prompts == PROMPTS
    if not name.endswith("npz"):
        assert (found.spacing, found.units) == (VOLUME.spacing, VOLUME.units)
    with pytest.raises(OutputError, match="exists already"):
        save_labels(tmp_path / name, labels, volume=VOLUME, prompts=PROMPTS)
    save_labels(tmp_path / name, labels, volume=VOLUME, prompts=PROMPTS, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["a.npz", "a.tif", "a.zarr"])
def test_a_failure_leaves_no_half_file(name: str, tmp_path: Path) -> None:
    def fail(block: Any, block_info: Any = None) -> Any:
        if block_info[0]["chunk-location"][0] == 1:
            raise BiomedParseError("the network fell over")
        return block

    source = da.from_array(LABELS, chunks=(2, -1, -1))
    labels: Any = source.map_blocks(fail, dtype=np.uint8, meta=LABELS[:0])
    with pytest.raises(BiomedParseError, match="fell over"):
        save_labels(tmp_path / name, labels, volume=VOLUME, prompts=PROMPTS)
    too_big: Any = da.from_array(LABELS.astype(np.int32) + 300)
    with pytest.raises(VolumeError, match="value 302"):
        save_labels(tmp_path / name, too_big, volume=VOLUME, prompts=PROMPTS)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written(tmp_path: Path) -> None:
    for name in ("a.gz", "a", "a.png"):
        with pytest.raises(OptionError, match=r"\.npz, .*\.nii, \.nii\.gz, \.zarr"):
            save_labels(tmp_path / name, LABELS, volume=VOLUME, prompts=PROMPTS)
    with pytest.raises(VolumeError, match="they must be equal"):
        save_labels(tmp_path / "a.tif", LABELS[1:], volume=VOLUME, prompts=PROMPTS)
    with pytest.raises(VolumeError, match="round them to integers"):
        save_labels(tmp_path / "a.tif", LABELS / 2, volume=VOLUME, prompts=PROMPTS)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="is a file, not a folder"):
        save_labels(tmp_path / "file/a.tif", LABELS, volume=VOLUME, prompts=PROMPTS)


def _write(path: Path, dtype: str = "u1", shape: tuple[int, ...] = (3, 8, 9)) -> Path:
    tifffile.imwrite(path, np.ones(shape, dtype), photometric="minisblack")
    return path


def test_labels_of_a_single_image_are_one_slice(tmp_path: Path) -> None:
    labels = open_labels(_write(tmp_path / "a.tif", shape=(8, 9)))
    assert read_labels(labels).shape == (1, 8, 9)


def test_labels_of_fractions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(VolumeError, match=r"a\.tif has labels of type float32"):
        open_labels(_write(tmp_path / "a.tif", "f4"))


def test_a_picture_in_color_is_a_mask(tmp_path: Path) -> None:
    pixels = np.zeros((3, 4, 4), np.uint8)
    pixels[..., 3] = 255  # opaque, which does not count
    pixels[1, 2, 0] = pixels[2, 3, 2] = 1
    Image.fromarray(pixels).save(tmp_path / "a.png")
    volume = open_labels(tmp_path / "a.png").volume
    assert volume.axes == ("z", "y", "x") and volume.flat
    expected = np.zeros((1, 3, 4), int)
    expected[0, 1, 2] = expected[0, 2, 3] = 255
    np.testing.assert_array_equal(np.asarray(volume.data), expected)


def test_labels_with_channels_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, np.ones((2, 3, 8, 9), "u1"), metadata={"axes": "CZYX"})
    with pytest.raises(VolumeError, match=r"4 axes \(c, z, y, x\)"):
        open_labels(path)


def test_axes_and_voxel_size_are_given(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    metadata = {"spacing": 0.5, "unit": "um"}
    values = np.zeros((5, 8, 9), np.uint8)
    tifffile.imwrite(path, values, imagej=True, resolution=(4, 4), metadata=metadata)
    with pytest.raises(VolumeError, match="If they are slices, name the axes"):
        open_volume(path)
    volume = open_volume(path, axes="zyx")
    assert (volume.axes, volume.spacing) == (("z", "y", "x"), (0.5, 0.25, 0.25))
    volume = open_volume(path, axes="ZYX", voxel_size="30, 4,4 nm")
    assert (volume.spacing, volume.units) == ((30, 4, 4), ("nanometer",) * 3)
    for axes, error in (("TZYX", VolumeError), ("ZZX", OptionError)):
        with pytest.raises(error, match="axes"):
            open_volume(path, axes=axes)
    np.savez(tmp_path / "a.npz", imgs=values)
    with pytest.raises(VolumeError, match="cannot be named TYX"):
        open_volume(tmp_path / "a.npz", axes="TYX")
