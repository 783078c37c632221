"""Sums block by block are those of scikit-image over the whole volume."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
from skimage.measure import marching_cubes, mesh_surface_area, regionprops_table

from napari_biomedparse.labels import blockwise, sums
from napari_biomedparse.labels.sums import owners_of, sum_objects

SPACING = (2.0, 0.5, 0.7)


def objects_of(shape: tuple[int, ...]) -> np.ndarray:
    rng = np.random.default_rng(0)
    picked = rng.integers(0, 5, shape) * (rng.random(shape) > 0.3)
    return (picked * 100).astype(np.uint16)


@pytest.mark.parametrize("shape", [(1, 8, 8), (7, 30, 33)])
@pytest.mark.parametrize("block", [2**23, 256])
def test_sums_are_those_of_the_whole_volume(
    shape: tuple[int, ...], block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blockwise, "BLOCK_VOXELS", block)
    if block < 1000:
        monkeypatch.setattr(sums, "_SMALL_BLOCK", (3, 5, 6))
    objects = objects_of(shape)
    image = np.random.default_rng(1).normal(size=shape)
    found = sum_objects(objects, {"value": image}, SPACING)
    known = regionprops_table(
        objects, image, properties=("label", "num_pixels", "bbox", "centroid")
    )
    assert found.index.tolist() == known["label"].tolist()
    np.testing.assert_array_equal(found["voxels"], known["num_pixels"])
    for i, axis in enumerate("zyx"):
        np.testing.assert_array_equal(found[f"{axis}_min"], known[f"bbox-{i}"])
        np.testing.assert_array_equal(found[f"{axis}_max"] + 1, known[f"bbox-{i + 3}"])
        mean = found[f"{axis}_sum"] / found["voxels"]
        np.testing.assert_allclose(mean, known[f"centroid-{i}"])
    for number, row in found.iterrows():
        mask = objects == number
        values, (z, y, x) = image[mask], np.nonzero(mask)
        assert row["value_sum"] == pytest.approx(values.sum())
        assert row["valuevalue_sum"] == pytest.approx((values**2).sum())
        assert (row["value_min"], row["value_max"]) == (values.min(), values.max())
        assert row["zz_sum"] == (z * z).sum()
        products = (row["zy_sum"], row["zx_sum"], row["yx_sum"])
        assert products == ((z * y).sum(), (z * x).sum(), (y * x).sum())
        mesh = marching_cubes(np.pad(mask, 1).astype(np.float32), 0.5, spacing=SPACING)
        assert row["surface"] == pytest.approx(mesh_surface_area(*mesh[:2]), rel=1e-6)


def test_lazy_arrays_are_read_block_by_block_and_only_where_objects_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(blockwise, "BLOCK_VOXELS", 4 * 16 * 16)
    objects = np.zeros((40, 16, 16), np.int32)
    objects[3:6, 2:5, 2:5], objects[30:33, 8:10, 8:10] = 7, 3
    image = np.arange(objects.size, dtype=np.uint16).reshape(objects.shape)
    read = []

    def look(block: np.ndarray, block_info: object = None) -> np.ndarray:
        read.append(block_info[None]["array-location"][0])  # type: ignore[index]
        return block

    watched = da.from_array(image, chunks=(4, 16, 16)).map_blocks(
        look, dtype=image.dtype, meta=np.empty((0, 0, 0), image.dtype)
    )
    lazy = da.from_array(objects, chunks=(4, 16, 16))
    found = sum_objects(lazy, {"value": watched}, (1.0, 1.0, 1.0))
    assert found.index.tolist() == [3, 7]
    assert found["value_sum"].tolist() == [
        image[objects == 3].sum(), image[objects == 7].sum()
    ]  # fmt: skip
    assert {start for start, _ in read} == {0, 4, 28, 32}


def test_objects_have_the_label_they_lie_in() -> None:
    labels = np.zeros((2, 4, 4), np.uint8)
    labels[0, :2], labels[1, 3] = 5, 9
    objects = np.zeros(labels.shape, np.uint32)
    objects[0, 0], objects[0, 1], objects[1, 3] = 1, 2, 3
    assert owners_of(objects, da.from_array(labels, chunks=2)) == {1: 5, 2: 5, 3: 9}
