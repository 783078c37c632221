"""Measurements against shapes whose size is known."""

from __future__ import annotations

import numpy as np
import pytest

from napari_biomedparse.data.volume import Volume
from napari_biomedparse.errors import VolumeError
from napari_biomedparse.labels.measure import measure_objects


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
    units = ("micrometer", "nanometer", "nanometer")
    with pytest.raises(VolumeError, match="one unit"):
        measure_objects(labels, on_grid(labels, (1.0, 1.0, 1.0), units=units))
