"""Whole slices or tiles, and slices read as they are asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import zarr

from napari_biomedparse.data.options import SegmentOptions
from napari_biomedparse.data.volume import as_volume
from napari_biomedparse.errors import FormatError
from napari_biomedparse.slicing.read import LARGE_SLICE, read_slices, slice_geometry


@pytest.mark.parametrize(
    ("edge", "tile", "working"),
    [
        (LARGE_SLICE, "auto", 512),
        (LARGE_SLICE + 4, "auto", LARGE_SLICE + 4),
        (LARGE_SLICE + 4, "none", 512),
        (LARGE_SLICE, 256, 2 * LARGE_SLICE),
    ],
)
def test_large_slices_keep_their_resolution(edge: int, tile: Any, working: int) -> None:
    volume = as_volume(np.broadcast_to(np.uint8(0), (2, edge, edge)))
    geometry = slice_geometry(volume, SegmentOptions(tile=tile), 512)
    assert geometry.working_shape == (working, working)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("lazy", [np.asarray, zarr.array])
def test_slices_come_first(axis: int, lazy: Any) -> None:
    grey = np.random.default_rng(0).integers(0, 255, (6, 7, 8), dtype=np.uint8)
    found = read_slices(as_volume(lazy(grey)), axis, 2, 5)
    np.testing.assert_array_equal(found, np.moveaxis(grey, axis, 0)[2:5])


def test_colours_stay_last() -> None:
    colours = np.random.default_rng(0).integers(0, 255, (6, 7, 8, 3), dtype=np.uint8)
    found = read_slices(as_volume(colours), 0, 2, 5)
    np.testing.assert_array_equal(found, colours[2:5])


def test_what_cannot_be_read_is_named() -> None:
    class Lost:
        shape, dtype = (4, 5, 6), np.dtype(np.uint8)

        def __getitem__(self, index: Any) -> Any:
            raise OSError("gone")

    with pytest.raises(FormatError, match=r"volume: slices 1 to 2 cannot be read \(OS"):
        read_slices(as_volume(Lost()), 0, 1, 3)
