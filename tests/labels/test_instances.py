"""Objects from labels and edges."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from golden_pure import run_instances
from hypothesis import given, settings, strategies as st
from skimage.segmentation import expand_labels

from napari_biomedparse.errors import VolumeError
from napari_biomedparse.labels.instances import (
    OwnerTally,
    keep_numbers,
    label_components,
    split_instances,
)


def test_golden(shared: Path) -> None:
    results = list(run_instances(shared / "reference"))
    assert results
    assert [r for r in results if not r.passed] == []


@given(
    seed=st.integers(0, 10**6),
    shape=st.tuples(st.integers(1, 6), st.integers(1, 7), st.integers(1, 8)),
    share=st.sampled_from([0.05, 0.3, 0.6, 0.9]),
)
@settings(deadline=None, max_examples=300)
def test_growing_agrees_with_expand_labels(
    seed: int, shape: tuple[int, int, int], share: float
) -> None:
    rng = np.random.default_rng(seed)
    labels = (rng.random(shape) < 0.8) * rng.integers(1, 3, shape)
    edges = (rng.random(shape) < share).astype(np.uint8)
    components = label_components(np.where(edges == 0, labels, 0))
    expected = expand_labels(components, 1) * (labels > 0)
    np.testing.assert_array_equal(split_instances(labels, edges), expected)


def test_growing_agrees_with_expand_labels_on_a_larger_volume() -> None:
    rng = np.random.default_rng(0)
    labels = np.ones((40, 60, 50), np.uint8)
    edges = (rng.random(labels.shape) < 0.7).astype(np.uint8)
    expected = expand_labels(label_components(labels * (edges == 0)), 1)
    np.testing.assert_array_equal(split_instances(labels, edges), expected)


@pytest.mark.parametrize("dtype", ["u1", "u2", "i4", ">u2", "i8"])
def test_touching_objects_are_told_apart(dtype: str) -> None:
    labels = np.zeros((1, 3, 9), dtype)
    labels[0, :, 1:8] = 500 if np.dtype(dtype).itemsize > 1 else 5
    edges = np.zeros_like(labels)
    edges[0, :, 4] = 1
    objects = split_instances(labels, edges)
    assert objects.dtype == np.int32
    assert objects[0, 1].tolist() == [0, 1, 1, 1, 1, 2, 2, 2, 0]


def test_neighbours_of_another_label_are_other_objects() -> None:
    labels = np.array([[[1, 1, 2, 2, 0, 1]]])
    assert split_instances(labels, 0 * labels).tolist() == [[[1, 1, 2, 2, 0, 3]]]


def test_corners_do_not_connect() -> None:
    assert label_components(np.eye(3, dtype=np.uint8)[None]).max() == 3


def test_what_is_all_edge_has_no_object() -> None:
    labels = np.ones((2, 4, 4), np.uint8)
    assert not split_instances(labels, labels).any()


def test_inputs_stay_as_they_are() -> None:
    labels = np.ones((2, 4, 4), np.uint8)
    labels.setflags(write=False)
    edges = np.zeros_like(labels)
    edges.setflags(write=False)
    assert split_instances(labels.transpose(2, 0, 1), edges.transpose(2, 0, 1)).all()


def test_different_shapes_are_refused() -> None:
    with pytest.raises(VolumeError, match="same"):
        split_instances(np.ones((2, 2, 2), int), np.ones((2, 2, 3), int))


@pytest.mark.parametrize("minimum_size", [0, 1, 3, 4, 9])
def test_small_objects_are_dropped_and_the_rest_numbered_anew(
    minimum_size: int,
) -> None:
    labels = np.zeros((3, 20, 20), np.uint8)
    sizes = (2, 8, 3, 1, 5)
    for at, size in enumerate(sizes):
        labels[1, 4 * at, :size] = 1
    objects = split_instances(labels, np.zeros_like(labels), minimum_size)
    found = np.bincount(objects.ravel())[1:].tolist()
    assert found == [size for size in sizes if size >= minimum_size]


def test_label_volumes_are_split_one_by_one() -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random((3, 4, 9, 9)) < 0.3).astype(np.uint8)
    labels[1] = 0
    edges = (rng.random(labels.shape) < 0.1).astype(np.uint8)
    objects = split_instances(labels, edges, 2)
    singles = [split_instances(*pair, 2) for pair in zip(labels, edges, strict=True)]
    for found, single in zip(objects, singles, strict=True):
        first = int(found[found > 0].min()) - 1 if found.any() else 0
        np.testing.assert_array_equal(found, np.where(single > 0, single + first, 0))
    numbers = [set(np.unique(found[found > 0])) for found in objects]
    assert set.union(*numbers) == set(range(1, sum(map(len, numbers)) + 1))


def test_objects_keep_their_numbers_where_they_overlap():
    before = np.array([[5, 5, 5, 0, 7, 7, 0, 0]])
    objects = np.array([[1, 1, 2, 0, 3, 3, 3, 4]])
    # 1 has most of 5; 2 has the rest, and 4 is new: both get numbers of their own.
    numbers = keep_numbers(objects, before, taken=[1, 3])
    np.testing.assert_array_equal(numbers, [0, 5, 2, 7, 4])
    assert numbers.dtype == np.int32


def test_of_equal_overlaps_the_smaller_numbers_go_together():
    before, objects = np.array([4, 4, 9, 9]), np.array([2, 1, 1, 2])
    np.testing.assert_array_equal(keep_numbers(objects, before), [0, 4, 9])


def test_without_objects_before_numbers_are_as_they_are():
    objects = np.array([[2, 0, 1, 3]])
    for before in (None, np.zeros_like(objects)):
        np.testing.assert_array_equal(keep_numbers(objects, before), [0, 1, 2, 3])
    np.testing.assert_array_equal(keep_numbers(objects, None, [2]), [0, 1, 3, 4])
    np.testing.assert_array_equal(keep_numbers(np.zeros(3, int), objects[0, :3]), [0])


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("blocks", [1, 4])
def test_owners_are_the_labels_of_the_inside(axis: int, blocks: int) -> None:
    rng = np.random.default_rng(axis)
    labels = np.repeat(rng.integers(0, 3, (8, 1, 1)), 6, 1).repeat(5, 2) * 3
    labels = np.moveaxis(labels, 0, rng.integers(3)).astype(np.uint8)
    edges = np.where(rng.random(labels.shape) < 0.3, labels, 0)
    instances = split_instances(labels, edges)
    existence = rng.random((2, labels.shape[axis])).astype(np.float32)
    tally = OwnerTally(int(instances.max()), (3, 6), existence, axis)
    for at in np.array_split(np.arange(labels.shape[axis]), blocks):
        parts = (np.take(x, at, axis) for x in (instances, labels, edges))
        tally.add(*parts, start=int(at[0]))
    owners = tally.owners
    assert owners.labels[0] == 0
    for number in range(1, int(instances.max()) + 1):
        inside = np.nonzero((instances == number) & (edges == 0))
        (label,) = np.unique(labels[inside])
        assert owners.labels[number] == label
        best = existence[label // 3 - 1, np.unique(inside[axis])].max()
        assert owners.scores[number] == best
