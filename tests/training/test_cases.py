"""Training data from folders, and bad data named before anything is trained."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from evaluation.cases import TEXTS, truth, write_challenge
from training.data_folder import WORDINGS, arrays, write_case, write_folder

from napari_biomedparse.errors import FormatError, VolumeError
from napari_biomedparse.training.cases import load_cases, slicing_axes
from napari_biomedparse.training.volumes import TrainingVolume
from napari_biomedparse.training.wordings import FILE_NAME, Wordings


def problem(folder: Path) -> str:
    """What is said of a folder that cannot be used."""
    with pytest.raises(VolumeError) as caught:
        load_cases(folder, folder / "cache")
    return str(caught.value)


def test_a_folder_of_images_and_labels(tmp_path: Path) -> None:
    seen: list[str] = []
    volumes = load_cases(
        write_folder(tmp_path / "d"),
        tmp_path / "cache",
        on_case=lambda name, number, count: seen.append(f"{name} {number}/{count}"),
    )
    assert seen == [f"squares{i} {i}/3" for i in range(3)]
    for number, volume in enumerate(volumes):
        image, labels = arrays(number)
        np.testing.assert_array_equal(volume.image, image)
        np.testing.assert_array_equal(volume.labels, labels)
        assert volume.dataset == "squares"
        assert volume.wordings.texts[1] == tuple(WORDINGS["1"])


def test_challenge_files_bring_their_prompts(tmp_path: Path) -> None:
    write_challenge(tmp_path, "CT_a")
    (volume,) = load_cases(tmp_path, tmp_path / "cache")
    assert volume.wordings.texts == {k: (v,) for k, v in TEXTS.items()}
    np.testing.assert_array_equal(volume.labels, truth())
    (tmp_path / FILE_NAME).write_text(json.dumps({"CT": {"1": ["a"], "2": ["b"]}}))
    (volume,) = load_cases(tmp_path, tmp_path / "cache")
    assert volume.wordings.texts == {1: ("a",), 2: ("b",)}


def test_ome_zarr_images_with_labels(tmp_path: Path, shared: Path) -> None:
    (tmp_path / "em.ome.zarr").symlink_to(
        shared / "data/formats/derived_em_v05.ome.zarr"
    )
    texts = {"1": "mitochondria", "2": "membranes", "3": "synapses"}
    (tmp_path / FILE_NAME).write_text(json.dumps(texts))
    (volume,) = load_cases(tmp_path, tmp_path / "cache")
    assert volume.image.shape == volume.labels.shape
    assert np.asarray(volume.labels).max() > 0


def test_grey_levels_become_0_to_255(tmp_path: Path) -> None:
    image, labels = arrays(0)
    write_case(tmp_path, "a", image.astype(np.uint16) * 9 + 1000, labels)
    (tmp_path / FILE_NAME).write_text(json.dumps(WORDINGS))
    (volume,) = load_cases(tmp_path, tmp_path / "cache")
    assert volume.image.dtype == np.uint8
    grey = np.asarray(volume.image)
    assert (grey.min(), grey.max()) == (0, 255)


def test_what_was_read_is_not_read_again_unless_it_changed(tmp_path: Path) -> None:
    folder, cache = write_folder(tmp_path / "d", 1), tmp_path / "cache"
    load_cases(folder, cache)
    kept = {path: path.stat().st_mtime_ns for path in cache.iterdir()}
    load_cases(folder, cache)
    assert {path: path.stat().st_mtime_ns for path in cache.iterdir()} == kept
    write_case(folder, "squares0", *arrays(7))
    (volume,) = load_cases(folder, cache)
    np.testing.assert_array_equal(volume.image, arrays(7)[0])


# --- bad data ------------------------------------------------------------------------


def test_one_damaged_file_among_many_is_named(tmp_path: Path) -> None:
    write_folder(tmp_path, 4)
    path = tmp_path / "images" / "squares2.tif"
    path.write_bytes(path.read_bytes()[:3000])
    text = problem(tmp_path)
    assert text.startswith("1 of 4 cases cannot be used")
    assert "squares2.tif" in text and "squares1" not in text


def test_all_problems_are_named_at_once(tmp_path: Path) -> None:
    write_folder(tmp_path, 2)
    image, labels = arrays(0)
    write_case(tmp_path, "squares_shape", image, labels[1:])
    write_case(tmp_path, "squares_float", image, labels.astype(np.float32) / 2)
    write_case(tmp_path, "squares_class", image, labels * 2)
    write_case(tmp_path, "circles", image, labels)
    tifffile.imwrite(tmp_path / "images" / "squares_alone.tif", image)
    text = problem(tmp_path)
    assert text.startswith("5 of 7 cases cannot be used")
    assert "image of shape (10, 32, 32) and labels of shape (9, 32, 32)" in text
    assert "labels of type float32; labels must be integers" in text
    assert "1 classes without a prompt (4)" in text
    assert "no data set is a prefix of the name circles" in text
    assert "has no file with labels" in text and "squares_alone.tif" in text


def test_labels_below_zero_are_named(tmp_path: Path) -> None:
    image, labels = arrays(0)
    write_folder(tmp_path, 1)
    write_case(tmp_path, "squares0", image, -labels.astype(np.int16))
    assert "negative labels" in problem(tmp_path)


def test_classes_may_be_left_out_on_purpose(tmp_path: Path) -> None:
    write_folder(tmp_path, 1)
    (tmp_path / FILE_NAME).write_text(json.dumps({"1": ["squares"], "2": []}))
    (volume,) = load_cases(tmp_path, tmp_path / "cache")
    assert volume.wordings.classes == (1,)


def test_without_prompts_it_is_said_how_to_give_them(tmp_path: Path) -> None:
    write_folder(tmp_path, 1)
    (tmp_path / FILE_NAME).unlink()
    assert "class_prompts.json" in problem(tmp_path)


def test_empty_data_are_refused(tmp_path: Path) -> None:
    image, labels = arrays(0)
    write_folder(tmp_path, 1)
    write_case(tmp_path, "squares0", image, labels * 0)
    assert "no voxel has a label with a prompt" in problem(tmp_path)
    empty = tmp_path / "empty"
    (empty / "images").mkdir(parents=True)
    (empty / "labels").mkdir()
    with pytest.raises(FormatError, match="No file"):
        load_cases(empty, tmp_path / "cache")
    with pytest.raises(FormatError, match="does not exist"):
        load_cases(tmp_path / "nowhere", tmp_path / "cache")


def test_arrays_of_layers_are_checked_too() -> None:
    image, labels = arrays(0)
    wordings = Wordings({1: ("squares",)})
    with pytest.raises(VolumeError, match="a has an image of shape"):
        TrainingVolume("a", "a", image, labels[1:], wordings, (0,))
    with pytest.raises(VolumeError, match="type float64"):
        TrainingVolume("a", "a", image, labels / 2, wordings, (0,))


def test_colour_slices_bring_their_channels(tmp_path: Path) -> None:
    _, labels = arrays(0)
    image = np.random.default_rng(0).integers(0, 255, (*labels.shape, 3), np.uint8)
    folder = write_folder(tmp_path, 1)
    path = folder / "images" / "squares0.tif"
    tifffile.imwrite(path, image, photometric="rgb")
    (volume,) = load_cases(folder, folder / "cache")
    assert volume.has_channels and volume.axes == (0,)
    np.testing.assert_array_equal(volume.image, image)
    with pytest.raises(VolumeError, match="along its first axis"):
        TrainingVolume("a", "a", image, labels, volume.wordings, (1,))


def test_files_are_open_only_while_they_are_looked_at(tmp_path: Path) -> None:
    (volume,) = load_cases(write_folder(tmp_path, 1), tmp_path / "cache")
    plane = volume.image.take(3, 1)
    np.testing.assert_array_equal(plane, arrays(0)[0][:, 3])
    assert not isinstance(plane.base, np.memmap)


@pytest.mark.parametrize(
    ("shape", "spacing", "axes"),
    [
        ((90, 100, 110), (1.0, 1.0, 1.05), (0, 1, 2)),
        ((90, 100, 110), (1.0, 1.0, 1.2), (0,)),
        ((50, 100, 110), (1.0, 1.0, 1.0), (0,)),
        ((90, 100, 110), None, (0,)),
        ((100, 110, 20), (1.0, 1.0, 1.0), (2,)),
    ],
)
def test_nearly_isotropic_volumes_are_sliced_along_all_axes(
    shape: tuple[int, ...], spacing: tuple[float, ...] | None, axes: tuple[int, ...]
) -> None:
    assert slicing_axes(shape, spacing) == axes
