"""Objects by shape: ITK's, against its algorithm in plain Python."""

from __future__ import annotations

from collections import deque
from itertools import product
from pathlib import Path
from typing import Any

import golden_v1_pure
import numpy as np
import pytest
import zarr
from hypothesis import given, settings, strategies as st
from scipy.ndimage import binary_fill_holes, gaussian_filter

from napari_biomedparse.labels.watershed import split_by_shape, split_slices


def test_golden(shared: Path) -> None:
    results = list(golden_v1_pure.instances(shared / "reference_v1"))
    assert len(results) == 4
    assert [r for r in results if not r.passed] == []


def around(at: tuple[int, int], shape: Any, steps: Any) -> list[tuple[int, int]]:
    found = ((at[0] + y, at[1] + x) for y, x in steps)
    return [(y, x) for y, x in found if 0 <= y < shape[0] and 0 <= x < shape[1]]


FACES = ((-1, 0), (0, -1), (0, 1), (1, 0))
CORNERS = tuple(product((-1, 0, 1), repeat=2))


def plain(mask: Any) -> Any:
    """Floods with a queue for each height, as ITK's filters do."""
    filled, shape = binary_fill_holes(mask), mask.shape
    places = list(np.ndindex(shape))
    border = [
        p
        for p in places
        if filled[p] and not all(filled[q] for q in around(p, shape, CORNERS))
    ]
    height = np.zeros(shape, np.float32)
    for p in places if border else ():
        least = min((p[0] - y) ** 2 + (p[1] - x) ** 2 for y, x in border)
        height[p] = np.sqrt(least) * (-1 if filled[p] else 1)
    level, before = height + np.float32(1), None
    while not np.array_equal(level, before):
        before = level.copy()
        for p in places:
            near = min(level[q] for q in [p, *around(p, shape, FACES)])
            level[p] = max(height[p], near)
    grown, count = np.zeros(shape, int), 0
    seen = np.zeros(shape, bool)
    for p in (p for p in places if not seen[p]):
        plateau, rim, seen[p] = [p], [], True
        for one in plateau:
            for q in around(one, shape, FACES):
                if level[q] != level[p]:
                    rim.append(level[q])
                elif not seen[q]:
                    seen[q] = True
                    plateau.append(q)
        if all(value > level[p] for value in rim):
            count += 1
            for one in plateau:
                grown[one] = count
    queues: dict[float, deque[tuple[int, int]]] = {}
    for p in places:
        if grown[p] and not all(grown[q] for q in around(p, shape, FACES)):
            queues.setdefault(float(height[p]), deque()).append(p)
    while queues:
        now = min(queues)
        queue = queues.pop(now)
        while queue:
            p = queue.popleft()
            for q in around(p, shape, FACES):
                if not grown[q]:
                    grown[q] = grown[p]
                    later = float(height[q])
                    target = (
                        queue if later <= now else queues.setdefault(later, deque())
                    )
                    target.append(q)
    grown[~mask] = 0
    ids, sizes = np.unique(grown[mask], return_counts=True)
    small = sizes < sizes.mean() - 2 * sizes.std() - 1 if len(ids) else []
    grown[np.isin(grown, ids[small])] = 0
    return grown


def assert_same_objects(found: Any, expected: Any) -> None:
    np.testing.assert_array_equal(found > 0, expected > 0)
    pairs = set(zip(found.ravel().tolist(), expected.ravel().tolist(), strict=True))
    assert len(pairs) == len(np.unique(found)) == len(np.unique(expected))


@given(
    seed=st.integers(0, 10**6),
    shape=st.tuples(st.integers(1, 17), st.integers(1, 17)),
    share=st.floats(0, 1),
    smooth=st.sampled_from([0, 1, 2]),
)
@settings(deadline=None, max_examples=60)
def test_agrees_with_queues(
    seed: int, shape: tuple[int, int], share: float, smooth: float
) -> None:
    noise = gaussian_filter(np.random.default_rng(seed).random(shape), smooth)
    mask = noise > np.quantile(noise, share)
    assert_same_objects(split_by_shape(mask), plain(mask))


def test_of_two_basins_the_row_decides_as_in_itk() -> None:
    mask = np.ones((7, 5), bool)
    mask[0, 4] = mask[5:, 0] = False
    assert split_by_shape(mask).tolist() == [  # by SimpleITK 2.5.7
        [1, 1, 1, 1, 0],
        [1, 1, 1, 1, 2],
        [1, 1, 1, 2, 2],
        [1, 1, 2, 2, 2],
        [1, 1, 2, 2, 2],
        [0, 2, 2, 2, 2],
        [0, 2, 2, 2, 2],
    ]


def discs(*centers: tuple[int, int], shape: tuple[int, int] = (30, 60)) -> Any:
    rows, columns = np.indices(shape)
    return np.any([np.hypot(rows - y, columns - x) < 9 for y, x in centers], axis=0)


def test_touching_discs_are_cut_where_they_are_narrow() -> None:
    mask = discs((14, 15), (14, 30))
    mask[14, 15] = mask[14, 30] = False  # a hole is no border
    found = split_by_shape(mask)
    assert found.dtype == np.int32
    assert found.max() == 2
    np.testing.assert_array_equal(found > 0, mask)
    assert (found[:, :22][mask[:, :22]] == found[14, 14]).all()
    assert (found[:, 24:][mask[:, 24:]] == found[14, 31]).all()


def test_what_is_far_smaller_than_the_others_is_removed() -> None:
    centers = [(y, x) for y in range(12, 120, 21) for x in range(12, 120, 21)]
    mask = discs(*centers, shape=(130, 130))
    mask[0, 0] = True
    found = split_by_shape(mask)
    assert found.max() == len(centers) and found[0, 0] == 0
    half = discs((14, 15), (14, 30), (29, 50))
    assert split_by_shape(half).max() == 3
    assert split_by_shape(half, 200).max() == 2


def test_a_hole_may_hold_a_basin_of_its_own() -> None:
    mask = discs((14, 15), (14, 38), (14, 30))
    mask[9:20, 36:44] = False
    assert_same_objects(split_by_shape(mask), plain(mask))
    framed = np.ones((21, 60), bool)
    framed[1:20, 25:59] = False
    assert_same_objects(split_by_shape(framed), plain(framed))


@pytest.mark.parametrize("value", [False, True])
def test_a_mask_without_a_border_is_one_object_or_none(value: bool) -> None:
    assert (split_by_shape(np.full((5, 6), value)) == value).all()
    ring = np.pad(np.zeros((3, 3), bool), 1, constant_values=True)
    np.testing.assert_array_equal(split_by_shape(ring), ring)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_and_labels_are_split_by_themselves(axis: int, tmp_path: Path) -> None:
    planes = np.zeros((3, 30, 60), np.uint8)
    planes[0][discs((14, 15), (14, 30))] = 2
    planes[0][discs((14, 48))] = 7  # touches the one before
    planes[2][discs((14, 15))] = 7
    labels = np.moveaxis(planes, 0, axis)
    found = np.zeros(labels.shape, np.int32)
    assert split_slices(labels, found, axis, 3, after=4) == 8
    slices = np.moveaxis(found, axis, 0)
    np.testing.assert_array_equal(slices > 0, planes > 0)
    assert set(slices[0][planes[0] == 2]) == {5, 6}
    assert set(slices[0][planes[0] == 7]) == {7}
    assert set(slices[2][planes[2] == 7]) == {8}
    stored = zarr.create_array(
        str(tmp_path / "o.zarr"), shape=labels.shape, chunks=(2, 2, 2), dtype=np.uint32
    )
    assert split_slices(labels, stored, axis, 2, after=4) == 8
    np.testing.assert_array_equal(np.asarray(stored), found)
