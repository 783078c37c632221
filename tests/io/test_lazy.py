from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import pytest

from napari_biomedparse.errors import FormatError
from napari_biomedparse.io import lazy
from napari_biomedparse.io.lazy import grow_chunks, in_order, lazy_array

if TYPE_CHECKING:
    from pathlib import Path

VALUES = np.arange(6 * 5 * 4, dtype=np.uint16).reshape(6, 5, 4)


def test_only_the_blocks_needed_are_read() -> None:
    asked: list[Any] = []

    def read(index: Any) -> Any:
        asked.append(index)
        return VALUES[index]

    array: Any = lazy_array(read, VALUES.shape, VALUES.dtype, (2, 5, 4), "a file")
    assert (array.shape, array.dtype, array.chunks[0]) == ((6, 5, 4), "u2", (2, 2, 2))
    assert not asked
    np.testing.assert_array_equal(array[3].compute(), VALUES[3])
    assert asked == [(slice(2, 4), slice(0, 5), slice(0, 4))]
    np.testing.assert_array_equal(array.compute(), VALUES)


def test_an_array_without_voxels_is_one_block_that_is_not_read() -> None:
    def read(_: Any) -> Any:
        raise AssertionError("nothing is there")

    array: Any = lazy_array(read, (50, 0, 90), np.uint8, (1, 1, 1), "a file")
    assert array.numblocks == (1, 1, 1)
    assert array.compute().shape == (50, 0, 90)


@pytest.mark.parametrize("error", [ValueError("odd"), OSError("gone"), KeyError("k")])
def test_damage_is_reported_with_the_place(error: Exception) -> None:
    def read(_: Any) -> Any:
        raise error

    array: Any = lazy_array(read, (4, 4), np.uint8, (2, 4), "image.tif")
    with pytest.raises(FormatError, match=r"image\.tif cannot be read at \(2, 0\)"):
        array[3].compute()


def test_an_error_of_ours_is_left_as_it_is() -> None:
    def read(_: Any) -> Any:
        raise FormatError("ours")

    array: Any = lazy_array(read, (4, 4), np.uint8, (2, 4), "image.tif")
    with pytest.raises(FormatError, match=r"^ours$"):
        array.compute()


@pytest.mark.parametrize(
    ("chunks", "shape", "axes", "grown"),
    [
        ((1, 512, 512), (300, 512, 512), "zyx", (16, 512, 512)),
        ((32, 32, 32), (64, 64, 64), "zyx", (64, 64, 64)),
        ((1, 1, 64, 64), (9, 2, 64, 64), "zcyx", (9, 1, 64, 64)),
        ((1, 32, 64, 64), (2, 31, 61, 57), "czyx", (1, 31, 61, 57)),
        ((1, 8192, 8192), (9, 8192, 8192), "zyx", (1, 8192, 8192)),
        ((0, 3), (0, 3), "yx", (1, 3)),
    ],
)
def test_chunks_grow_to_planes_but_not_over_channels(
    chunks: tuple[int, ...], shape: tuple[int, ...], axes: str, grown: tuple[int, ...]
) -> None:
    assert grow_chunks(chunks, shape, 1, axes) == grown


@pytest.mark.parametrize(
    "chunks", [(2, 5, 4), (1, 2, 4), (6, 5, 2), (6, 1, 1), (4, 2, 2), (6, 5, 4)]
)
@pytest.mark.parametrize("block_bytes", [1, 100, 2**20])
def test_each_block_is_computed_once_and_slabs_are_in_order(
    chunks: tuple[int, ...],
    block_bytes: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lazy, "BLOCK_BYTES", block_bytes)
    computed: list[Any] = []

    def count(block: Any, block_info: Any = None) -> Any:
        computed.append(block_info[0]["chunk-location"])
        return block

    source = da.from_array(VALUES, chunks=chunks)
    array = source.map_blocks(count, dtype=VALUES.dtype, meta=VALUES[:0, :0, :0])
    slabs = list(in_order(array, tmp_path))
    np.testing.assert_array_equal(np.concatenate(slabs), VALUES)
    assert len(computed) == len(set(computed)) == source.npartitions
    assert list(tmp_path.iterdir()) == []


def test_numpy_slabs_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lazy, "BLOCK_BYTES", 2 * VALUES[0].nbytes)
    slabs = list(in_order(VALUES, tmp_path))
    assert [len(slab) for slab in slabs] == [2, 2, 2]
