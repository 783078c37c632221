"""What a person set in labels is told apart from what a machine wrote."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st

from napari_biomedparse.labels.edits import Edits

SHAPE = (3, 4, 5)
ALL = (slice(None),) * 3


def windows(shape=SHAPE):
    def axis(size):
        pairs = st.tuples(st.integers(0, size), st.integers(0, size))
        return pairs.map(lambda pair: slice(min(pair), max(pair)))

    return st.tuples(*map(axis, shape))


def voxels_of(mask):
    return np.nonzero(mask)


@given(st.lists(st.tuples(windows(), st.integers(0, 300), st.booleans())), windows())
def test_edits_are_those_of_a_dense_array(steps, window):
    edits, values, is_set = Edits(SHAPE), np.zeros(SHAPE, int), np.zeros(SHAPE, bool)
    for where, value, kept in steps:
        here = np.zeros(SHAPE, bool)
        here[where] = True
        if kept:
            edits.record(voxels_of(here), value)
            values[here], is_set[here] = value, True
        else:
            edits.forget(voxels_of(here))
            is_set[here] = False
    labels = np.full(SHAPE, 7)
    edits.apply(labels[window], window)
    expected = np.full(SHAPE, 7)
    expected[window] = np.where(is_set, values, 7)[window]
    np.testing.assert_array_equal(labels, expected)
    kept = edits.kept(window)
    np.testing.assert_array_equal(
        np.zeros_like(is_set[window]) if kept is None else kept, is_set[window]
    )
    assert len(edits) == is_set.sum()
    np.testing.assert_array_equal(edits.has(np.indices(SHAPE)[:, 1, 2]), is_set[1, 2])
    index, found = edits.voxels(window)
    np.testing.assert_array_equal(values[window][index], found)
    np.testing.assert_array_equal(index, np.nonzero(is_set[window]))


@pytest.mark.parametrize("shape", [(4, 5), (2, 3, 4, 5)])
def test_any_number_of_axes(shape):
    edits, labels = Edits(shape), np.ones(shape, np.uint8)
    labels[..., 2, 1:3] = 9
    edits.notice(labels, np.ones(shape, np.uint8))
    found = np.ones(shape, np.uint8)
    edits.apply(found)
    np.testing.assert_array_equal(found, labels)


def test_of_equal_voxels_the_last_counts():
    edits, labels = Edits((1, 2)), np.zeros((1, 2), int)
    edits.record((np.array([0, 0, 0]), np.array([1, 1, 0])), [5, 6, 7])
    edits.record((np.array([0]), np.array([0])), 8)
    edits.apply(labels)
    np.testing.assert_array_equal(labels, [[8, 6]])


@given(windows())
def test_differences_are_noticed_once(window):
    written = np.zeros(SHAPE, np.uint8)
    shown, edits = written.copy(), Edits(SHAPE)
    edits.record(voxels_of(shown == 0), 4)  # painted, ...
    edits.forget((np.array([0]), np.array([0]), np.array([0])))
    edits.apply(shown)
    before = edits.copy()
    assert not len(edits.notice(shown, written)[0])
    shown[1, 2] = 0  # ... and a script puts back what the machine wrote
    changed = np.zeros(SHAPE, bool)
    changed[1, 2] = True
    inside = np.zeros(SHAPE, bool)
    inside[window] = True
    found = edits.notice(shown[window], written[window], window)
    np.testing.assert_array_equal(found, np.nonzero(changed & inside))
    assert len(edits.notice(shown[window], written[window], window)[0]) == 0
    edits.notice(shown, written)
    machine = np.full(SHAPE, 2)
    edits.apply(machine)
    np.testing.assert_array_equal(machine[1, 2], 0)
    assert len(before) == shown.size - 1
    machine[...] = 2
    before.apply(machine)
    np.testing.assert_array_equal(machine[1, 2], 4)


@given(windows(), windows())
def test_locked_regions_are_kept_and_not_set(region, window):
    edits, expected = Edits(SHAPE), np.zeros(SHAPE, bool)
    edits.lock([region])
    expected[region] = True
    kept = edits.kept(window)
    assert (kept is None) == (not expected[window].any())
    if kept is not None:
        np.testing.assert_array_equal(kept, expected[window])
    labels = np.zeros(SHAPE)
    edits.apply(labels)
    assert not labels.any()
    edits.lock([])
    assert edits.kept() is None
