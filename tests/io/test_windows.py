"""Parts of lazy volumes: the same voxels, and each chunk once."""

from __future__ import annotations

from collections import Counter
from typing import Any

import dask.array as da
import numpy as np
import pytest
import zarr

from napari_biomedparse.io import windows as chunks
from napari_biomedparse.io.windows import (
    can_spool,
    chunk_thickness,
    read_windows,
    spool,
)

VALUES = np.random.default_rng(0).integers(0, 2**16, (23, 17, 19)).astype(np.uint16)


def counting(reads: Counter[Any], sizes: Any) -> da.Array:
    """A dask array that counts how often each block is computed."""

    def block(block_info: Any = None) -> np.ndarray[Any, Any]:
        where = block_info[None]["array-location"]
        reads[tuple(map(tuple, where))] += 1
        return VALUES[tuple(slice(*place) for place in where)]

    whole = da.core.normalize_chunks(sizes, VALUES.shape)
    return da.map_blocks(block, chunks=whole, dtype=np.uint16, meta=VALUES[:0])


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(("start", "stop"), [(0, 17), (3, 12)])
def test_a_spooled_part_is_that_of_the_array(axis: int, start: int, stop: int) -> None:
    reads: Counter[Any] = Counter()
    data = counting(reads, (23, 17, 19) if axis else (23, 5, 6))
    parts = list(spool(data, axis, start, stop, 4))
    assert [len(part) for part in parts[:-1]] == [4] * (len(parts) - 1)
    expected = np.moveaxis(VALUES, axis, 0)[start:stop]
    np.testing.assert_array_equal(np.concatenate(parts), expected)
    assert set(reads.values()) == {1}


def test_windows_share_their_blocks() -> None:
    reads: Counter[Any] = Counter()
    data = counting(reads, (8, 17, 19))
    windows = [(slice(i, i + 2), slice(i, 12)) for i in range(5)]
    for found, window in zip(read_windows(data, windows), windows, strict=True):
        np.testing.assert_array_equal(found, VALUES[window])
    assert set(reads.values()) == {1}
    (found,) = read_windows(VALUES, windows[:1])
    np.testing.assert_array_equal(found, VALUES[windows[0]])


def test_what_is_not_spooled(monkeypatch: pytest.MonkeyPatch) -> None:
    lazy = da.from_array(VALUES)
    assert can_spool(lazy, 10)
    assert not can_spool(VALUES, 10)
    assert not can_spool(lazy, chunks.SPOOL_BYTES + 1)
    full = type("", (), {"free": 15})
    monkeypatch.setattr("shutil.disk_usage", lambda _: full)
    assert can_spool(lazy, 7)
    assert not can_spool(lazy, 8)


def test_the_thickness_is_that_of_what_is_read_as_one() -> None:
    assert chunk_thickness(VALUES, 0) == 1
    assert chunk_thickness(da.from_array(VALUES, (9, 17, 19)), 0) == 9
    chunked: Any = zarr.create_array(
        {}, shape=VALUES.shape, chunks=(5, 6, 7), dtype="u2"
    )
    assert [chunk_thickness(chunked, axis) for axis in range(3)] == [5, 6, 7]
    sharded: Any = zarr.create_array(
        {}, shape=(20, 20, 20), chunks=(5, 5, 5), shards=(10, 5, 20), dtype="u2"
    )
    assert [chunk_thickness(sharded, axis) for axis in range(3)] == [10, 5, 20]
