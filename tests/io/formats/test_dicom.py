"""DICOM: pydicom's own values, and series in the order of their places."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from made_dicom import write
from numpy.typing import NDArray
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels import apply_color_lut, apply_modality_lut, pixel_array
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from napari_biomedparse.errors import FormatError
from napari_biomedparse.io import (
    can_open,
    open_file,
    open_labels,
    open_volume,
    save_labels,
)
from napari_biomedparse.io.inputs import find_files, identify

Arrays = NDArray[Any]
SHIPPED = [
    "693_J2KI.dcm", "CT_small.dcm", "ExplVR_BigEnd.dcm", "J2K_pixelrep_mismatch.dcm",
    "JPEG2000.dcm", "MR_small_RLE.dcm", "MR_small_bigendian.dcm",
    "MR_small_implicit.dcm", "MR_small_jp2klossless.dcm", "MR_small_padded.dcm",
    "SC_jpeg_no_color_transform.dcm", "SC_rgb_dcmtk_+eb+cy+np.dcm",
    "SC_rgb_dcmtk_+eb+cy+s4.dcm", "SC_rgb_jpeg.dcm", "SC_rgb_jpeg_dcmd.dcm",
    "SC_rgb_jpeg_lossy_gdcm.dcm", "SC_rgb_rle.dcm", "SC_rgb_rle_16bit_2frame.dcm",
    "SC_rgb_small_odd.dcm", "SC_rgb_small_odd_big_endian.dcm",
    "SC_ybr_full_422_uncompressed.dcm", "examples_jpeg2k.dcm", "examples_overlay.dcm",
    "examples_palette.dcm", "examples_rgb_color.dcm", "examples_ybr_color.dcm",
    "image_dfl.dcm", "liver_1frame.dcm", "rtdose.dcm", "rtdose_rle.dcm",
]  # fmt: skip
"""Files of pydicom's wheel: packed in all ways that Pillow and pydicom unpack."""
AXIAL = [1.0, 0, 0, 0, 1, 0]
OBLIQUE = [0.8, 0.6, 0.0, -0.6, 0.8, 0.0]
AXIS = {
    "axial": AXIAL,
    "coronal": [1.0, 0, 0, 0, 0, -1],
    "sagittal": [0.0, 1, 0, 0, 0, -1],
}


def shipped(name: str) -> Path:
    found = get_testdata_file(name, download=False)
    if found is None:
        pytest.skip(f"pydicom does not ship {name}")
    return Path(str(found))


def values(path: Path) -> Arrays:
    return np.asarray(open_file(path).images[0].data)


def random(dtype: str, *shape: int) -> Arrays:
    info = np.iinfo(dtype)
    made = np.random.default_rng(0)
    return made.integers(info.min, info.max, shape, dtype, endpoint=True)


def series(
    folder: Path,
    places: list[float],
    sides: list[float] = AXIAL,
    change: Callable[[int, dict[str, Any]], None] = lambda *_: None,
) -> Arrays:
    """Write a slice at each place along the normal, named at random; return them."""
    pixels = random("uint16", len(places), 5, 7)
    normal = np.cross(sides[:3], sides[3:])
    names = np.random.default_rng(1).permutation(len(places))
    for i, (name, place) in enumerate(zip(names, places, strict=True)):
        more: dict[str, Any] = {
            "ImagePositionPatient": [float(n) for n in 3.0 + normal * place],
            "ImageOrientationPatient": sides,
            "PixelSpacing": [0.5, 0.25],
            "RescaleSlope": 1,
            "RescaleIntercept": -1024,
        }
        change(i, more)
        write(folder / f"IM{name}", more.pop("pixels", pixels[i]), **more)
    return pixels


@pytest.mark.parametrize("name", SHIPPED)
def test_values_are_those_of_pydicom(name: str) -> None:
    path = shipped(name)
    image = pydicom.dcmread(path)
    expected = image.pixel_array
    if image.PhotometricInterpretation == "PALETTE COLOR":
        expected = apply_color_lut(expected, image) >> 8
    elif "YBR_FULL" in image.PhotometricInterpretation:
        expected = pixel_array(path)
    expected = apply_modality_lut(expected, image)
    np.testing.assert_array_equal(values(path), expected)


@pytest.mark.parametrize(
    "dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int32"]
)
def test_numbers_of_all_types_are_read_as_stored(dtype: str, tmp_path: Path) -> None:
    pixels = random(dtype, 5, 7)
    volume = open_file(write(tmp_path / "a.dcm", pixels)).images[0]
    assert (volume.dtype, volume.axes, volume.name) == (dtype, ("y", "x"), "a")
    assert volume.units == ("pixel", "pixel")
    np.testing.assert_array_equal(np.asarray(volume.data), pixels)


@pytest.mark.parametrize(
    ("dtype", "slope", "intercept", "found"),
    [
        ("uint16", 1, -1024, "float64"),
        ("int8", 2, 3, "float64"),
        ("uint8", 1, 0, "uint8"),
        ("uint16", 0.25, -3, "float64"),
    ],
)
def test_values_are_rescaled(
    dtype: str, slope: float, intercept: float, found: str, tmp_path: Path
) -> None:
    pixels = random(dtype, 5, 7)
    scale = {"RescaleSlope": slope, "RescaleIntercept": intercept}
    got = values(write(tmp_path / "a.dcm", pixels, **scale))
    assert got.dtype == found
    expected = pixels.astype(np.float64) * slope + intercept
    np.testing.assert_array_equal(got, expected)


def test_more_is_brighter_where_0_is_white_but_labels_stay(tmp_path: Path) -> None:
    pixels = random("uint16", 5, 7) >> 4
    white = {
        "PhotometricInterpretation": "MONOCHROME1",
        "BitsStored": 12,
        "HighBit": 11,
    }
    scaled = {**white, "RescaleSlope": 2, "RescaleIntercept": 1}
    path = write(tmp_path / "a.dcm", pixels, **white)
    np.testing.assert_array_equal(values(path), 4095 - pixels)
    np.testing.assert_array_equal(np.asarray(open_labels(path).volume.data)[0], pixels)
    path = write(tmp_path / "b.dcm", pixels, **scaled)
    np.testing.assert_array_equal(values(path), (4095 - pixels.astype(int)) * 2 + 1)
    signed = random("int16", 5, 7)
    path = write(tmp_path / "c.dcm", signed, PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_array_equal(values(path), -1 - signed)


def test_a_table_of_values_is_looked_up(tmp_path: Path) -> None:
    item = Dataset()
    item.LUTDescriptor, item.LUTData = [256, 0, 16], list(range(0, 2560, 10))
    item["LUTDescriptor"].VR = item["LUTData"].VR = "US"
    pixels = random("uint8", 5, 7)
    path = write(tmp_path / "a.dcm", pixels, ModalityLUTSequence=[item])
    np.testing.assert_array_equal(values(path), pixels * np.uint16(10))


def test_colours_are_the_last_axis(tmp_path: Path) -> None:
    pixels = random("uint8", 5, 7, 3)
    image = open_file(write(tmp_path / "a.dcm", pixels)).images[0]
    assert (image.axes, image.channel_names) == (
        ("y", "x", "c"),
        ("red", "green", "blue"),
    )
    np.testing.assert_array_equal(np.asarray(image.data), pixels)
    assert open_volume(tmp_path / "a.dcm").is_colour


def test_frames_without_places_are_a_series(tmp_path: Path) -> None:
    pixels = random("uint8", 4, 5, 7)
    path = write(tmp_path / "a.dcm", pixels, PixelSpacing=[2, 3])
    volume = open_volume(path)
    assert (volume.axes, volume.spacing) == (("t", "y", "x"), (1, 2, 3))
    assert volume.units == ("pixel", "millimeter", "millimeter")
    np.testing.assert_array_equal(np.asarray(volume.data), pixels)


def test_frames_with_places_are_slices_in_their_order(tmp_path: Path) -> None:
    pixels, groups = random("int16", 3, 5, 7), []
    for place, slope in ((4, 1), (0, 2), (2, 1)):
        group, position, scale = Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = [1, 2, place]
        scale.RescaleSlope, scale.RescaleIntercept = slope, 5
        group.PlanePositionSequence = [position]
        group.PixelValueTransformationSequence = [scale]
        groups.append(group)
    shared, turned, sizes = Dataset(), Dataset(), Dataset()
    turned.ImageOrientationPatient, sizes.PixelSpacing = AXIAL, [0.5, 0.25]
    shared.PlaneOrientationSequence = [turned]
    shared.PixelMeasuresSequence = [sizes]
    path = write(
        tmp_path / "a.dcm",
        pixels,
        PerFrameFunctionalGroupsSequence=groups,
        SharedFunctionalGroupsSequence=[shared],
    )
    volume = open_volume(path)
    assert (volume.axes, volume.spacing) == (("z", "y", "x"), (2, 0.5, 0.25))
    assert volume.origin == (0, 2, 1)
    wide = pixels.astype(int)
    expected = [wide[1] * 2 + 5, wide[2] + 5, wide[0] + 5]
    np.testing.assert_array_equal(np.asarray(volume.data), expected)


@pytest.mark.parametrize(
    "sides", [*AXIS.values(), OBLIQUE], ids=["axial", "coronal", "sagittal", "oblique"]
)
def test_a_series_is_sorted_by_place(sides: list[float], tmp_path: Path) -> None:
    pixels = series(tmp_path / "s", [10.0, 4.0, 7.0, 1.0], sides)
    volume = open_volume(tmp_path / "s")
    assert (volume.axes, volume.name) == (("z", "y", "x"), "s")
    np.testing.assert_allclose(volume.spacing, (3, 0.5, 0.25))
    assert set(volume.units) == {"millimeter"}
    normal, place = np.cross(sides[:3], sides[3:]), np.full(3, 3.0)
    along = [normal @ place + 1, np.dot(sides[3:], place), np.dot(sides[:3], place)]
    np.testing.assert_allclose(volume.origin, along)
    np.testing.assert_allclose(volume.directions, [normal, sides[3:], sides[:3]])
    expected = pixels[[3, 1, 2, 0]].astype(int) - 1024
    np.testing.assert_array_equal(np.asarray(volume.data), expected)


def test_labels_in_nifti_lie_where_the_patient_is(tmp_path: Path) -> None:
    series(tmp_path / "s", [4.0, 1.0], OBLIQUE)
    volume, path = open_volume(tmp_path / "s"), tmp_path / "labels.nii.gz"
    labels = np.ones(volume.shape, np.uint8)
    save_labels(path, labels, volume=volume, prompts=None)
    normal = np.cross(OBLIQUE[:3], OBLIQUE[3:])
    columns = [0.25 * np.array(OBLIQUE[:3]), 0.5 * np.array(OBLIQUE[3:]), 3 * normal]
    first = 3.0 + normal  # the place of the slice at 1
    affine = np.diag([-1.0, -1, 1, 1]) @ np.vstack(
        [np.column_stack([*columns, first]), [0, 0, 0, 1]]
    )  # NIfTI counts to the right and to the front
    found = nibabel.load(path).affine  # type: ignore[attr-defined]
    np.testing.assert_allclose(found, affine, atol=1e-6)


def test_each_slice_has_its_own_scale(tmp_path: Path) -> None:
    def scaled(i: int, more: dict[str, Any]) -> None:
        more |= {"RescaleSlope": 0.5 * i, "RescaleIntercept": 0}

    pixels = series(tmp_path / "s", [0.0, 1.0, 2.0], change=scaled)
    expected = pixels * np.array([1, 0.5, 1], np.float32)[:, None, None]
    np.testing.assert_array_equal(values(tmp_path / "s")[1:], expected[1:])


def test_a_folder_or_pattern_of_a_series_is_one_volume(tmp_path: Path) -> None:
    pixels = series(tmp_path / "s", [0.0, 1.0])
    index = Dataset()
    index.file_meta = FileMetaDataset()
    index.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    index.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    index.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    index.save_as(tmp_path / "s" / "DICOMDIR", enforce_file_format=True)
    (tmp_path / "s" / "._IM0").write_bytes(b"of a Mac")
    (tmp_path / "s" / "seen.jpg").write_bytes(b"a thumbnail")
    (tmp_path / "s" / "readme").write_text("how it was made")
    for given in ("s", "s/IM*"):
        assert can_open(tmp_path / given)
        found = np.asarray(open_volume(tmp_path / given).data)
        np.testing.assert_array_equal(found, pixels.astype(int) - 1024)
    assert find_files([tmp_path / "s"]) == (tmp_path / "s",)
    assert len(find_files([tmp_path / "s" / "IM*"])) == 2
    before = identify(open_volume(tmp_path / "s"))
    series(tmp_path / "s", [0.0, 1.0, 2.0])
    assert before["files"] != identify(open_volume(tmp_path / "s"))["files"]


def test_gaps_and_shifts_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    series(tmp_path / "whole", [0.0, 2.0, 4.01, 6.0])
    assert open_volume(tmp_path / "whole").spacing[0] == pytest.approx(2)
    assert not caplog.records
    series(tmp_path / "gap", [0.0, 2.0, 4.0, 10.0])
    assert open_volume(tmp_path / "gap").spacing[0] == 2
    assert "lie 2 to 6 mm apart, first unevenly after slice 2" in caplog.text

    def tilted(i: int, more: dict[str, Any]) -> None:
        more["ImagePositionPatient"] = [0, 0.4 * i, 2.0 * i]

    series(tmp_path / "tilted", [0.0, 2.0, 4.0], change=tilted)
    assert open_volume(tmp_path / "tilted").spacing[0] == 2
    assert "shifted by 0.4 mm each" in caplog.text


def other_series(i: int, more: dict[str, Any]) -> None:
    more |= {"SeriesInstanceUID": "1.2.9", "SeriesDescription": "T2"} if i else {}


def localizer(i: int, more: dict[str, Any]) -> None:
    more |= {"ImageOrientationPatient": AXIS["coronal"]} if i == 1 else {}


def another_size(i: int, more: dict[str, Any]) -> None:
    more |= {"pixels": np.zeros((6, 7), np.uint16)} if i == 2 else {}


def larger_pixels(i: int, more: dict[str, Any]) -> None:
    more |= {"PixelSpacing": [0.6, 0.25]} if i == 2 else {}


def nowhere(i: int, more: dict[str, Any]) -> None:
    del more["ImagePositionPatient"]


@pytest.mark.parametrize(
    ("change", "places", "told"),
    [
        (other_series, [0.0, 1.0, 2.0], r"2 series \(2 of 'T2', 1 of 'a series'\)"),
        (localizer, [0.0, 1.0, 2.0], "differs from .* direction"),
        (another_size, [0.0, 1.0, 2.0], "differs from .* in size"),
        (larger_pixels, [0.0, 1.0, 2.0], "differs from .* pixel size"),
        (nowhere, [0.0, 1.0, 2.0], "do not say where they lie"),
        (lambda *_: None, [0.0, 1.0, 1.0, 2.0], "share positions"),
        (lambda *_: None, [0.0, 0.0, 1.0, 1.0], "share positions"),
    ],
)
def test_what_is_not_one_volume_is_refused(
    change: Any, places: list[float], told: str, tmp_path: Path
) -> None:
    series(tmp_path / "s", places, change=change)
    with pytest.raises(FormatError, match=told):
        open_file(tmp_path / "s")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("MR_truncated.dcm", "describes 8192 bytes, but only"),
        ("JPEGLSNearLossless_08.dcm", "JPEG-LS.*there is no decoder.*pylibjpeg"),
        ("rtplan.dcm", r"no image \(RT Plan Storage\)"),
    ],
)
def test_shipped_files_are_refused_in_a_sentence(name: str, told: str) -> None:
    with pytest.raises(FormatError, match=told):
        open_file(shipped(name))


def test_what_no_decoder_takes_is_told_when_it_is_read() -> None:
    with pytest.raises(
        FormatError, match=r"JPEG Extended.*12-bit.*without compression"
    ):
        values(shipped("JPGExtended.dcm"))


def test_optional_things_that_are_wrong_are_left_out(tmp_path: Path) -> None:
    pixels = random("uint8", 5, 7)
    for number, spacing in enumerate(([0, 1], [-1, -1], [1, 2, 3])):
        more = {"PixelSpacing": spacing, "ImageOrientationPatient": [0] * 6}
        image = open_file(write(tmp_path / f"{number}.dcm", pixels, **more)).images[0]
        assert (image.units, image.directions) == (("pixel", "pixel"), ())


def test_a_missing_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.dcm", random("uint8", 5, 7))
    monkeypatch.setitem(sys.modules, "pydicom", None)
    monkeypatch.delitem(sys.modules, "pydicom.pixels")
    assert can_open(path)
    with pytest.raises(FormatError, match=r"need pydicom.*pip install"):
        open_file(path)


def test_what_pydicom_warns_of_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "pydicom"):
        values(shipped("MR_small_padded.dcm"))
