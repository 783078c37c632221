from __future__ import annotations

import asyncio
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.codecs import BloscCodec, GzipCodec, ZstdCodec
from zarr.core.buffer import default_buffer_prototype

from napari_biomedparse.errors import FormatError
from napari_biomedparse.io.guards.zarr_guard import FencedStore, check_parts, guarded

VOXELS = np.arange(4 * 8 * 8, dtype=np.uint16).reshape(4, 8, 8)


def _made(path: Path, **options: Any) -> zarr.Array[Any]:
    array = zarr.create_array(
        str(path), shape=VOXELS.shape, dtype=VOXELS.dtype, chunks=(2, 8, 8), **options
    )
    array[...] = VOXELS
    opened = zarr.open(store=FencedStore(path), mode="r")
    assert isinstance(opened, zarr.Array)
    return opened


@pytest.mark.parametrize(
    "options",
    [
        {"zarr_format": 2},
        {"zarr_format": 2, "compressors": None},
        {"compressors": BloscCodec()},
        {"compressors": GzipCodec()},
        {"compressors": [ZstdCodec(), GzipCodec()]},
        {"shards": (4, 8, 8)},
    ],
)
def test_a_guarded_array_reads_and_travels(
    options: dict[str, Any], tmp_path: Path
) -> None:
    array = guarded(_made(tmp_path / "a.zarr", **options), "a.zarr")
    assert np.array_equal(array[...], VOXELS)
    assert np.array_equal(pickle.loads(pickle.dumps(array))[1:3], VOXELS[1:3])


@pytest.mark.parametrize("version", [2, 3])
def test_a_guarded_array_can_be_written(version: int, tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    _made(path, zarr_format=version)
    opened = zarr.open_array(str(path), mode="r+")
    guarded(opened, "a.zarr")[0] = 7
    assert (zarr.open_array(str(path))[0] == 7).all()
    assert np.array_equal(zarr.open_array(str(path))[1:], VOXELS[1:])


def test_a_link_inside_is_followed_and_one_out_is_not(tmp_path: Path) -> None:
    array = _made(tmp_path / "a.zarr")
    chunk = tmp_path / "a.zarr" / "c" / "0" / "0" / "0"
    inside = chunk.rename(chunk.with_name("moved"))
    chunk.symlink_to(inside)
    assert np.array_equal(guarded(array, "a.zarr")[...], VOXELS)
    chunk.unlink()
    chunk.symlink_to(inside.rename(tmp_path / "outside"))
    with pytest.raises(FormatError, match="leads out of it"):
        guarded(array, "a.zarr")[...]


def test_the_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    _made(tmp_path / "a.zarr")
    (tmp_path / "b.zarr").symlink_to("a.zarr")
    array = zarr.open(store=FencedStore(tmp_path / "b.zarr"), mode="r")
    assert isinstance(array, zarr.Array)
    assert np.array_equal(array[...], VOXELS)


def test_no_part_is_asked_for_that_a_file_does_not_have(tmp_path: Path) -> None:
    (tmp_path / "c").write_bytes(b"0123456789")
    store, buffers = FencedStore(tmp_path), default_buffer_prototype()
    parts = (
        (RangeByteRequest(2, 5), b"234"),
        (RangeByteRequest(8, 2**62), b"89"),  # which no computer can allocate
        (RangeByteRequest(2**61, 2**62), b""),
        (OffsetByteRequest(7), b"789"),
        (SuffixByteRequest(2**62), b"0123456789"),
        (None, b"0123456789"),
    )
    for part, content in parts:
        found = asyncio.run(store.get("c", buffers, part))
        assert found is not None
        assert found.to_bytes() == content
    listed = [("c", part) for part, _ in parts]
    several = asyncio.run(store.get_partial_values(buffers, listed))
    found_parts = [b"" if one is None else one.to_bytes() for one in several]
    assert found_parts == [content for _, content in parts]
    assert asyncio.run(store.get("d", buffers, RangeByteRequest(2, 5))) is None


def test_long_metadata(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("napari_biomedparse.io.guards.zarr_guard.MAX_METADATA", 100)
    with pytest.raises(FormatError, match="longer than 100 bytes"):
        _made(tmp_path / "a.zarr")


def test_parts_of_a_block() -> None:
    check_parts((1, 2048, 2048), (1, 16, 16), (1, 2048, 2048), "a.zarr")
    with pytest.raises(FormatError, match="16512 of them"):
        check_parts((1, 2064, 2048), (1, 16, 16), (1, 2064, 2048), "a.zarr")
