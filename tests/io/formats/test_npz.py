from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile_pickles import hostile_pickles

from napari_biomedparse.data.prompts import PromptSet, parse_prompts
from napari_biomedparse.data.volume import Volume
from napari_biomedparse.errors import FormatError
from napari_biomedparse.io import open_file, open_labels, recognise, save_labels
from napari_biomedparse.io.formats.npz import open_npz

IMAGE = np.arange(2 * 5 * 6, dtype=np.uint8).reshape(2, 5, 6)
PROMPTS = {"1": "liver in CT", "3": "spleen in CT", "instance_label": 0}


def write(path: Path, **arrays: Any) -> Path:
    np.savez_compressed(path, **arrays)
    return path


def test_the_challenge_files(shared: Path) -> None:
    folder = shared / "data" / "challenge_npz"
    for path in sorted((folder / "imgs").glob("*.npz")):
        contents = open_npz(path)
        (volume,) = contents.images
        with np.load(path) as file:
            spacing = tuple(file["spacing"][::-1])
            expected = file["imgs"]
        assert volume.axes == ("z", "y", "x")
        assert volume.units == ("millimeter",) * 3
        assert volume.spacing == spacing
        np.testing.assert_array_equal(np.asarray(volume.data), expected)
        (labels,) = open_npz(folder / "gts" / path.name).labels
        assert labels.volume.shape == volume.shape
        assert labels.volume.spacing == spacing
        assert contents.prompts is not None
        assert contents.prompts.ids[-1] == int(np.asarray(labels.volume.data).max())


def test_the_amos_prompts(shared: Path) -> None:
    path = shared / "data/challenge_npz/imgs/CT_AMOS_amos_0018.npz"
    contents = open_npz(path)
    assert contents.images[0].shape == (63, 512, 512)
    assert contents.images[0].spacing == pytest.approx((5.0, 0.846, 0.846))
    assert contents.prompts is not None
    assert contents.prompts.ids == tuple(range(1, 16))
    assert (
        contents.prompts.texts[5]
        == "Visualization of the liver in abdominal CT imaging"
    )
    assert not contents.prompts.instance


def test_image_labels_and_prompts_together(tmp_path: Path) -> None:
    path = write(
        tmp_path / "case.npz",
        imgs=IMAGE,
        gts=IMAGE % 4,
        spacing=[0.5, 0.75, 3.0],
        text_prompts=np.array(PROMPTS, object),
        boxes=np.array([{"z_min": np.int64(0)}], object),
    )
    contents = open_npz(path)
    assert contents.images[0].spacing == (3.0, 0.75, 0.5)
    assert contents.prompts == parse_prompts(PROMPTS)
    assert contents.labels[0].texts == {1: "liver in CT", 3: "spleen in CT"}
    assert contents.images[0].name == "case"


def test_without_spacing_the_unit_is_pixel(tmp_path: Path) -> None:
    (volume,) = open_npz(write(tmp_path / "a.npz", imgs=IMAGE)).images
    assert (volume.spacing, volume.units) == ((1.0,) * 3, ("pixel",) * 3)


@pytest.mark.parametrize(
    ("shape", "axes"),
    [((5, 6), "yx"), ((9, 8, 3), "yxc"), ((2, 9, 8, 3), "zyxc"), ((1, 5, 6), "zyx")],
)
def test_other_ranks(shape: tuple[int, ...], axes: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.npz", imgs=np.zeros(shape, np.uint8), spacing=[1, 2, 3])
    (volume,) = open_npz(path).images
    assert volume.axes == tuple(axes)
    assert volume.spacing[axes.index("x")] == 1.0


def test_a_prompt_dictionary_without_prompts(tmp_path: Path) -> None:
    empty = np.array({"instance_label": 0}, object)
    path = write(tmp_path / "a.npz", imgs=IMAGE, text_prompts=empty)
    assert open_npz(path).prompts is None


@pytest.mark.parametrize(
    ("prompts", "texts"),
    [
        (np.array(["liver", "left kidney"]), ("liver", "left kidney")),
        (np.array(["liver", "left kidney"], object), ("liver", "left kidney")),
        (np.array('{"1": "liver", "2": "left kidney"}'), ("liver", "left kidney")),
        (np.array('["liver", "left kidney"]'), ("liver", "left kidney")),
        (np.array("liver"), ("liver",)),
        (np.array('{"1": "liver"'), None),
        (np.array([1], object), None),
        (np.array({"1": "a [SEP] b"}, object), None),
        (np.array({"liver": "a"}, object), None),
        (np.array(7.5), None),
        (np.array([], "U5"), None),
        (np.zeros(3, [("a", "u1")]), None),
    ],
)
def test_prompts_of_any_kind_leave_the_image(
    prompts: Any, texts: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    contents = open_npz(write(tmp_path / "a.npz", imgs=IMAGE, text_prompts=prompts))
    assert len(contents.images) == 1
    assert (contents.prompts and contents.prompts.texts) == texts
    assert ("no usable prompts" in caplog.text) == (texts is None)


def test_prompts_without_their_ids_leave_the_image(tmp_path: Path) -> None:
    names = np.array(["liver", "kidney"])
    for ids in ([1], [1.5, 2.5], [1, 1]):
        path = write(tmp_path / "a.npz", imgs=IMAGE, prompt_ids=ids, prompt_texts=names)
        assert open_npz(path).prompts is None


def test_a_zip_archive_of_other_files_is_called_so(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("stack/1.tif", b"")
    with pytest.raises(FormatError, match=r"zip archive of .*stack/1.tif.*unpack"):
        open_npz(tmp_path / "a.npz")


@pytest.mark.parametrize("name", ["os.system", "builtins.eval", "extension code"])
def test_a_hostile_pickle_in_a_file(name: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    body = hostile_pickles(str(canary))[name]
    path = write(tmp_path / "a.npz", imgs=IMAGE)
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (), }\n"
    head = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("text_prompts.npy", head + body)
    with pytest.raises(FormatError, match=r"a\.npz: the array 'text_prompts'"):
        open_npz(path)
    assert not canary.exists()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"image": IMAGE}, r"no array named 'imgs' \(found: image\)"),
        ({"spacing": [1, 1, 1]}, r"no array named 'imgs' \(found: spacing\)"),
        ({"imgs": IMAGE, "spacing": [1, 2]}, r"three positive numbers"),
        ({"imgs": IMAGE, "spacing": [1, 0, 2]}, r"three positive numbers"),
        ({"imgs": IMAGE, "spacing": [1, np.nan, 2]}, r"three positive numbers"),
        ({"imgs": IMAGE, "spacing": np.array("a")}, r"unexpected type"),
        ({"imgs": np.zeros(3)}, r"1 axes"),
        ({"imgs": np.zeros((1,) * 5)}, r"5 axes"),
        ({"imgs": IMAGE.astype(complex)}, r"complex128"),
        ({"imgs": IMAGE.astype(object)}, r"object"),
        ({"imgs": IMAGE.astype(str)}, r"not numbers"),
    ],
)
def test_bad_content(arrays: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=message) as caught:
        open_npz(write(tmp_path / "a.npz", **arrays))
    assert "a.npz" in str(caught.value)


@pytest.mark.parametrize("keep", [0.3, 0.9, 0.999])
def test_a_file_cut_short(keep: float, tmp_path: Path) -> None:
    path = write(tmp_path / "a.npz", imgs=IMAGE)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(FormatError, match=r"a\.npz is not a complete \.npz file"):
        open_file(path)


def test_names_that_leave_the_folder_are_not_followed(tmp_path: Path) -> None:
    path = tmp_path / "inner" / "a.npz"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../imgs.npy", b"x")
        archive.writestr("/etc/imgs.npy", b"x")
    with pytest.raises(FormatError, match="no array named 'imgs'"):
        open_npz(path)
    assert [p.name for p in tmp_path.iterdir()] == ["inner"]


def test_a_zip_is_known_by_its_first_bytes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.npz", imgs=IMAGE)
    assert recognise(path.rename(tmp_path / "a.tif")) == "npz"


def _volume(units: tuple[str, ...] = ("micrometer",) * 3) -> Volume:
    shape = IMAGE.shape
    return Volume(IMAGE, ("z", "y", "x"), (3.0, 0.5, 0.25), units, (0.0,) * len(shape))


@pytest.mark.parametrize("instance", [False, True])
def test_labels_are_written_without_objects(instance: bool, tmp_path: Path) -> None:
    prompts = PromptSet(parse_prompts(PROMPTS).prompts, instance)
    path = tmp_path / "a.npz"
    save_labels(path, IMAGE % 4, volume=_volume(), prompts=prompts, overwrite=False)
    with np.load(path, allow_pickle=False) as file:
        assert file["segs"].dtype == np.uint8
        np.testing.assert_array_equal(file["segs"], IMAGE % 4)
        np.testing.assert_allclose(file["spacing"], [0.00025, 0.0005, 0.003])
    contents = open_npz(path)
    assert contents.prompts == prompts
    assert contents.labels[0].texts == {1: "liver in CT", 3: "spleen in CT"}
    assert contents.labels[0].volume.units == ("millimeter",) * 3


def test_a_volume_without_units_stays_without(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    volume = _volume(("pixel",) * 3)
    save_labels(path, IMAGE % 4, volume=volume, prompts=None, overwrite=False)
    labels = open_npz(path).labels[0].volume
    assert (labels.units, labels.spacing) == (("pixel",) * 3, (3.0, 0.5, 0.25))


@pytest.mark.parametrize("labels", [IMAGE / 3, IMAGE.astype(object), np.zeros(3)])
def test_unusable_labels_do_not_refuse_the_image(
    labels: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "a.npz", imgs=IMAGE, gts=labels)
    contents = open_npz(path)
    assert (len(contents.images), contents.labels) == (1, ())
    assert contents.unread in caplog.text
    with pytest.raises(FormatError, match=r"Choose other labels"):
        open_labels(path)
