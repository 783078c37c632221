from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import pytest
import zarr

from napari_biomedparse.data.prompts import PromptSet, label_colour, parse_prompts
from napari_biomedparse.data.volume import Volume
from napari_biomedparse.errors import FormatError
from napari_biomedparse.io import open_labels, open_volume, save_labels
from napari_biomedparse.io.durable import is_zarr
from napari_biomedparse.io.formats.zarr import open_zarr

if TYPE_CHECKING:
    from pathlib import Path

MICRO = ("micrometer",) * 3
EM = ((8, 192, 192), "zyx", (0.045, 0.0092, 0.0092), MICRO, [(8, 96, 96)])
SHARED_FILES = {
    "bioimagetools_v04/image-02.zarr": ((200, 200), "yx", (1.0,) * 2, MICRO[:2], []),
    "bioimagetools_v04/image-03.zarr": ((2, 100, 100), "zyx", (1.0,) * 3, MICRO, []),
    "bioimagetools_v04/image-04.zarr": (
        (2, 64, 64), "zyx", (1.0,) * 3, MICRO, [(2, 32, 32)]
    ),
    "derived_em_v04.ome.zarr": EM,
    "derived_em_v05.ome.zarr": EM,
    "derived_nuclei_sharded_v05.ome.zarr": (
        (2, 31, 61, 57), "czyx", (1.0, 0.5, 0.116, 0.116), ("pixel", *MICRO), []
    ),
}  # fmt: skip
VALUES = np.arange(3 * 8 * 9, dtype=np.uint16).reshape(3, 8, 9)


@pytest.mark.parametrize("name", SHARED_FILES)
def test_the_shared_files(name: str, shared: Path) -> None:
    path = shared / "data" / "formats" / name
    shape, axes, spacing, units, levels = SHARED_FILES[name]
    (volume,) = open_zarr(path).images
    assert volume.shape == shape
    assert volume.axes == tuple(axes)
    assert volume.spacing == spacing
    assert volume.units == units
    assert [tuple(level.shape) for level in volume.levels] == levels
    first = "s0" if "derived_em" in name else "0"
    expected: Any = zarr.open(store=str(path / first), mode="r")
    np.testing.assert_array_equal(np.asarray(volume.data), expected[:])


def test_every_shared_zarr_is_listed(shared: Path) -> None:
    folder = shared / "data" / "formats"
    found = {str(p.relative_to(folder)) for p in folder.rglob("*.zarr") if p.is_dir()}
    assert found == set(SHARED_FILES)


def test_labels_and_channels_of_the_shared_files(shared: Path) -> None:
    folder = shared / "data" / "formats"
    for version in ("v04", "v05"):
        (labels,) = open_zarr(folder / f"derived_em_{version}.ome.zarr").labels
        assert labels.volume.name == "organelles"
        assert labels.volume.shape == (8, 192, 192)
        assert labels.volume.spacing == (0.045, 0.0092, 0.0092)
        assert len(labels.volume.levels) == 1
        assert np.asarray(labels.volume.data).max() > 0
    (nuclei,) = open_zarr(folder / "derived_nuclei_sharded_v05.ome.zarr").images
    assert nuclei.channel_names == ("nuclei", "mask")
    empty = open_zarr(folder / "bioimagetools_v04" / "image-04.zarr").images[0]
    assert not np.asarray(empty.data).any()


@pytest.mark.parametrize("version", [2, 3])
def test_a_plain_array(version: int, tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    array = zarr.create_array(
        store=str(path), data=VALUES, chunks=(1, 4, 4), zarr_format=version
    )
    (volume,) = open_zarr(path).images
    assert (volume.name, volume.axes, volume.units) == (
        "a",
        ("z", "y", "x"),
        ("pixel",) * 3,
    )
    np.testing.assert_array_equal(np.asarray(volume.data), array[:])


def test_axes_of_plain_arrays(tmp_path: Path) -> None:
    named = {"dimension_names": ("z", "c", "y", "x")}
    for i, (keywords, axes) in enumerate(
        [
            (named, "zcyx"),
            ({"dimension_names": ("a", "b", "c", "d")}, "czyx"),
            ({}, "czyx"),
            (
                {"attributes": {"_ARRAY_DIMENSIONS": list("tzyx")}, "zarr_format": 2},
                "tzyx",
            ),
        ]
    ):
        path = tmp_path / f"{i}.zarr"
        zarr.create_array(store=str(path), data=VALUES[None], **keywords)
        assert open_zarr(path).images[0].axes == tuple(axes)


def test_a_plain_group_and_a_collection(tmp_path: Path) -> None:
    root = zarr.create_group(store=str(tmp_path / "a.zarr"))
    for name in ("10", "9"):
        root.create_array(name, data=VALUES)
    root.create_array("positions", data=VALUES[0, 0])
    root.create_group("OME")
    images = open_zarr(tmp_path / "a.zarr").images
    assert [volume.name for volume in images] == ["9", "10"]


def _image(path: Path, **changes: Any) -> dict[str, Any]:
    """Write an OME-Zarr 0.5 image and return its multiscale entry, for changes."""
    root = zarr.create_group(store=str(path), zarr_format=3)
    root.create_array("0", data=VALUES)
    entry: dict[str, Any] = {
        "axes": [
            {"name": a, "type": "space", "unit": "nanometer"} for a in ("z", "y", "x")
        ],
        "datasets": [
            {
                "path": "0",
                "coordinateTransformations": [
                    {"type": "scale", "scale": [3.0, 2.0, 1.0]},
                    {"type": "translation", "translation": [10.0, 20.0, 30.0]},
                ],
            }
        ],
    } | changes
    root.attrs["ome"] = {"version": "0.5", "multiscales": [entry]}
    return entry


def test_transforms_of_both_levels_are_combined(tmp_path: Path) -> None:
    outer = [
        {"type": "scale", "scale": [2.0, 2.0, 10.0]},
        {"type": "translation", "translation": [1.0, 0.0, 0.0]},
    ]
    _image(tmp_path / "a.zarr", coordinateTransformations=outer)
    (volume,) = open_zarr(tmp_path / "a.zarr").images
    assert volume.spacing == (6.0, 4.0, 10.0)
    assert volume.origin == (21.0, 40.0, 300.0)
    assert volume.units == ("nanometer",) * 3


@pytest.mark.parametrize(
    "changes",
    [
        {"datasets": []},
        {"datasets": [{}]},
        {"axes": [{"name": "z"}, {"name": "z"}, {"name": "x"}]},
        {"axes": [{"name": "y"}, {"name": "x"}]},
        {"coordinateTransformations": [{"type": "scale", "scale": [1.0, 2.0]}]},
        {"coordinateTransformations": [{"type": "scale", "scale": [1.0, 0.0, 1.0]}]},
        {"coordinateTransformations": [{"type": "affine", "affine": []}]},
        {"coordinateTransformations": [{"type": "scale", "path": "x"}]},
        {"datasets": 7},
    ],
)
def test_metadata_that_break_the_rules(changes: dict[str, Any], tmp_path: Path) -> None:
    _image(tmp_path / "a.zarr", **changes)
    with pytest.raises(FormatError, match=r"a\.zarr has metadata that do not follow"):
        open_zarr(tmp_path / "a.zarr")


def test_an_array_that_is_missing(tmp_path: Path) -> None:
    _image(tmp_path / "a.zarr", datasets=[{"path": "7"}])
    with pytest.raises(FormatError, match=r"lists the array '7', which is missing"):
        open_zarr(tmp_path / "a.zarr")


def test_damaged_metadata(tmp_path: Path) -> None:
    _image(tmp_path / "a.zarr")
    (tmp_path / "a.zarr" / "zarr.json").write_text("{")
    with pytest.raises(FormatError, match=r"a\.zarr"):
        open_zarr(tmp_path / "a.zarr")


def test_a_plate_and_an_empty_group(tmp_path: Path) -> None:
    root = zarr.create_group(store=str(tmp_path / "a.zarr"))
    with pytest.raises(FormatError, match="group without images"):
        open_zarr(tmp_path / "a.zarr")
    root.attrs["ome"] = {"plate": {}}
    with pytest.raises(FormatError, match="is a plate"):
        open_zarr(tmp_path / "a.zarr")


@pytest.mark.parametrize("version", [2, 3])
def test_a_plate_names_a_field_that_is_there(version: int, tmp_path: Path) -> None:
    def describe(group: zarr.Group, **what: Any) -> None:
        group.attrs.update(what if version == 2 else {"ome": what})  # type: ignore[arg-type]

    path = tmp_path / "a.zarr"
    root = zarr.create_group(store=str(path), zarr_format=version)
    describe(root, plate={"wells": [{"path": "A/01"}, {"path": "B/03"}]})
    with pytest.raises(FormatError, match="none of the fields"):
        open_zarr(path)
    well = root.create_group("B/03")
    with pytest.raises(FormatError, match=r"for example .*a\.zarr/B/03\.$"):
        open_zarr(path)
    describe(well, well={"images": [{"path": "0"}, {"path": "2"}]})
    well.create_group("2")
    for place in (path, path / "B" / "03"):
        with pytest.raises(FormatError, match=r"for example .*a\.zarr/B/03/2\.$"):
            open_zarr(place)


def test_labels_and_thumbnails_beside_the_image(tmp_path: Path) -> None:
    root = zarr.create_group(store=str(tmp_path / "a.zarr"))
    root.create_array("raw", data=VALUES)
    root.create_array("labels", data=VALUES)
    root.create_array("Thumbnail", data=VALUES[0])
    contents = open_zarr(tmp_path / "a.zarr")
    assert [volume.name for volume in contents.images] == ["raw"]
    assert [labels.volume.name for labels in contents.labels] == ["labels"]
    assert open_volume(tmp_path / "a.zarr").name == "raw"
    nested = zarr.create_group(store=str(tmp_path / "b.zarr")).create_group("volumes")
    nested.create_array("raw", data=VALUES)
    nested.create_group("labels").create_array("neuron_ids", data=VALUES)
    contents = open_zarr(tmp_path / "b.zarr")
    assert [volume.name for volume in contents.images] == ["raw"]
    assert [labels.volume.name for labels in contents.labels] == ["neuron_ids"]
    alone = zarr.create_group(store=str(tmp_path / "c.zarr"))
    alone.create_array("labels", data=VALUES)
    assert len(open_zarr(tmp_path / "c.zarr").images) == 1
    _image(tmp_path / "d.zarr" / "raw")
    _image(tmp_path / "d.zarr" / "labels" / "cells")
    for part in ("d.zarr", "d.zarr/labels"):
        zarr.open_group(store=str(tmp_path / part), mode="a")
    contents = open_zarr(tmp_path / "d.zarr")
    assert [volume.name for volume in contents.images] == ["raw"]
    assert [labels.volume.name for labels in contents.labels] == ["cells"]


SYSTEM = {
    "name": "physical",
    "axes": [{"name": a, "type": "space", "unit": "micrometer"} for a in "zyx"],
}
SCALE = {"type": "scale", "scale": [3.0, 2.0, 1.0]}
SHIFT = {"type": "translation", "translation": [1.0, 2.0, 3.0]}


@pytest.mark.parametrize(
    "transform",
    [
        {"type": "sequence", "transformations": [SCALE, SHIFT]},
        {"type": "sequence", "transformations": [SCALE, {"type": "identity"}, SHIFT]},
    ],
)
@pytest.mark.parametrize("output", ["physical", {"name": "physical"}])
def test_coordinate_systems_of_version_0_6(
    transform: dict[str, Any], output: Any, tmp_path: Path
) -> None:
    sets = [
        {"path": "0", "coordinateTransformations": [transform | {"output": output}]}
    ]
    other = {"name": "atlas", "axes": [{"name": a, "type": "space"} for a in "xyz"]}
    turn = {"type": "rotation", "input": "physical", "output": "atlas"}
    entry = _image(
        tmp_path / "a.zarr",
        axes=None,
        coordinateSystems=[other, SYSTEM],
        datasets=sets,
        coordinateTransformations=[turn],
    )
    (volume,) = open_zarr(tmp_path / "a.zarr").images
    assert (volume.axes, volume.units) == (("z", "y", "x"), MICRO)
    assert (volume.spacing, volume.origin) == ((3, 2, 1), (1, 2, 3))
    sets[0]["coordinateTransformations"] = [{"type": "rotation", "rotation": []}]
    root = zarr.open_group(store=str(tmp_path / "a.zarr"))
    for version in ("0.6", "0.7.dev1"):
        root.attrs["ome"] = {"version": version, "multiscales": [entry]}
        with pytest.raises(FormatError, match=f"is OME-Zarr {version}, .*'rotation'"):
            open_zarr(tmp_path / "a.zarr")


@pytest.mark.parametrize(
    "fault",
    [
        {"image-label": {"properties": [1, {}, {"label-value": "a"}], "colors": 7}},
        {"image-label": {"colors": [{"label-value": 1, "rgba": "red"}, None]}},
        {"omero": {"channels": [None, 3]}},
        {"omero": []},
    ],
)
def test_odd_metadata_that_are_optional_are_ignored(fault: Any, tmp_path: Path) -> None:
    _image(tmp_path / "a.zarr")
    root = zarr.open_group(store=str(tmp_path / "a.zarr"))
    root.attrs["ome"] = {**root.attrs.asdict()["ome"], **fault}  # type: ignore[dict-item]
    contents = open_zarr(tmp_path / "a.zarr")
    assert len(contents.images) + len(contents.labels) == 1


@pytest.mark.parametrize("multiscales", [[{}], "abc", [{"datasets": [{"path": "9"}]}]])
def test_damaged_labels_leave_the_image_but_are_not_replaced_by_it(
    multiscales: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _image(tmp_path / "a.zarr")
    root = zarr.open_group(store=str(tmp_path / "a.zarr"))
    cells = root.create_group("labels").create_group("cells")
    cells.attrs["ome"] = {"multiscales": multiscales}
    assert open_volume(tmp_path / "a.zarr").shape == VALUES.shape
    assert "The labels 'cells'" in caplog.text
    with pytest.raises(FormatError, match=r"The labels 'cells' of .* cannot be read"):
        open_labels(tmp_path / "a.zarr")


def test_values_that_are_no_numbers(tmp_path: Path) -> None:
    zarr.create_array(store=str(tmp_path / "a.zarr"), data=VALUES.astype(complex))
    with pytest.raises(FormatError, match="complex128"):
        open_zarr(tmp_path / "a.zarr")


def test_opening_reads_no_chunk_and_damage_shows_later(tmp_path: Path) -> None:
    _image(tmp_path / "a.zarr")
    for chunk in (tmp_path / "a.zarr" / "0" / "c").rglob("*"):
        if chunk.is_file():
            chunk.write_bytes(b"no compressed data")
    (volume,) = open_zarr(tmp_path / "a.zarr").images
    with pytest.raises(FormatError, match=r"a\.zarr cannot be read at \(0, 0, 0\)"):
        np.asarray(volume.data)


def test_labels_that_are_listed_but_missing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _image(tmp_path / "a.zarr")
    root = zarr.open_group(store=str(tmp_path / "a.zarr"))
    root.create_group("labels").attrs["ome"] = {"labels": ["cells"]}
    assert open_zarr(tmp_path / "a.zarr").labels == ()
    assert "'cells'" in caplog.text


def test_what_is_listed_often_is_read_once_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    _image(path)
    root = zarr.open_group(store=str(path))
    root.create_group("labels").attrs["ome"] = {"labels": ["cells", "/cells/"] * 500}
    _image(path / "labels" / "cells")
    assert len(open_zarr(path).labels) == 1
    described: Any = root.attrs.asdict()["ome"]
    root.attrs["ome"] = {**described, "multiscales": described["multiscales"] * 65}
    with pytest.raises(FormatError, match="lists 65 images"):
        open_zarr(path)


def test_names_and_colours_of_foreign_labels(tmp_path: Path) -> None:
    _image(tmp_path / "a.zarr")
    root = zarr.open_group(store=str(tmp_path / "a.zarr"))
    labels = root.create_group("labels")
    labels.attrs["ome"] = {"labels": ["cells"]}
    _image(tmp_path / "a.zarr" / "labels" / "cells")
    cells = zarr.open_group(store=str(tmp_path / "a.zarr" / "labels" / "cells"))
    cells.attrs["ome"] = {
        **cells.attrs.asdict()["ome"],  # type: ignore[dict-item]
        "image-label": {
            "colors": [
                {"label-value": 1, "rgba": [255, 0, 0, 128]},
                {"label-value": 2, "rgba": None},
            ],
            "properties": [
                {"label-value": 1, "area": 7, "class": "nucleus"},
                {"label-value": 2, "area": 7},
            ],
        },
    }
    for path in (tmp_path / "a.zarr", tmp_path / "a.zarr" / "labels"):
        (found,) = open_zarr(path).labels
        assert found.texts == {1: "nucleus"}
        assert found.colours == {1: (255, 0, 0, 128)}


def test_a_zarr_is_known_by_what_lies_in_it(tmp_path: Path) -> None:
    assert not is_zarr(tmp_path)
    _image(tmp_path / "a.zarr")
    assert is_zarr(tmp_path / "a.zarr")
    assert is_zarr(tmp_path / "a.zarr" / "0")


LABELS = np.random.default_rng(0).integers(0, 3, (5, 600, 301))
PROMPTS = parse_prompts({1: "mitochondria", 2: "nuclei"})


def _volume() -> Volume:
    return Volume(
        LABELS, ("z", "y", "x"), (3.0, 0.5, 0.25), MICRO, (7.0, 8.0, 9.0), "cells"
    )


@pytest.mark.parametrize("chunks", [None, (2, -1, -1), (-1, 100, -1), (-1, -1, 50)])
def test_labels_read_back(chunks: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    labels: Any = LABELS if chunks is None else da.from_array(LABELS, chunks=chunks)
    save_labels(path, labels, volume=_volume(), prompts=PROMPTS, overwrite=False)
    contents = open_zarr(path)
    (found,) = contents.labels
    assert contents.images == ()
    assert contents.prompts == PROMPTS
    assert found.texts == {1: "mitochondria", 2: "nuclei"}
    assert found.colours == {1: label_colour(1), 2: label_colour(2)}
    volume = found.volume
    assert volume.dtype == np.uint8
    assert (volume.axes, volume.units) == (("z", "y", "x"), MICRO)
    assert volume.spacing == (3.0, 0.5, 0.25)
    assert volume.origin == (7.0, 8.0, 9.0)
    np.testing.assert_array_equal(np.asarray(volume.data), LABELS)
    for step, level in zip((2, 4), volume.levels, strict=True):
        np.testing.assert_array_equal(np.asarray(level), LABELS[:, ::step, ::step])


def test_the_metadata_follow_the_specification(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    prompts = PromptSet(PROMPTS.prompts, instance=True)
    save_labels(path, LABELS, volume=_volume(), prompts=prompts, overwrite=False)
    ome = json.loads((path / "zarr.json").read_text())["attributes"]["ome"]
    assert ome["version"] == "0.5"
    assert ome["image-label"]["version"] == "0.5"
    models = pytest.importorskip("ome_zarr_models.v05.image_label")
    models.ImageLabel.from_zarr(zarr.open_group(store=str(path), mode="r"))
    reread = open_zarr(path).prompts
    assert reread is not None
    assert reread.instance


def test_overwriting_replaces_the_whole_store(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    save_labels(path, LABELS, volume=_volume(), prompts=None, overwrite=False)
    volume = replace(_volume(), data=LABELS[:, :9, :9])
    save_labels(path, volume.data, volume=volume, prompts=None, overwrite=True)
    assert open_zarr(path).labels[0].volume.levels == ()
    assert [p.name for p in tmp_path.iterdir()] == ["a.zarr"]
    shutil.rmtree(path)


@pytest.mark.parametrize("version", [2, 3])
def test_chunks_that_are_not_there_are_told(
    version: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    array = zarr.create_array(
        tmp_path / "a.zarr", data=VALUES + 1, chunks=(1, 4, 9), zarr_format=version
    )
    open_volume(tmp_path / "a.zarr")
    assert not caplog.records
    key = array.metadata.encode_chunk_key((1, 1, 0))
    (tmp_path / "a.zarr" / key).unlink()
    open_volume(tmp_path / "a.zarr")
    assert f"1 of 6 chunks of the array are not there, such as {key}" in caplog.text
    (tmp_path / "a.zarr" / key).touch()
    with pytest.raises(FormatError, match="which is empty"):
        np.asarray(open_volume(tmp_path / "a.zarr").data)


def test_labels_without_anything_need_no_chunks(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "labels.ome.zarr"
    volume = replace(_volume(), data=LABELS * 0)
    save_labels(path, volume.data, volume=volume, prompts=None)
    assert not any(path.rglob("c/*"))
    assert not np.asarray(open_volume(path / "s0").data).any()
    assert not caplog.records


@pytest.mark.parametrize("place", ["start", "end"])
@pytest.mark.parametrize("shape", [(3, 8, 9), (3, 7, 8)])  # whole shards, and not
def test_a_chunk_in_a_shard_that_is_not_there_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, place: Any, shape: tuple[int, ...]
) -> None:
    path = tmp_path / "a.zarr"
    array = zarr.create_array(
        path,
        shape=shape,
        dtype=np.uint8,
        chunks=(1, 4, 3),
        shards={"shape": (2, 8, 9), "index_location": place},
    )
    array[...] = 1
    open_volume(path)
    assert not caplog.records
    array[1, :4, 3:6] = 0  # which zarr leaves out
    open_volume(path)
    assert "1 of 2 shards, or chunks in them, of the array are not" in caplog.text
    caplog.clear()
    (path / array.metadata.encode_chunk_key((1, 0, 0))).write_bytes(b"short")
    open_volume(path)  # an error comes when it is read
    with pytest.raises(FormatError, match="an incomplete copy"):
        np.asarray(open_volume(path).data)


def test_a_shard_that_is_not_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    axes = [{"name": a, "type": "space", "unit": "micrometer"} for a in "zyx"]
    array = group.create_array("0", data=VALUES + 1, chunks=(1, 4, 3), shards=(1, 8, 9))
    images = [{"axes": axes, "datasets": [{"path": "0"}]}]
    group.attrs["ome"] = {"version": "0.5", "multiscales": images}
    (tmp_path / "a.zarr" / "0" / array.metadata.encode_chunk_key((1, 0, 0))).unlink()
    volume = open_volume(tmp_path / "a.zarr")
    assert "1 of 3 chunks of 0 are not there" in caplog.text
    assert volume.units == ("pixel",) * 3  # a unit without sizes


@pytest.mark.parametrize(
    "labels", ["labels", "nuclei_labels", "seg_gt", "cell-masks", "gts"]
)
def test_images_come_before_labels_of_any_name(labels: str, tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    for name in ("cells", labels, "raw"):
        group.create_array(name, data=VALUES)
    contents = open_zarr(tmp_path / "a.zarr")
    assert [image.name for image in contents.images] == ["raw", "cells"]
    assert [found.volume.name for found in contents.labels] == [labels]
