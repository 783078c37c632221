"""Objects by their shape in a volume: spheres that touch, in memory and in blocks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import dask.array as da
import numpy as np
import pytest

from napari_biomedparse.data.options import SegmentOptions
from napari_biomedparse.data.volume import volume_of
from napari_biomedparse.labels.shapes import split_by_shapes, split_shape
from napari_biomedparse.networks.v2.biomedparse import BiomedParse
from napari_biomedparse.pipeline.plan import plan_run
from napari_biomedparse.pipeline.segment import segment
from napari_biomedparse.runs.run import segment_to_folder

CENTERS = ((8, 12, 12), (8, 12, 26), (8, 24, 19), (20, 30, 40), (20, 12, 44))
RADIUS = 8.0


def spheres(spacing: tuple[float, float, float]) -> np.ndarray:
    """Number spheres of 8 units, the first three of which touch."""
    shape = [round(n / s) for n, s in zip((28, 42, 56), spacing, strict=True)]
    grid = np.meshgrid(
        *(np.arange(n) * s for n, s in zip(shape, spacing, strict=True)), indexing="ij"
    )
    far = np.stack(
        [
            np.sqrt(sum((g - c) ** 2 for g, c in zip(grid, center, strict=True)))
            for center in CENTERS
        ]
    )
    return np.where(far.min(axis=0) < RADIUS, far.argmin(axis=0) + 1, 0)


def overlap(found: np.ndarray, truth: np.ndarray) -> list[float]:
    """Return the best intersection over union for each true object."""
    best = []
    for number in range(1, truth.max() + 1):
        own = truth == number
        best.append(
            max(
                (own & (found == n)).sum() / (own | (found == n)).sum()
                for n in np.unique(found[own])
            )
        )
    return best


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.0, 1.0, 1.0)])
@pytest.mark.parametrize("diameter", [0.0, 16.0])
def test_touching_spheres_are_told_apart(
    spacing: tuple[float, float, float], diameter: float
) -> None:
    truth = spheres(spacing)
    labels = (truth > 0).astype(np.uint8)
    found = np.zeros(truth.shape, np.int32)
    scratch = np.zeros(truth.shape, np.uint32)
    args = labels, labels * 0, scratch, found
    count = split_by_shapes(*args, truth.shape, spacing=spacing, diameter=diameter)
    assert count == found.max() == 5
    assert min(overlap(found, truth)) > 0.9
    np.testing.assert_array_equal(found > 0, truth > 0)
    blocks = np.zeros(truth.shape, np.uint32)
    args = labels, labels * 0, scratch, blocks
    assert (
        split_by_shapes(*args, (7, 11, 13), spacing=spacing, diameter=diameter, after=9)
        == 14
    )
    pairs = np.unique(np.stack([found[truth > 0], blocks[truth > 0]]), axis=1)
    assert pairs.shape == (2, 5)
    assert blocks[truth > 0].min() == 10


def test_unknown_voxels_are_as_long_as_their_objects_suggest(
    caplog: pytest.LogCaptureFixture,
) -> None:
    truth = np.pad(spheres((2.0, 1.0, 1.0)), 1)
    labels, found = (truth > 0).astype(np.uint8), np.zeros(truth.shape, np.int32)
    scratch = np.zeros(truth.shape, np.uint32)
    args = labels, labels * 0, scratch, found
    assert split_by_shapes(*args, truth.shape, spacing=None) == 5
    assert min(overlap(found, truth)) > 0.9
    (said,) = caplog.messages
    assert "voxel size is not known" in said
    ratio = float(said.split("were ")[1].split(" times")[0])
    assert ratio == pytest.approx(2.0, rel=0.05)
    blocks = np.zeros(truth.shape, np.uint32)
    args = labels, labels * 0, scratch, blocks
    assert split_by_shapes(*args, (5, 9, 60), spacing=None) == 5
    np.testing.assert_array_equal(blocks, found)
    assert caplog.messages[-1] == said


@pytest.mark.parametrize(("side", "told"), [(1.0, True), (2.0, False)])
def test_a_layers_scale_is_a_voxel_size(
    tiny_model: BiomedParse, side: float, told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    image = replace(volume_of(np.zeros((3, 32, 32))), spacing=(side, 1.0, 1.0))
    options = SegmentOptions(instances=True, separate_by="shape")
    plan = plan_run(image, "nuclei", options, config=tiny_model.config)
    truth = np.pad(spheres((2.0, 1.0, 1.0)), 1)
    labels, found = (truth > 0).astype(np.uint8), np.zeros(truth.shape, np.int32)
    scratch = np.zeros(truth.shape, np.uint32)
    plan.divide(labels, labels * 0, scratch, found, truth.shape)
    assert bool(caplog.messages) is told


def test_labels_are_apart_edges_cut_and_crumbs_go() -> None:
    truth = spheres((1.0, 1.0, 1.0))
    labels = np.where(truth == 1, 2, truth > 0).astype(np.uint8)
    labels[27, 40, 50:52] = 1
    found, scratch = np.zeros(truth.shape, np.int32), np.zeros(truth.shape, np.uint32)
    edges = np.zeros_like(labels)
    arrays = labels, edges, scratch, found
    assert split_by_shapes(*arrays, truth.shape, spacing=(1, 1, 1)) == 5
    assert not found[27, 40, 50:52].any()
    assert split_by_shapes(*arrays, truth.shape, 1, spacing=(1, 1, 1)) == 6
    edges[:, :, 40] = 1  # through a sphere
    assert split_by_shapes(*arrays, truth.shape, spacing=(1, 1, 1)) == 6


def test_a_rod_of_known_diameter_is_not_a_row_of_spheres() -> None:
    rod = np.ones((6, 6, 60), bool)
    assert split_shape(rod, (1, 1, 1)).max() == 1
    assert (split_shape(rod, (1, 1, 1), 6.0) > 0).all()
    assert split_shape(np.ones((1, 1, 1), bool), (1, 1, 1)).tolist() == [[[1]]]


@pytest.mark.parametrize("by", ["shape", "both"])
def test_all_doors_give_the_same_objects(
    tiny_model: BiomedParse, tmp_path: Path, by: str
) -> None:
    grey = np.random.default_rng(1).integers(0, 255, (6, 64, 64), dtype=np.uint8)
    how = {"instances": True, "separate_by": by, "diameter": 6.0}
    prompts = ["nuclei", "liver"]
    found = segment(grey, prompts, tiny_model, existence_threshold=0.0, **how)
    assert found.instances is not None and found.instances.max() > 3
    lazy = segment(
        da.from_array(grey, chunks=(2, 64, 64)), prompts, tiny_model,
        existence_threshold=0.0, **how,
    )  # fmt: skip
    np.testing.assert_array_equal(np.asarray(lazy.instances), found.instances)
    run = segment_to_folder(
        grey, prompts, tmp_path / "run", "tiny", existence_threshold=0.0, **how
    )
    np.testing.assert_array_equal(np.asarray(run.instances), found.instances)
    assert found.owners is not None
    inside = found.instances > 0
    owners = found.owners.labels[found.instances[inside]]
    np.testing.assert_array_equal(owners, found.labels[inside])
