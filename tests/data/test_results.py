"""Ranges of slices."""

from __future__ import annotations

import pytest

from napari_biomedparse.data.results import spans


@pytest.mark.parametrize(
    ("indices", "expected"),
    [
        ([], []),
        ([4], [(4, 5)]),
        ({9, 2, 0, 1, 10, 5}, [(0, 3), (5, 6), (9, 11)]),
        ((3, 2, 1), [(1, 4)]),
    ],
)
def test_slices_are_put_together_to_ranges(indices, expected):
    assert spans(indices) == expected
