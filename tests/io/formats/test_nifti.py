"""NIfTI files against nibabel's own reading, and labels that lie where they belong."""

from __future__ import annotations

import gzip
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import dask.array as da
import nibabel
import numpy as np
import pytest

from napari_biomedparse.data.prompts import PromptSet, parse_prompts
from napari_biomedparse.data.volume import Volume, as_volume
from napari_biomedparse.errors import FormatError, OptionError, VolumeError
from napari_biomedparse.io import open_file, open_volume, recognise, save_labels
from napari_biomedparse.io.files import check_output

PROMPTS = parse_prompts({1: "liver", 300: "spleen"})
NAMES = (
    "derived_amos_crop_ct.nii.gz",
    "derived_amos_crop_gt.nii.gz",
    "nibabel_anatomical.nii",
    "nibabel_example4d.nii.gz",
    "nibabel_someones_anatomy.nii.gz",
)


def _write(path: Path, values: Any, affine: Any = None, **header: Any) -> Path:
    image = nibabel.Nifti1Image(values, np.eye(4) if affine is None else affine)
    image.header.set_xyzt_units(**header)
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize("name", NAMES)
def test_shared_files_are_read_as_nibabel_reads_them(shared: Path, name: str) -> None:
    path = shared / "data" / "formats" / name
    image: Any = nibabel.load(path)
    assert recognise(path) == "nifti"
    (volume,) = open_file(path).images
    assert isinstance(volume.data, da.Array)
    assert volume.axes == ("t", "z", "y", "x")[-image.ndim :]
    assert volume.shape == image.shape[::-1]
    values = np.asarray(volume.data)
    assert values.dtype == volume.dtype
    expected = image.get_fdata().T
    np.testing.assert_allclose(values, expected, rtol=1e-6)
    assert volume.spacing == tuple(map(float, image.header.get_zooms()[::-1]))
    assert volume.units[-3:] == ("millimeter",) * 3
    if image.ndim == 4:
        assert volume.units[0] == "second"
    assert volume.name == name.partition(".")[0]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_labels_get_affine_zooms_and_units_of_their_image(
    shared: Path, name: str, suffix: str, tmp_path: Path
) -> None:
    path = shared / "data" / "formats" / name
    source: Any = nibabel.load(path)
    volume = open_file(path).images[0]
    values = np.arange(np.prod(volume.shape)).reshape(volume.shape) % 3 * 150
    lazy: Any = da.from_array(values.astype(np.uint16), chunks=7)
    save_labels(tmp_path / f"a{suffix}", lazy, volume=volume, prompts=PROMPTS)
    found: Any = nibabel.load(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(np.asarray(found.dataobj).T, values)
    np.testing.assert_array_equal(found.affine, source.affine)
    assert found.header.get_zooms() == source.header.get_zooms()
    assert found.header.get_xyzt_units() == source.header.get_xyzt_units()
    for code in ("qform_code", "sform_code"):
        assert found.header[code] == source.header[code]
    contents = open_file(tmp_path / f"a{suffix}")
    (labels,) = contents.labels
    assert contents.images == ()
    assert contents.prompts == PROMPTS
    assert labels.volume.spacing == volume.spacing
    np.testing.assert_array_equal(np.asarray(labels.volume.data), values)


def test_labels_of_one_time_point_keep_the_affine(shared: Path, tmp_path: Path) -> None:
    path = shared / "data" / "formats" / "nibabel_example4d.nii.gz"
    with pytest.raises(VolumeError, match="2 time points"):
        open_volume(path)
    volume = open_volume(path, time=1)
    labels = np.ones(volume.shape, np.uint8)
    save_labels(tmp_path / "a.nii", labels, volume=volume, prompts=None)
    found: Any = nibabel.load(tmp_path / "a.nii")
    assert found.shape == volume.shape[::-1]
    source: Any = nibabel.load(path)
    np.testing.assert_array_equal(found.affine, source.affine)


@pytest.mark.parametrize(
    ("unit", "code", "factor"),
    [
        ("micrometer", "micron", 1),
        ("millimeter", "mm", 1),
        ("nanometer", "mm", 1e-6),
        ("pixel", "unknown", 1),  # which everybody reads as mm
    ],
)
def test_a_volume_of_another_format_gets_an_affine(
    unit: str, code: str, factor: float, tmp_path: Path
) -> None:
    axes, units = ("z", "y", "x"), (unit,) * 3
    labels = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
    volume = Volume(labels, axes, (4.0, 0.5, 0.25), units, (3.0, 2.0, 1.0))
    instances = PromptSet(PROMPTS.prompts, instance=True)
    save_labels(tmp_path / "a.nii.gz", labels, volume=volume, prompts=instances)
    found: Any = nibabel.load(tmp_path / "a.nii.gz")
    expected = np.diag([0.25, 0.5, 4, 1])
    expected[:3, 3] = 1, 2, 3
    expected[:3] *= factor
    np.testing.assert_allclose(found.affine, expected, rtol=1e-6)
    assert found.header.get_xyzt_units()[0] == code
    contents = open_file(tmp_path / "a.nii.gz")
    assert contents.prompts == instances
    again = contents.labels[0].volume
    if factor == 1:
        units = units if unit != "pixel" else ("millimeter",) * 3
        assert (again.spacing, again.units) == (volume.spacing, units)
        assert again.origin == volume.origin


def test_a_single_image_and_a_series(tmp_path: Path) -> None:
    flat = as_volume(np.zeros((5, 6), np.uint8))
    labels = np.arange(30, dtype=np.uint8).reshape(5, 6)
    save_labels(tmp_path / "a.nii", labels, volume=flat, prompts=None)
    found = open_file(tmp_path / "a.nii").labels[0].volume
    assert found.axes == ("y", "x")
    np.testing.assert_array_equal(np.asarray(found.data), labels)
    rank, units = (2.0, 3.0, 1.0, 1.0), ("second", *("micrometer",) * 3)
    values = np.arange(2 * 3 * 4 * 5, dtype=np.uint16).reshape(2, 3, 4, 5) * 9
    series = Volume(values, ("t", "z", "y", "x"), rank, units, (0.0,) * 4)
    save_labels(tmp_path / "b.nii", values, volume=series, prompts=None)
    again = open_file(tmp_path / "b.nii").labels[0].volume
    assert (again.axes, again.spacing, again.units) == (series.axes, rank, units)
    np.testing.assert_array_equal(np.asarray(again.data), values)


def test_a_part_of_a_volume_cannot_have_the_header_of_the_whole(
    shared: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = shared / "data" / "formats" / "nibabel_anatomical.nii"
    whole = open_file(path).images[0]
    part = Volume(
        whole.data[:3],
        whole.axes,
        whole.spacing,
        whole.units,
        whole.origin,
        header=whole.header,
    )
    labels = np.ones(part.shape, np.uint8)
    save_labels(tmp_path / "a.nii", labels, volume=part, prompts=None)
    assert "was cropped" in caplog.text
    found: Any = nibabel.load(tmp_path / "a.nii")
    np.testing.assert_array_equal(np.abs(found.affine[:3, :3]), np.diag([2.0] * 3))


def test_blocks_are_read_where_they_are_asked_for(tmp_path: Path) -> None:
    values = np.arange(64 * 64 * 40, dtype=np.int32).reshape(64, 64, 40)
    volume = open_volume(_write(tmp_path / "a.nii", values.astype(np.float32)))
    np.testing.assert_array_equal(np.asarray(volume.data[30:32]), values.T[30:32])


def test_nifti_2(tmp_path: Path) -> None:
    affine = np.array([[0, 2, 0, 1], [0, 0, 3, 2], [4, 0, 0, 3], [0, 0, 0, 1.0]])
    values = np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 3, 4)
    nibabel.save(nibabel.Nifti2Image(values, affine), tmp_path / "a.nii")
    volume = open_volume(tmp_path / "a.nii")
    np.testing.assert_array_equal(np.asarray(volume.data), values.T)
    labels = np.ones(volume.shape, np.uint8)
    save_labels(tmp_path / "b.nii", labels, volume=volume, prompts=PROMPTS)
    found: Any = nibabel.load(tmp_path / "b.nii")
    assert isinstance(found, nibabel.Nifti2Image)
    np.testing.assert_array_equal(found.affine, affine)
    assert open_file(tmp_path / "b.nii").prompts == PROMPTS


def test_damaged_files(shared: Path, tmp_path: Path) -> None:
    good = (shared / "data" / "formats" / "nibabel_anatomical.nii").read_bytes()
    cut = tmp_path / "cut.nii"
    cut.write_bytes(good[:9000])
    with pytest.raises(FormatError, match=r"cut\.nii is incomplete.* only 9000 are"):
        open_volume(cut)
    packed = tmp_path / "cut.nii.gz"
    packed.write_bytes(gzip.compress(good)[:5000])
    with pytest.raises(FormatError, match=r"cut\.nii\.gz is incomplete"):
        open_volume(packed)
    header = bytearray(good)
    header[70:72] = b"\x7f\x7f"  # no such data type
    cut.write_bytes(header)
    with pytest.raises(FormatError, match="not a complete NIfTI file"):
        open_file(cut)


@pytest.mark.parametrize("ending", ["nii", "nii.gz"])
def test_a_part_that_the_file_cannot_hold_is_not_allocated(
    ending: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.nii"
    nibabel.save(nibabel.Nifti1Image(np.zeros((2, 3, 4), "i2"), np.eye(4)), path)
    content = bytearray(path.read_bytes())
    content[42:46] = np.array([20000, 20000], "<i2").tobytes()
    path = tmp_path / f"b.{ending}"
    path.write_bytes(gzip.compress(content) if ending == "nii.gz" else content)
    with pytest.raises(FormatError, match="describes 3200000000 bytes, but only"):
        open_volume(path)


def test_a_file_packed_in_several_goes_is_whole(tmp_path: Path) -> None:
    values = np.arange(24, dtype="i2").reshape(2, 3, 4)
    content = _write(tmp_path / "a.nii", values).read_bytes()
    path = tmp_path / "b.nii.gz"
    path.write_bytes(gzip.compress(content[:380]) + gzip.compress(content[380:]))
    np.testing.assert_array_equal(np.asarray(open_volume(path).data).T, values)


@pytest.mark.parametrize("code", [0, 5, 8 | 5])
def test_without_a_known_unit_lengths_are_millimeters(
    code: int, tmp_path: Path
) -> None:
    path = _write(tmp_path / "a.nii", np.zeros((4, 5, 6, 2), "i2"))
    content = bytearray(path.read_bytes())
    content[123] = code
    path.write_bytes(content)
    assert open_file(path).images[0].units[1:] == ("millimeter",) * 3


def test_what_a_header_says_twice_and_differently_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def told(**changes: Any) -> str:
        image = nibabel.Nifti1Image(np.zeros((4, 5, 6), "i2"), None)
        image.header.set_zooms((1, 1, 3))
        for name, affine in changes.items():
            getattr(image.header, f"set_{name}")(affine, 1)
        if "pixdim" in changes:
            image.header["pixdim"][1:4] = 1
        image.header.write_to(file := (tmp_path / "a.nii").open("wb"))
        file.write(bytes(4 + 240))
        file.close()
        caplog.clear()
        open_file(tmp_path / "a.nii")
        return caplog.text

    flat, turned = np.diag([1.0, 1, 3, 1]), np.diag([-1.0, -1, 3, 1])
    assert told(qform=flat, sform=flat) == told(sform=turned) == told() == ""
    assert "qform and the sform" in told(qform=flat, sform=turned)
    larger = np.diag([2.0, 2, 3, 1])
    assert "1 x 1 x 3 in pixdim and 2 x 2 x 3" in told(qform=flat, sform=larger)


@pytest.mark.parametrize("kind", ["turned", "sheared", "mirrored"])
def test_a_volume_that_is_turned_gets_its_affine(kind: str, tmp_path: Path) -> None:
    linear = {  # x, y, z
        "turned": np.array([[0.6, -0.8, 0], [0.8, 0.6, 0], [0, 0, 3.0]]),
        "sheared": np.array([[1.0, 0.3, 0], [0, 1, 0], [0, 0, 3]]),
        "mirrored": np.diag([-1.0, 1, 3]),
    }[kind]
    labels = np.ones((2, 3, 4), np.uint8)
    edges = tuple(np.linalg.norm(linear, axis=0)[::-1].tolist())
    matrix = tuple(map(tuple, linear[::-1, ::-1].tolist()))
    volume = Volume(
        labels, ("z", "y", "x"), edges, ("millimeter",) * 3, (7.0, 8, 9), matrix=matrix
    )
    save_labels(tmp_path / "a.nii", labels, volume=volume, prompts=None)
    found: Any = nibabel.load(tmp_path / "a.nii")
    np.testing.assert_allclose(found.affine[:3, :3], linear, atol=1e-6)
    assert found.affine[:3, 3].tolist() == [9, 8, 7]
    assert int(found.header["qform_code"]) == (0 if kind == "sheared" else 2)


@pytest.mark.parametrize("change", ["spacing", "origin", "units"])
def test_a_volume_that_was_moved_loses_the_orientation_of_its_file(
    change: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    affine = np.diag([-1.0, 1, 3, 1])
    volume = open_volume(_write(tmp_path / "a.nii", np.zeros((4, 5, 6), "i2"), affine))
    new = {"spacing": (6.0, 1.0, 1.0), "origin": (0.0, 0, 5), "units": ("meter",) * 3}
    labels = np.ones(volume.shape, np.uint8)
    save_labels(tmp_path / "same.nii", labels, volume=volume, prompts=None)
    same: Any = nibabel.load(tmp_path / "same.nii")
    np.testing.assert_array_equal(same.affine, affine)
    assert caplog.text == ""
    moved = replace(volume, **{change: new[change]})
    save_labels(tmp_path / "moved.nii", labels, volume=moved, prompts=None)
    again = open_file(tmp_path / "moved.nii").labels[0].volume
    assert getattr(again, change) == new[change]
    assert "moved or scaled" in caplog.text


@pytest.mark.parametrize("length", [0, -3])
def test_an_axis_without_voxels(length: int, tmp_path: Path) -> None:
    path = tmp_path / "a.nii"
    nibabel.save(nibabel.Nifti2Image(np.zeros((2, 3, 4), "i2"), np.eye(4)), path)
    content = bytearray(path.read_bytes())
    content[32:40] = length.to_bytes(8, "little", signed=True)
    path.write_bytes(content)
    with pytest.raises(FormatError, match=rf"shape \(2, {length}, 4\)"):
        open_file(path)


def test_what_is_no_nifti(tmp_path: Path) -> None:
    for name, content in (
        ("a.nii", b"nothing"),
        ("b.nii.gz", gzip.compress(b"text")),
        ("c.nii.gz", b"\x1f\x8bnot packed"),
    ):
        (tmp_path / name).write_bytes(content)
        assert recognise(tmp_path / name) is None
        with pytest.raises(FormatError, match="not in a supported format"):
            open_file(tmp_path / name)
    rgb = np.zeros((3, 4, 5), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.save(nibabel.Nifti1Image(rgb, np.eye(4)), tmp_path / "d.nii")
    with pytest.raises(FormatError, match="real numbers are needed"):
        open_file(tmp_path / "d.nii")


def test_without_nibabel_the_extra_is_named(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "nibabel", None)
    path = shared / "data" / "formats" / "nibabel_anatomical.nii"
    with pytest.raises(FormatError, match=r"-m pip install .nibabel>="):
        open_file(path)
    with pytest.raises(OptionError, match=r"-m pip install .nibabel>="):
        check_output(tmp_path / "a.nii.gz")


def test_labels_of_a_box_lie_in_place_in_a_turned_file(tmp_path: Path) -> None:
    affine = np.array([[0, 2, 0, 1], [0, 0, 3, 2], [4, 0, 0, 3], [0, 0, 0, 1.0]])
    values = np.arange(5 * 6 * 7, dtype=np.int16).reshape(5, 6, 7)
    path = _write(tmp_path / "a.nii", values, affine)
    (volume,) = open_file(path).images
    box = volume.crop(z=(2, 6), y=(1, 5), x=(1, 4))
    labels = np.ones(box.shape, np.uint8)
    save_labels(tmp_path / "b.nii", labels, volume=box, prompts=None)
    found = nibabel.load(tmp_path / "b.nii")
    expected = affine.copy()
    expected[:3, 3] = (affine @ [1, 1, 2, 1])[:3]
    np.testing.assert_allclose(found.affine, expected)
    assert found.shape == (3, 4, 4)
    whole = np.linalg.inv(nibabel.load(path).affine) @ found.affine @ [0, 0, 0, 1]
    np.testing.assert_allclose(whole, [1, 1, 2, 1], atol=1e-5)


@pytest.mark.parametrize(
    ("name", "other"), [("a.nii", "b.nii.gz"), ("a.nii.gz", "b.nii")]
)
def test_names_that_do_not_say_how_it_is_packed(
    name: str, other: str, tmp_path: Path
) -> None:
    path = _write(tmp_path / name, np.zeros((4, 5, 6), np.int16)).rename(
        tmp_path / other
    )
    with pytest.raises(FormatError, match=rf"let it end in {name[1:]}\."):
        open_volume(path)
