from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numcodecs
import pytest

from napari_biomedparse.errors import FormatError
from napari_biomedparse.io.guards.bounds import (
    MAX_BLOCK_BYTES,
    MAX_BLOCKS,
    Bomb,
    BoundedFile,
    check_blocks,
    check_packed,
    most_bytes,
    unpacked_limit,
)

SIZE = 3 * 2**20


def test_no_read_asks_for_more_than_a_file_has(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"0123456789")
    with BoundedFile(tmp_path / "a") as file:
        assert file.read(4) == b"0123"
        assert file.read(2**62) == b"456789"  # which no computer can allocate
        assert file.read(1) == b""
        file.seek(3)
        assert file.read() == b"3456789"
        file.seek(100)
        assert file.read(5) == b""
        file.seek(8)
        assert file.read(None) == b"89"


def test_what_packed_bytes_can_hold() -> None:
    assert most_bytes(10, "none") == 10
    nothing = bytes(2**24)
    for method, packed in (
        ("zlib", zlib.compress(nothing, 9)),
        ("gzip", gzip.compress(nothing)),
        ("lzw", imagecodecs.lzw_encode(nothing)),
        ("zstd", imagecodecs.zstd_encode(nothing, 22)),
    ):
        assert most_bytes(len(packed), method) > len(nothing)


@pytest.mark.parametrize(
    ("shape", "sizes"),
    [
        ((100, 512, 512), (16, 512, 512)),
        ((1, 2**15, 2**15), (1, 2**15, 2**15)),
        ((MAX_BLOCKS, 8, 8), (1, 8, 8)),
        ((0, 8, 8), (1, 8, 8)),
    ],
)
def test_what_can_be_read(shape: tuple[int, ...], sizes: tuple[int, ...]) -> None:
    check_blocks(shape, sizes, 1, "a.tif")


@pytest.mark.parametrize(
    ("shape", "sizes", "found"),
    [
        ((1, 2**15, 2**15 + 1), (1, 2**15, 2**15 + 1), "GiB"),
        ((MAX_BLOCKS + 1, 8, 8), (1, 8, 8), "one of 1.31e"),
        ((10**12,) * 3, (64,) * 3, "1e.12 x 1e.12 x 1e.12"),
        ((10, 0, 10**12), (3, 1, 8), "10 x 0 x 1e.12"),
    ],
)
def test_what_cannot(
    shape: tuple[int, ...], sizes: tuple[int, ...], found: str
) -> None:
    with pytest.raises(FormatError, match=found):
        check_blocks(shape, sizes, 1, "a.tif")


PACKERS: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("zlib", lambda data: zlib.compress(data)),
    ("gzip", lambda data: gzip.compress(data)),
    ("gzip", lambda data: gzip.compress(data[: SIZE // 2]) * 2),
    ("deflate", lambda data: imagecodecs.deflate_encode(data)),
    ("bz2", lambda data: bz2.compress(data)),
    ("bz2", lambda data: bz2.compress(data[: SIZE // 2]) * 2),
    ("lzma", lambda data: lzma.compress(data, preset=0)),
    ("zstd", lambda data: numcodecs.Zstd().encode(data)),
    ("lz4", lambda data: numcodecs.LZ4().encode(data)),
    ("blosc", lambda data: numcodecs.Blosc().encode(data)),
    ("lzw", lambda data: imagecodecs.lzw_encode(data)),
]


@pytest.mark.parametrize(("method", "pack"), PACKERS)
def test_the_limit_is_exact(method: str, pack: Callable[[bytes], bytes]) -> None:
    packed = pack(bytes(SIZE))
    check_packed(packed, method, SIZE)
    with pytest.raises(Bomb):
        check_packed(packed, method, SIZE - 1)


def test_a_zstd_frame_that_does_not_tell_its_size() -> None:
    whole = bytearray(numcodecs.Zstd().encode(bytes(100)))
    assert whole[4] & 0x20  # one segment, its size in one byte
    whole[4:6] = bytes([whole[4] & 0x1F, 0x58])  # a window instead
    check_packed(whole, "zstd", 100)
    with pytest.raises(Bomb, match="99 bytes"):
        check_packed(whole, "zstd", 99)


def test_a_frame_to_be_skipped() -> None:
    with pytest.raises(Bomb, match="skipped"):
        check_packed(b"\x50\x2a\x4d\x18\x00\x00\x00\x00", "zstd", 100)


@pytest.mark.parametrize("method", ["zlib", "bz2", "lzma"])
def test_damage_is_named(method: str) -> None:
    with pytest.raises(Bomb, match="damaged"):
        check_packed(b"nonsense" * 99, method, 10)


@pytest.mark.parametrize(("method", "pack"), PACKERS[:9])
def test_what_is_cut_short_is_left_to_the_codec(
    method: str, pack: Callable[[bytes], bytes]
) -> None:
    check_packed(pack(bytes(range(256)) * 99)[:-9], method, SIZE)


def test_blosc_is_not_made_to_read_beyond_the_end() -> None:
    packed = bytearray(numcodecs.Blosc().encode(bytes(range(256)) * 9))
    check_packed(packed, "blosc", SIZE)
    for short in (packed[:-1], packed[:15], b""):
        with pytest.raises(Bomb, match="shorter than its header says"):
            check_packed(short, "blosc", SIZE)
    packed[15] = 0x7A  # 2 GB packed, it says
    with pytest.raises(Bomb, match="shorter than its header says"):
        check_packed(packed, "blosc", SIZE)


def test_sizes_of_images() -> None:
    head = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR" + (1000).to_bytes(4, "big") * 2
    check_packed(head, "image", 10**6)
    with pytest.raises(Bomb):
        check_packed(head, "image", 10**6 - 1)
    siz = b"\xff\x4f\xff\x51\0\x2f\0\0" + (1000).to_bytes(4, "big") * 2
    check_packed(b"jp2 box" + siz, "image", 10**6)
    with pytest.raises(Bomb):
        check_packed(b"jp2 box" + siz, "image", 10**6 - 1)
    check_packed(b"another", "image", 0)


def test_other_methods_pass() -> None:
    check_packed(b"", "crc32c", 0)


def test_small_chunks_have_spare_room_and_large_ones_a_limit() -> None:
    assert unpacked_limit(0) == 2**20
    assert unpacked_limit(2**20) == 17 * 2**20
    assert unpacked_limit(MAX_BLOCK_BYTES) == 2 * MAX_BLOCK_BYTES
