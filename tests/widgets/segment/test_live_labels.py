"""What a run wrote and what was painted over it are told apart."""

from __future__ import annotations

import numpy as np

from napari_biomedparse.widgets.segment.live_labels import WrittenLabels


def first(labels):
    return labels[0]


def test_what_was_painted_stays_and_all_else_is_new():
    labels = np.zeros((2, 3), np.uint8)
    written = WrittenLabels(labels)
    written.write(first, np.array([1, 1, 0], np.uint8))
    written.before_painting()
    labels[0, 1] = 7
    written.before_painting()  # another tool: what was painted stays painted
    labels[0, 2] = 0  # painted, but as it was
    written.write(first, np.array([2, 2, 2], np.uint8))
    np.testing.assert_array_equal(labels, [[2, 7, 2], [0, 0, 0]])


def test_a_stroke_that_was_undone_does_not_stay():
    labels = np.ones((1, 2), np.uint8)
    written = WrittenLabels(labels)
    written.before_painting()
    labels[0, 0] = 7
    labels[0, 0] = 1
    written.write(first, np.array([3, 3], np.uint8))
    np.testing.assert_array_equal(labels, [[3, 3]])


def test_new_labels_may_go_over_what_was_painted():
    labels = np.ones((1, 2), np.uint8)
    written = WrittenLabels(labels)
    written.before_painting()
    labels[0, 0] = 7
    written.write(first, np.array([3, 4], np.uint8), over_painted=True)
    np.testing.assert_array_equal(labels, [[3, 4]])
    written.write(first, np.array([5, 5], np.uint8))
    np.testing.assert_array_equal(labels, [[5, 5]])
