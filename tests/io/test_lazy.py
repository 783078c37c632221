from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import pytest
import zarr

from napari_biomedparse.data.prompts import PromptSet, parse_prompts
from napari_biomedparse.errors import FormatError, VolumeError
from napari_biomedparse.io import lazy
from napari_biomedparse.io.lazy import (
    can_spool,
    chunk_thickness,
    fit,
    grow_chunks,
    in_order,
    label_dtype,
    lazy_array,
    read_windows,
    spool,
)

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


NOISE = np.random.default_rng(0).integers(0, 2**16, (23, 17, 19)).astype(np.uint16)


def counting(reads: Counter[Any], sizes: Any) -> da.Array:
    """A dask array that counts how often each block is computed."""

    def block(block_info: Any = None) -> np.ndarray[Any, Any]:
        where = block_info[None]["array-location"]
        reads[tuple(map(tuple, where))] += 1
        return NOISE[tuple(slice(*place) for place in where)]

    whole = da.core.normalize_chunks(sizes, NOISE.shape)
    return da.map_blocks(block, chunks=whole, dtype=np.uint16, meta=NOISE[:0])


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(("start", "stop"), [(0, 17), (3, 12)])
def test_a_spooled_part_is_that_of_the_array(axis: int, start: int, stop: int) -> None:
    reads: Counter[Any] = Counter()
    data = counting(reads, (23, 17, 19) if axis else (23, 5, 6))
    parts = list(spool(data, axis, start, stop, 4))
    assert [len(part) for part in parts[:-1]] == [4] * (len(parts) - 1)
    expected = np.moveaxis(NOISE, axis, 0)[start:stop]
    np.testing.assert_array_equal(np.concatenate(parts), expected)
    assert set(reads.values()) == {1}


def test_windows_share_their_blocks() -> None:
    reads: Counter[Any] = Counter()
    data = counting(reads, (8, 17, 19))
    windows = [(slice(i, i + 2), slice(i, 12)) for i in range(5)]
    for found, window in zip(read_windows(data, windows), windows, strict=True):
        np.testing.assert_array_equal(found, NOISE[window])
    assert set(reads.values()) == {1}
    (found,) = read_windows(NOISE, windows[:1])
    np.testing.assert_array_equal(found, NOISE[windows[0]])


def test_what_is_not_spooled(monkeypatch: pytest.MonkeyPatch) -> None:
    array = da.from_array(NOISE)
    assert can_spool(array, 10)
    assert not can_spool(NOISE, 10)
    assert not can_spool(array, lazy.SPOOL_BYTES + 1)
    full = type("", (), {"free": 15})
    monkeypatch.setattr("shutil.disk_usage", lambda _: full)
    assert can_spool(array, 7)
    assert not can_spool(array, 8)


def test_the_thickness_is_that_of_what_is_read_as_one() -> None:
    assert chunk_thickness(NOISE, 0) == 1
    assert chunk_thickness(da.from_array(NOISE, (9, 17, 19)), 0) == 9
    chunked: Any = zarr.create_array(
        {}, shape=NOISE.shape, chunks=(5, 6, 7), dtype="u2"
    )
    assert [chunk_thickness(chunked, axis) for axis in range(3)] == [5, 6, 7]
    sharded: Any = zarr.create_array(
        {}, shape=(20, 20, 20), chunks=(5, 5, 5), shards=(10, 5, 20), dtype="u2"
    )
    assert [chunk_thickness(sharded, axis) for axis in range(3)] == [10, 5, 20]


ZERO = np.zeros((2, 2, 2), np.int64)


@pytest.mark.parametrize(
    ("labels", "dtype"),
    [(ZERO + 1, "u1"), (ZERO + 256, "u2"), (ZERO + 70000, "u4"), (ZERO > 0, "u1")],
)
def test_numpy_labels_get_the_smallest_type(labels: Any, dtype: str) -> None:
    assert label_dtype(labels, None) == dtype


def test_the_type_of_lazy_labels_follows_from_the_prompts() -> None:
    array: Any = da.from_array(ZERO.astype(np.int32))
    semantic = parse_prompts({300: "a"})
    assert label_dtype(array, parse_prompts("a")) == np.uint8
    assert label_dtype(array, semantic) == np.uint16
    assert label_dtype(array, PromptSet(semantic.prompts, instance=True)) == np.uint32
    assert label_dtype(array, None) == np.uint32


def test_labels_must_be_whole_numbers_that_fit() -> None:
    with pytest.raises(VolumeError, match="convert them to integers"):
        label_dtype(np.zeros((1, 1, 1), complex), None)
    with pytest.raises(VolumeError, match="value -1"):
        fit(ZERO - 1, np.dtype("u1"))
    with pytest.raises(VolumeError, match="value 256"):
        fit(ZERO + 256, np.dtype("u1"))
    assert fit(ZERO + 255, np.dtype("u1")).dtype == np.uint8
    with pytest.raises(VolumeError, match="round them"):
        fit(ZERO + 0.5, np.dtype("u1"))
    assert fit(ZERO[:0], np.dtype("u1")).size == 0


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize(
    ("dtype", "value", "message"),
    [
        ("u8", 2**32 - 1, ""),
        ("u8", 2**33, "contain the value 8589934592, and only 0 to 4294967295"),
        ("i8", -1, "contain the value -1"),
        ("f8", 3.0, ""),
        ("f4", 0.5, "contain fractions"),
        ("f8", np.nan, "contain the value nan"),
        ("f8", np.inf, "contain the value inf"),
        ("f8", 2.0**60, "only 0 to 4294967295"),
        ("?", True, ""),
        ("c8", 1, "convert them to integers"),
    ],
)
def test_labels_of_any_type_are_stored_or_refused(
    dtype: str, value: Any, message: str, lazy: bool
) -> None:
    labels: Any = np.zeros((2, 3, 4), dtype)
    labels[1, 1, 1] = value
    given = da.from_array(labels) if lazy else labels
    if message:
        with pytest.raises(VolumeError, match=message):
            fit(labels, label_dtype(given, None))
        return
    stored = fit(labels, label_dtype(given, None))
    assert stored.dtype.kind == "u"
    assert stored.dtype.itemsize <= 4
    np.testing.assert_array_equal(stored, labels)
