"""Labels of every shared file keep its scale, units and axes, in whichever format."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from napari_biomedparse.data.prompts import INSTANCE_KEY, parse_prompts
from napari_biomedparse.data.results import Owners
from napari_biomedparse.data.volume import (
    Volume,
    as_volume,
    choose_channel,
    has_time_points,
)
from napari_biomedparse.io import open_file, open_image, save_labels
from napari_biomedparse.io.formats.ome_labels import LabelStore, Layout, create_labels

FILES = (
    "CT_lung_nodule.dcm",
    "derived_amos_crop_ct.nii.gz",
    "derived_amos_crop_gt.nii.gz",
    "derived_em_uint8_plain_bigtiff.tif",
    "derived_em_v04.ome.zarr",
    "derived_em_v05.ome.zarr",
    "derived_nuclei_czyx.ome.tif",
    "derived_nuclei_sharded_v05.ome.zarr",
    "derived_nuclei_tzcyx_imagej.tif",
    "derived_nuclei_zyx.ome.tif",
    "nibabel_anatomical.nii",
    "nibabel_example4d.nii.gz",
    "nibabel_someones_anatomy.nii.gz",
    "thirdparty_test_image.ome.tif",
)
SUFFIXES = (".ome.zarr", ".ome.tif", ".nii.gz")
PROMPTS = parse_prompts(["nucleus", "cell"])


def image_of(shared: Path, name: str) -> Volume:
    """Open a file, of several channels the first."""
    image = open_image(shared / "data" / "formats" / name)
    return choose_channel(image, 0) if "c" in image.axes else image


def labels_of(image: Volume) -> Any:
    return np.random.default_rng(0).integers(0, 3, image.shape, dtype=np.uint8)


def assert_same_place(found: Volume, image: Volume) -> None:
    assert found.axes == image.axes
    assert found.shape == image.shape
    if "pixel" in image.units and ".nii" in found.source.name:
        image = replace(image, units=found.units)  # NIfTI has no pixels
    assert sizes(found) == pytest.approx(sizes(image), rel=1e-6)
    if "nanometer" not in image.units or found.source.name.endswith(".zarr"):
        assert found.units == image.units  # NIfTI has no nanometres


def sizes(volume: Volume) -> list[float]:
    """Return the size of a voxel in metres and seconds, or in pixels."""
    unit = {"micrometer": 1e-6, "millimeter": 1e-3, "nanometer": 1e-9}
    units = [unit.get(name, 1.0) for name in volume.units]
    return [s * u for s, u in zip(volume.spacing, units, strict=True)]


def test_every_shared_file_is_here(shared: Path) -> None:
    folder = shared / "data" / "formats"
    there = {path.name for path in folder.iterdir() if path.name != "bioimagetools_v04"}
    assert there == set(FILES)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("name", FILES)
def test_labels_in_a_file(shared: Path, tmp_path: Path, name: str, suffix: str) -> None:
    image = image_of(shared, name)
    labels = labels_of(image)
    path = tmp_path / f"labels{suffix}"
    save_labels(path, labels, volume=image, prompts=PROMPTS)
    (found,) = open_file(path).labels
    assert_same_place(found.volume, image)
    np.testing.assert_array_equal(np.asarray(found.volume.data[...]), labels)


OBJECTS = np.arange(24, dtype=np.int32).reshape(2, 3, 4)
OWNERS = Owners(
    np.uint16([0, *[2, 5, 5] * 7, 2, 0]), np.float32([np.nan, *[0.25] * 23])
)


@pytest.mark.parametrize("suffix", [".zarr", ".ome.zarr", ".tif", ".npz", ".nii.gz"])
def test_each_object_keeps_its_prompt_label_and_score(
    tmp_path: Path, suffix: str
) -> None:
    prompts = parse_prompts({2: "nucleus", 5: "cell", 9: "none", INSTANCE_KEY: 1})
    path, volume = tmp_path / f"objects{suffix}", as_volume(OBJECTS)
    given = replace(prompts, instance=False)  # they are objects if they have owners
    save_labels(path, OBJECTS, volume=volume, prompts=given, owners=OWNERS)
    contents = open_file(path)
    (found,) = contents.labels
    assert contents.prompts == prompts
    assert found.owners is not None
    np.testing.assert_array_equal(found.owners.labels, OWNERS.labels)
    np.testing.assert_allclose(found.owners.scores, OWNERS.scores)
    texts = {2: "nucleus", 5: "cell"}
    expected = {n: texts[i] for n, i in enumerate(OWNERS.labels.tolist()) if i}
    assert dict(found.names) == expected


@pytest.mark.parametrize("suffix", [".zarr", ".tif", ".npz", ".nii.gz"])
def test_objects_of_unknown_owners_have_no_false_names(
    tmp_path: Path, suffix: str
) -> None:
    volume = as_volume(OBJECTS)
    for texts, name in (({1: "a", 2: "b"}, None), ({1: "a"}, "a")):
        prompts, path = (
            parse_prompts({**texts, INSTANCE_KEY: 1}),
            tmp_path / f"o{suffix}",
        )
        save_labels(path, OBJECTS, volume=volume, prompts=prompts, overwrite=True)
        (found,) = open_file(path).labels
        assert {found.names.get(n) for n in (1, 2, 17)} == {name}


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_other_software_reads_the_objects_of_an_ome_zarr(
    tmp_path: Path, version: Any
) -> None:
    prompts = parse_prompts({2: "nucleus", 5: "cell", INSTANCE_KEY: 1})
    volume, path = as_volume(OBJECTS), tmp_path / "objects.ome.zarr"
    layout = Layout(OBJECTS.shape, np.dtype(np.uint32), 0, 1, version)
    create_labels(path, layout, volume, prompts)
    LabelStore(path, layout).name_objects(OWNERS)
    attributes = zarr.open_group(path, mode="r").attrs.asdict()
    label = attributes.get("ome", attributes)["image-label"]
    assert len(label["properties"]) == len(label["colors"]) == 22
    assert label["properties"][1] == {
        "label-value": 2, "prompt": "cell", "label": 5, "score": 0.25
    }  # fmt: skip
    assert len({tuple(entry["rgba"]) for entry in label["colors"]}) == 22
    (found,) = open_file(path).labels
    assert found.names[2] == "cell"


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("name", FILES)
def test_labels_in_a_run_folder(
    shared: Path, tmp_path: Path, name: str, version: Any
) -> None:
    image = image_of(shared, name)
    image = image if has_time_points(image) else as_volume(image)
    times = image.shape[0] if has_time_points(image) else None
    grid = image.shape[-3:]
    layout = Layout(grid, np.dtype(np.uint8), 0, 4, version, times)
    create_labels(tmp_path / "labels.ome.zarr", layout, image, PROMPTS)
    (found,) = open_file(tmp_path / "labels.ome.zarr").labels
    assert_same_place(found.volume, image)
    assert found.volume.origin == image.origin
    assert found.texts == {1: "nucleus", 2: "cell"}
