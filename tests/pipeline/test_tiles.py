"""Tiles cover a slice, blend without a seam, and change nothing where not needed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from napari_biomedparse.data.volume import Volume
from napari_biomedparse.engine.engine import SlicePrediction
from napari_biomedparse.errors import OptionError
from napari_biomedparse.networks.catalogue import available_models
from napari_biomedparse.networks.config import TINY
from napari_biomedparse.networks.v2.biomedparse import BiomedParse
from napari_biomedparse.networks.weights import load_model
from napari_biomedparse.pipeline.plan import SegmentOptions, plan_run
from napari_biomedparse.pipeline.segment import segment
from napari_biomedparse.pipeline.tiles import predict_tiles
from napari_biomedparse.samples import make_phantom
from napari_biomedparse.slicing.geometry import (
    CELL,
    OVERLAP,
    TileGrid,
    plan_slices,
)

SIZE = 64
THERE, ABSENT = 8.0, -8.0
lengths = st.integers(SIZE // CELL, 100).map(lambda n: CELL * n)


def _means(tiles: Tensor, existence: float = THERE) -> SlicePrediction:
    """A network whose logits are the mean grey level of each cell, less 128."""
    logits = torch.nn.functional.avg_pool2d(tiles[:, :1].float(), CELL) - 128
    return SlicePrediction(
        logits, -logits, torch.full((len(tiles), 1), existence, dtype=torch.float32)
    )


def _predict(predict: Any, slices: Tensor) -> SlicePrediction:
    grid = TileGrid((slices.shape[-2], slices.shape[-1]), SIZE)
    return predict_tiles(predict, slices, grid, batch_size=3, existence_threshold=0.5)


@given(rows=lengths, columns=lengths)
def test_tiles_cover_the_slice_and_overlap(rows: int, columns: int) -> None:
    covered = np.zeros((rows, columns), int)
    corners = TileGrid((rows, columns), SIZE).corners
    for y, x in corners:
        assert y % CELL == x % CELL == 0
        assert y + SIZE <= rows
        assert x + SIZE <= columns
        covered[y : y + SIZE, x : x + SIZE] += 1
    assert covered.min() >= 1
    for starts, length in ((0, rows), (1, columns)):
        ordered = sorted({corner[starts] for corner in corners})
        assert ordered[0] == 0
        assert ordered[-1] == length - SIZE
        steps = np.diff(ordered)
        assert (steps <= SIZE * (1 - OVERLAP) + CELL).all()


@given(rows=lengths, columns=lengths)
@settings(deadline=None, max_examples=30)
def test_what_tiles_agree_on_comes_back_exactly(rows: int, columns: int) -> None:
    generator = torch.Generator().manual_seed(rows * columns)
    slices = torch.randint(0, 256, (2, 3, rows, columns), generator=generator)
    found = _predict(_means, slices)
    expected = torch.nn.functional.avg_pool2d(slices[:, :1].float(), CELL) - 128
    torch.testing.assert_close(found.mask_logits, expected, atol=1e-3, rtol=1e-5)
    torch.testing.assert_close(found.edge_logits, -expected, atol=1e-3, rtol=1e-5)
    assert (found.existence == THERE).all()


def test_disagreeing_tiles_blend_without_a_jump() -> None:
    """Each tile answers with a number of its own; the blend changes gradually."""
    numbers = iter(range(1, 1000))

    def stubborn(tiles: Tensor) -> SlicePrediction:
        own = torch.tensor([float(next(numbers)) for _ in tiles])[:, None, None, None]
        logits = own.expand(-1, 1, SIZE // CELL, SIZE // CELL)
        return SlicePrediction(logits, logits, torch.ones(len(tiles), 1))

    found = _predict(stubborn, torch.zeros(1, 3, SIZE, 200)).mask_logits[0, 0, 0]
    assert found[0] == 1
    assert found[-1] == next(numbers) - 1
    overlap = OVERLAP * SIZE / CELL
    assert found.diff().abs().max() < 2 / overlap


def test_a_tile_without_the_target_has_none() -> None:
    def only_left(tiles: Tensor) -> SlicePrediction:
        found = _means(tiles)
        left = tiles[:, 0].float().mean((1, 2)) > 190
        existence = torch.where(left, THERE, ABSENT)[:, None]
        return SlicePrediction(found.mask_logits, found.edge_logits, existence)

    slices = torch.full((1, 3, SIZE, 4 * SIZE), 180)
    slices[..., : 2 * SIZE] = 200
    found = _predict(only_left, slices)
    assert (found.mask_logits[..., : SIZE // CELL] > 0).all()
    assert (found.mask_logits[..., -(SIZE // CELL) :] < 0).all()
    assert found.existence.item() == THERE


def test_one_tile_is_the_whole_slice(tiny_model: BiomedParse) -> None:
    volume = np.random.default_rng(0).integers(0, 255, (3, 64, 64), dtype=np.uint8)
    tiled = segment(volume, ["liver", "kidney"], tiny_model, tile=64)
    whole = segment(volume, ["liver", "kidney"], tiny_model, tile="none")
    assert whole.labels.any()
    np.testing.assert_array_equal(tiled.labels, whole.labels)


def test_batch_size_changes_no_label_of_tiled_slices(tiny_model: BiomedParse) -> None:
    volume = np.random.default_rng(0).integers(0, 255, (3, 150, 110), dtype=np.uint8)
    results = [
        segment(volume, ["liver", "kidney"], tiny_model, tile=64, batch_size=batch)
        for batch in (1, 3, 8)
    ]
    for result in results:
        np.testing.assert_array_equal(result.labels, results[0].labels)
        np.testing.assert_array_equal(result.existence, results[0].existence)


def test_the_plan_chooses_tiles_for_large_slices_only() -> None:
    def corners(plane: tuple[int, int], **options: Any) -> int:
        volume = np.zeros((1, *plane), np.uint8)
        plan = plan_run(volume, "liver", SegmentOptions(**options), config=TINY)
        return len(plan.tiles.corners)

    assert corners((1024, 900)) == 1
    assert corners((1028, 900)) > 1
    assert corners((1028, 900), tile="none") == 1
    assert corners((200, 64), tile=64) == 4
    assert corners((200, 64), tile=200) == 1
    assert corners((50, 40), tile=64) == 1


def test_a_pixel_size_sets_the_scale() -> None:
    def volume(unit: str) -> Volume:
        array = np.zeros((2, 400, 200), np.uint8)
        return Volume(
            array, ("z", "y", "x"), (1, 0.25, 0.5), (unit,) * 3, (0, 0, 0), "stack"
        )

    options = SegmentOptions(pixel_size=0.5)
    plan = plan_run(volume("micrometer"), "liver", options, config=TINY)
    assert plan.geometry.working_shape == (200, 200)
    with pytest.raises(OptionError, match="has no voxel size"):
        plan_run(volume("pixel"), "liver", options, config=TINY)


@pytest.mark.parametrize("tile", [0, 15, True, "all", 64.0])
def test_tiles_that_make_no_sense(tile: Any) -> None:
    with pytest.raises(OptionError, match="Tiles"):
        SegmentOptions(tile=tile)
    with pytest.raises(OptionError, match="leave Tiles"):
        SegmentOptions(tile=64, pixel_size=1.0)


@given(
    rows=st.integers(1, 300),
    columns=st.integers(1, 300),
    factor=st.sampled_from([0.25, 0.5, 1.0, 1.7, 4.0]),
)
def test_large_slices_come_back_to_their_grid(
    rows: int, columns: int, factor: float
) -> None:
    geometry = plan_slices((2, rows, columns), SIZE, 0, (factor, factor))
    planes = np.full((2, rows, columns), 200, np.uint8)
    prepared = geometry.prepare(planes)
    assert all(n >= SIZE and n % CELL == 0 for n in prepared.shape[1:])
    assert geometry.restore(prepared).shape == planes.shape
    if factor == 1.0:
        np.testing.assert_array_equal(geometry.restore(prepared), planes)


BAND = 8
"""Voxels on either side of a tile's border."""


def _disagreement(
    model: BiomedParse, whole: BiomedParse, grey: Any, prompts: Any
) -> tuple[float, float, float, float]:
    """Voxels that differ, and all: near tile borders, and elsewhere."""
    size, edge = model.config.image_size, grey.shape[1]
    options = SegmentOptions(slices=(1, 2), tile=size)
    expected = segment(grey, prompts, whole, tile="none", slices=(1, 2)).labels[1]
    tiled = segment(grey, prompts, model, options).labels[1]
    grid = plan_run(grey, prompts, options, config=model.config).tiles
    near = np.zeros(grid.shape, bool)
    for y, x in grid.corners:
        for border in {y, y + size} - {0, edge}:
            near[border - BAND : border + BAND] = True
        for border in {x, x + size} - {0, edge}:
            near[:, border - BAND : border + BAND] = True
    differ = tiled != expected
    assert near.any()
    assert (expected != 0).any()
    return differ[near].sum(), near.sum(), differ[~near].sum(), (~near).sum()


@pytest.mark.skipif("demo" not in available_models(), reason="no demo weights")
def test_no_seams_against_a_network_that_sees_the_whole_slice() -> None:
    """Windows lie at random in the phantoms, whose middle is unlike their rim."""
    model = load_model("demo")
    size = model.config.image_size
    edge = 9 * size // 4  # three tiles a row, which overlap by less than a half
    whole = BiomedParse(replace(model.config, image_size=edge)).eval()
    whole.load_state_dict(model.state_dict())
    places, counts = np.random.default_rng(0), np.zeros(4)
    for seed, kind in enumerate(("em", "light-sheet", "em")):
        phantom = make_phantom(kind, 4000 + seed, shape=(3, 2 * edge, 2 * edge))
        for y, x in places.integers(0, edge, (4, 2)):
            grey = np.asarray(phantom.volume.data)[:, y : y + edge, x : x + edge]
            counts += _disagreement(model, whole, grey, phantom.prompts)
    near, all_near, far, all_far = counts
    assert near / all_near <= 1.2 * far / all_far
