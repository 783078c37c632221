"""Objects by blocks are those of the whole volume, but for their numbers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from napari_biomedparse.labels.blockwise import Inner, block_shape, split_blockwise
from napari_biomedparse.labels.instances import split_instances


@given(
    seed=st.integers(0, 10**6),
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9)),
    block=st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 5)),
    share=st.sampled_from([0.0, 0.05, 0.3, 0.6]),
    minimum_size=st.sampled_from([0, 1, 2, 5]),
)
@settings(deadline=None, max_examples=200)
def test_equal_up_to_numbers(
    seed: int,
    shape: tuple[int, ...],
    block: tuple[int, ...],
    share: float,
    minimum_size: int,
) -> None:
    rng = np.random.default_rng(seed)
    labels = ((rng.random(shape) < 0.8) * rng.integers(1, 3, shape)).astype(np.uint8)
    edges = (rng.random(shape) < share).astype(np.uint8)
    parts, objects = np.zeros((2, *shape), np.uint32)
    count = split_blockwise(labels, edges, parts, objects, block, minimum_size)
    whole = split_instances(labels, edges, minimum_size)
    assert count == whole.max()
    pairs = np.unique(np.stack([objects.ravel(), whole.ravel()]), axis=1)
    assert len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1]
    assert (objects == 0).tolist() == (whole == 0).tolist()
    assert set(np.unique(objects)) <= set(range(count + 1))


@given(
    seed=st.integers(0, 10**6),
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9)),
    block=st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 5)),
    minimum_size=st.sampled_from([0, 5]),
    after=st.sampled_from([0, 3]),
)
@settings(deadline=None, max_examples=100)
def test_equal_with_their_numbers(
    seed: int,
    shape: tuple[int, ...],
    block: tuple[int, ...],
    minimum_size: int,
    after: int,
) -> None:
    rng = np.random.default_rng(seed)
    labels = ((rng.random((2, *shape)) < 0.8) * rng.integers(1, 3, shape)).astype("u1")
    edges = (rng.random((2, *shape)) < 0.3).astype(np.uint8)
    whole = split_instances(labels, edges, minimum_size)
    whole[whole > 0] += after
    parts, found, count = np.zeros(shape, np.uint32), np.zeros_like(whole), after
    for at in ((0,), (1,)):
        inner = Inner(labels, at), Inner(edges, at), parts, Inner(found, at)
        count = split_blockwise(*inner, block, minimum_size, after=count)
    np.testing.assert_array_equal(found, whole)
    assert count == max(after, whole.max())


def test_numbers_do_not_depend_on_what_was_there() -> None:
    labels = np.ones((4, 4, 4), np.uint8)
    edges = np.zeros_like(labels)
    edges[2] = 1
    parts, objects = np.full((2, *labels.shape), 7, np.uint32)
    assert split_blockwise(labels, edges, parts, objects, (2, 2, 2)) == 2
    assert objects[:, 0, 0].tolist() == [1, 1, 1, 2]


@pytest.mark.parametrize(
    ("chunks", "shape", "expected"),
    [
        ((16, 256, 256), (256, 2048, 2048), (16, 256, 2048)),
        ((16, 256, 256), (5, 40, 30), (5, 40, 30)),
        ((1, 1024, 1024), (9, 20000, 20000), (1, 1024, 8192)),
    ],
)
def test_blocks_are_whole_chunks(
    chunks: tuple[int, ...], shape: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    assert block_shape(chunks, shape) == expected
