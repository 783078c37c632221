"""Measurements against shapes whose size is known."""

from __future__ import annotations

from dataclasses import replace

import dask.array as da
import numpy as np
import pandas as pd
import pytest
from scipy.ndimage import gaussian_filter, label
from skimage.measure import marching_cubes, mesh_surface_area, regionprops_table

from napari_biomedparse.data.volume import Volume, as_volume
from napari_biomedparse.errors import VolumeError
from napari_biomedparse.labels import blockwise
from napari_biomedparse.labels.measure import (
    components_of,
    measure_objects,
    measure_prompts,
    with_units,
)


def on_grid(data: np.ndarray, spacing: tuple[float, ...], **changes: object) -> Volume:
    known: dict[str, object] = {
        "data": data,
        "axes": ("z", "y", "x"),
        "spacing": spacing,
        "units": ("micrometer",) * 3,
        "origin": (0.0, 0.0, 0.0),
        "name": "stack",
    }
    return Volume(**{**known, **changes})  # type: ignore[arg-type]


def test_a_ball_in_units_on_an_uneven_grid() -> None:
    z, y, x = np.ogrid[:24, :48, :48]
    middle, radius, spacing = (11.0, 22.0, 24.0), 9.0, (1.0, 0.5, 0.5)
    distance = sum(
        ((at - c) * s) ** 2 for at, c, s in zip((z, y, x), middle, spacing, strict=True)
    )
    ball = (distance < radius**2).astype(np.uint16) * 7
    image = np.where(ball, 40, 3).astype(np.uint8)
    (row,) = measure_objects(ball, on_grid(image, spacing)).to_dict("records")
    assert row["id"] == 7
    assert row["voxels"] == np.count_nonzero(ball)
    assert row["volume"] == pytest.approx(row["voxels"] * 0.25)
    assert row["volume"] == pytest.approx(4 / 3 * np.pi * radius**3, rel=0.02)
    assert row["surface_area"] == pytest.approx(4 * np.pi * radius**2, rel=0.12)
    assert 0.85 < row["sphericity"] <= 1.0
    assert row["mean_intensity"] == 40.0
    assert row["centroid_z"] == pytest.approx(11.0)
    assert row["centroid_y"] == pytest.approx(11.0)
    assert row["centroid_x"] == pytest.approx(12.0)
    assert (row["bbox_z_start"], row["bbox_z_stop"]) == (3, 20)


def blobs() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    smooth = gaussian_filter(rng.random((20, 24, 28)), 1.5)
    objects = 3 * label(smooth > np.quantile(smooth, 0.7))[0].astype(np.int32)
    return objects, rng.normal(100.0, 1.0, objects.shape)


@pytest.mark.parametrize("voxels", [2**23, 2**9])
def test_measures_are_those_of_scikit_image(
    voxels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blockwise, "BLOCK_VOXELS", voxels)
    (objects, image), spacing = blobs(), (3.0, 0.5, 0.7)
    table = measure_objects(objects, on_grid(image, spacing))
    same = {
        "id": "label", "voxels": "num_pixels", "volume": "area",
        "equivalent_diameter": "equivalent_diameter_area",
        "centroid_y": "centroid-1", "bbox_z_stop": "bbox-3", "bbox_x_start": "bbox-2",
        "mean_intensity": "intensity_mean", "min_intensity": "intensity_min",
        "max_intensity": "intensity_max", "sd_intensity": "intensity_std",
        "axis_major_length": "axis_major_length",
    }  # fmt: skip
    expected = regionprops_table(
        objects,
        image,
        properties=(
            "bbox",
            "centroid",
            *{name for name in same.values() if "-" not in name},
        ),
        spacing=spacing,
    )
    for ours, theirs in same.items():
        np.testing.assert_allclose(table[ours], expected[theirs], rtol=1e-7)
    for number, surface in zip(table["id"], table["surface_area"], strict=True):
        mask = np.pad(objects == number, 1).astype(np.float32)
        corners, faces, *_ = marching_cubes(mask, 0.5, spacing=spacing)
        np.testing.assert_allclose(surface, mesh_surface_area(corners, faces))


def test_a_turned_or_sheared_grid_gives_measures_of_the_world() -> None:
    objects, image = blobs()
    straight = measure_objects(objects, on_grid(image, (3.0, 0.5, 0.7)))
    turn = np.array([[0.6, -0.8, 0], [0.8, 0.6, 0], [0, 0, -1.0]])
    steps = turn @ np.diag([3.0, 0.5, 0.7])
    place = {"matrix": tuple(map(tuple, steps)), "origin": (10.0, 20.0, 30.0)}
    turned = measure_objects(objects, on_grid(image, (3.0, 0.5, 0.7), **place))
    for name in ("volume", "surface_area", "axis_major_length", "axis_minor_length"):
        np.testing.assert_allclose(turned[name], straight[name], rtol=1e-6)
    axes = ["centroid_z", "centroid_y", "centroid_x"]
    moved = straight[axes].to_numpy() @ turn.T + [10, 20, 30]
    np.testing.assert_allclose(turned[axes], moved)
    sheared = ((1.0, 0.5, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 2.0))
    edges = (1.0, 1.25**0.5, 2.0)
    cube = np.ones((3, 3, 3), np.uint8)
    (row,) = measure_objects(cube, on_grid(cube, edges, matrix=sheared)).to_dict(
        "records"
    )
    assert row["volume"] == pytest.approx(54)


def test_columns_have_the_names_of_axes_in_any_order() -> None:
    objects, image = blobs()
    expected = measure_objects(objects, on_grid(image, (3.0, 0.5, 0.7)))
    swapped = on_grid(image.T, (0.7, 0.5, 3.0), axes=("x", "y", "z"))
    table = measure_objects(objects.T, swapped)
    for name in table:
        np.testing.assert_allclose(table[name], expected[name], rtol=1e-9, err_msg=name)


def test_every_channel_is_measured_and_units_are_in_the_names() -> None:
    objects, image = blobs()
    volume = on_grid(
        np.stack([image, 2 * image], axis=1),
        (3.0, 1.0, 0.5, 0.7),
        axes=("z", "c", "y", "x"),
        units=("um", "pixel", "um", "um"),
        origin=(0.0,) * 4,
        channel_names=("DAPI", "GFP"),
    )
    prompts = dict.fromkeys(np.unique(objects)[1:].tolist(), "nuclei")
    table = measure_objects(objects, volume, prompts=prompts)
    for kind in ("mean", "min", "max", "sd"):
        twice = 2 * table[f"{kind}_intensity_DAPI"]
        np.testing.assert_allclose(table[f"{kind}_intensity_GFP"], twice)
    assert "volume [um^3]" in with_units(table)
    assert "bbox_z_start [voxel]" in with_units(table)
    (row,) = with_units(measure_prompts(table)).to_dict("records")
    assert row["objects"] == len(table)
    assert row["total_volume [um^3]"] == pytest.approx(table["volume"].sum())
    inside = image[objects > 0].mean()
    assert row["mean_intensity_DAPI"] == pytest.approx(inside)


def test_a_disc_of_a_single_image_has_the_measures_of_a_disc() -> None:
    y, x = np.ogrid[:50, :50]
    disc = ((y - 25) ** 2 + (x - 25) ** 2 < 20**2).astype(np.uint64) * 2**40
    grid = {"axes": ("y", "x"), "units": ("um",) * 2, "origin": (0.0, 0.0)}
    flat = as_volume(on_grid(disc.astype("f4"), (0.5, 0.5), **grid))
    (row,) = measure_objects(disc[None], flat).to_dict("records")
    assert row["id"] == 2**40
    for name in ("equivalent_diameter", "axis_major_length", "axis_minor_length"):
        assert row[name] == pytest.approx(20, rel=0.01)
    assert "axis_intermediate_length" not in row


def test_flat_and_single_voxel_objects_and_names() -> None:
    objects = np.zeros((1, 8, 8), np.int32)
    objects[0, 0, 0], objects[0, 2:6, 2:6] = 1, 2
    image = np.arange(64, dtype=np.uint16).reshape(1, 8, 8)
    table = measure_objects(
        objects, on_grid(image, (2.0, 1.0, 1.0)), prompts={2: "nuclei"}
    )
    assert table["id"].tolist() == [1, 2]
    assert table["prompt"].tolist() == ["", "nuclei"]
    assert table["volume"].tolist() == [2.0, 32.0]
    assert table["mean_intensity"][1] == image[0, 2:6, 2:6].mean()
    assert (table["surface_area"] > 0).all()
    assert table.attrs["unit"] == "micrometer"


def test_nothing_found_gives_an_empty_table_with_its_columns() -> None:
    nothing = np.zeros((2, 4, 4), np.uint8)
    table = measure_objects(nothing, on_grid(nothing, (1.0, 1.0, 1.0)))
    assert len(table) == 0
    assert {"voxels", "volume", "sphericity"} <= set(table.columns)


def test_what_does_not_fit_is_refused() -> None:
    labels = np.ones((2, 4, 4), np.uint8)
    with pytest.raises(VolumeError, match="same three axes"):
        measure_objects(labels, on_grid(labels[:, :3], (1.0, 1.0, 1.0)))
    for other in ("pixel", "second"):
        units = ("micrometer", other, other)
        with pytest.raises(VolumeError, match="measured together"):
            measure_objects(labels, on_grid(labels, (1.0, 1.0, 1.0), units=units))


def test_components_on_disk_are_those_in_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("napari_biomedparse.labels.blockwise.BLOCK_VOXELS", 64)
    labels = np.random.default_rng(0).integers(0, 3, (5, 12, 13)).astype(">u2")
    lazy = da.from_array(labels, chunks=(2, 4, 4))
    expected, names = components_of(labels, {1: "liver"})
    found, same = components_of(
        lazy, {1: "liver"}, lambda shape, _, dtype: np.zeros(shape, dtype)
    )
    np.testing.assert_array_equal(found, expected)
    assert same == names


def test_lengths_in_several_units_become_one() -> None:
    labels = np.zeros((4, 5, 6), np.uint8)
    labels[1:3, 1:4, 2:4] = 1
    mixed = replace(
        on_grid(labels, (500.0, 0.1, 0.1)),
        units=("nanometer", "micrometer", "micrometer"),
        origin=(1000.0, 2.0, 3.0),
        matrix=((0.0, 500.0, 0.0), (0.1, 0.0, 0.0), (0.0, 0.0, 0.1)),
    )
    plain = replace(
        mixed,
        spacing=(0.5, 0.1, 0.1),
        units=("micrometer",) * 3,
        origin=(1.0, 2.0, 3.0),
        matrix=((0.0, 0.5, 0.0), (0.1, 0.0, 0.0), (0.0, 0.0, 0.1)),
    )
    found, expected = measure_objects(labels, mixed), measure_objects(labels, plain)
    pd.testing.assert_frame_equal(found, expected)
    assert found.attrs == {"unit": "micrometer"}
