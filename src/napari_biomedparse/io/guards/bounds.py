"""Limits on the size of blocks and on what they unpack to; errors of damaged files.

Shapes and packed data are untrusted. They are checked before memory is allocated, so
that a file of a few kilobytes costs no more than a few megabytes.
"""

from __future__ import annotations

import bz2
import io
import lzma
import math
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import imagecodecs

from napari_biomedparse.errors import BiomedParseError, FormatError, check_shortage

MAX_BLOCK_BYTES = 2**30
"""Largest block: a plane of 32768 x 32768 8-bit voxels."""
MAX_BLOCKS = 2**17
"""Largest number of blocks of an array; readers enlarge blocks to need fewer."""
MAX_PARTS = 2**14
"""Largest number of stored chunks in a block."""
MAX_METADATA = 2**26
"""Longest text that is parsed as metadata, in bytes."""
_FEW_PIXELS, _PIXELS_A_BYTE = 2**25, 64
"""Above so many pixels, a file has at most that many for each of its bytes."""
_SPARE = 2**20
"""Bytes that a chunk may unpack to in any case."""
_FILTERED = 16
"""Factor by which filters and padding may enlarge a chunk."""
_GROWTH = {"none": 1, "deflate": 1032, "gzip": 1032, "zlib": 1032, "lzw": 4096}
_MOST_GROWTH = 2**15
"""Largest number of bytes for one packed byte: by codec, and for all others, of which
zstd is the best, with four bytes for 128 KiB of one value."""
_STEP = 2**20
_BLOSC_HEADER = 16
_ZSTD, _ZSTD_SKIPPED = b"\x28\xb5\x2f\xfd", b"\x2a\x4d\x18"


class Bomb(ValueError):
    """Packed data unpack to more than they should, or cannot be unpacked."""


def damaged(what: object, fault: str) -> FormatError:
    """Return an error about a file or folder, whose name is followed by its `fault`."""
    return FormatError(
        f"{what} {fault}. It is damaged or an incomplete copy: copy it again from its "
        "source."
    )


@contextmanager
def reading(what: object, fault: str, *, memory: bool = False) -> Iterator[None]:
    """Turn whatever a library raises about a file into a `FormatError`.

    `what` names the file, and `fault` says of it what fails. `memory` is False where a
    damaged file may claim more than there is.
    """
    try:
        yield
    except BiomedParseError:
        raise
    except Exception as error:
        if memory and isinstance(error, MemoryError):
            raise
        check_shortage(error, memory=memory)
        if isinstance(error, OSError) and error.errno:
            raise FormatError(
                f"{what} {fault} ({error.strerror}). The disk may be unavailable, or "
                "permissions may have changed: restore access, and run the same again."
            ) from error
        raise damaged(what, f"{fault} ({error})") from error


def check_blocks(
    shape: Sequence[int], sizes: Sequence[int], itemsize: int, what: str
) -> None:
    """Refuse an array that cannot be read block by block with bounded memory.

    `sizes` is the shape of a block, `what` names file and part in messages.
    """
    block = itemsize * math.prod(min(n, c) for n, c in zip(shape, sizes, strict=True))
    # dask lists the blocks of each axis, also where another axis has no voxels.
    count = math.prod(max(1, -(-n // c)) for n, c in zip(shape, sizes, strict=True))
    if block <= MAX_BLOCK_BYTES and count <= MAX_BLOCKS:
        return
    found = (
        f"{block / 2**30:.3g} GiB, and at most {MAX_BLOCK_BYTES // 2**30} is accepted"
        if block > MAX_BLOCK_BYTES
        else f"one of {count:.3g}, and at most {MAX_BLOCKS} are accepted"
    )
    raise FormatError(
        f"{what} claims the shape {_shown(shape)}, and each block that has to be read "
        f"at once is {found}. The file is probably damaged; if the shape is real, save "
        "it in smaller chunks or as smaller volumes."
    )


def check_pixels(path: Path, rows: int, columns: int) -> None:
    """Refuse a packed image that claims more pixels than its file can hold."""
    if rows * columns > max(_FEW_PIXELS, _PIXELS_A_BYTE * path.stat().st_size):
        raise too_large(path, f"{columns} x {rows} pixels")


def too_large(path: Path, found: str) -> FormatError:
    """Return an error about a packed image that is read at once."""
    return FormatError(
        f"{path} claims to be larger than a picture may be ({found}). If it is not "
        "damaged, save it as a tiled TIFF or OME-Zarr, which is read in parts."
    )


class BoundedFile(io.BufferedReader):
    """A file opened for reading, of which no read allocates more than its size.

    Python allocates the requested size before it reads.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        self._size = os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1, /) -> bytes:
        """Return at most `size` bytes, or all."""
        if size is None or size < 0:
            return super().read()
        return super().read(max(0, min(size, self._size - self.tell())))


def most_bytes(stored: int, method: str) -> int:
    """Return the largest unpacked size of `stored` bytes, by codec or "none"."""
    return stored * _GROWTH.get(method, _MOST_GROWTH)


def unpacked_limit(chunk_bytes: int) -> int:
    """Return the largest size that the packed data of a chunk may unpack to."""
    return min(_FILTERED * chunk_bytes + _SPARE, 2 * MAX_BLOCK_BYTES)


def check_packed(data: Any, method: str, limit: int) -> None:
    """Raise `Bomb` if a stored chunk unpacks to more than `limit` bytes, or not at all.

    `method` is a codec of numcodecs, or "deflate", "lzw" or "image". Codecs that are
    not known here cannot grow by much, and pass.
    """
    if (checker := _CHECKERS.get(method)) is not None:
        checker(bytes(data), limit)


def _refuse(size: float, limit: int) -> None:
    if size > limit:
        raise Bomb(f"a chunk unpacks to more than the {limit} bytes that are allowed")


def _if_long(method: str, careful: Callable[[bytes, int], None]) -> Any:
    """Check only data that are long enough to grow beyond the limit."""

    def check(data: bytes, limit: int) -> None:
        if most_bytes(len(data), method) > limit:
            careful(data, limit)

    return check


def _check_deflate(data: bytes, limit: int) -> None:
    left = data
    total = 0
    while left:
        engine = zlib.decompressobj(47)  # zlib or gzip, by their headers
        while not engine.eof:
            try:
                piece = engine.decompress(left, _STEP)
            except zlib.error as error:
                raise Bomb(f"a chunk is damaged ({error})") from error
            total += len(piece)
            _refuse(total, limit)
            left = engine.unconsumed_tail
            if not piece and not left:
                return  # truncated, which the codec itself reports
        left = engine.unused_data


def _check_stream(make: Callable[[], Any]) -> Callable[[bytes, int], None]:
    def check(data: bytes, limit: int) -> None:
        left, total = data, 0
        while left:
            engine, given = make(), left
            while not engine.eof:
                try:
                    piece = engine.decompress(given, _STEP)
                except (OSError, ValueError, EOFError, lzma.LZMAError) as error:
                    raise Bomb(f"a chunk is damaged ({error})") from error
                total += len(piece)
                _refuse(total, limit)
                if engine.needs_input and not engine.eof:
                    return
                given = b""
            left = engine.unused_data

    return check


def _check_zstd(data: bytes, limit: int) -> None:
    if data[:4] != _ZSTD:
        if data[1:4] == _ZSTD_SKIPPED:
            raise Bomb("a chunk begins with a frame that is to be skipped")
        return  # not zstd at all, which the codec itself reports
    if (size := _zstd_size(data)) is not None:
        _refuse(size, limit)
        return
    try:
        imagecodecs.zstd_decode(data, out=limit)
    except (imagecodecs.ZstdError, ValueError) as error:
        raise Bomb(
            f"a chunk cannot be unpacked into {limit} bytes ({error})"
        ) from error


def _zstd_size(data: bytes) -> int | None:
    """Return the size in a frame's header, if any (RFC 8878, section 3.1.1.1)."""
    flags = data[4] if len(data) > 4 else 0
    single, kind = flags >> 5 & 1, flags >> 6
    width = (single, 2, 4, 8)[kind]
    at = 5 + (1 - single) + (0, 1, 2, 4)[flags & 3]
    if not width or len(data) < at + width:
        return None
    return int.from_bytes(data[at : at + width], "little") + (256 if width == 2 else 0)


def _check_blosc(data: bytes, limit: int) -> None:
    """Check the header: C-Blosc trusts it and reads beyond the end of the data."""
    if len(data) < max(_BLOSC_HEADER, int.from_bytes(data[12:16], "little")):
        raise Bomb("a chunk is shorter than its header says")
    _refuse(int.from_bytes(data[4:8], "little"), limit)


def _check_lz4(data: bytes, limit: int) -> None:
    _refuse(int.from_bytes(data[:4], "little"), limit)


def _check_lzw(data: bytes, limit: int) -> None:
    try:
        _refuse(len(imagecodecs.lzw_decode(data, out=limit + 1)), limit)
    except imagecodecs.LzwError as error:
        raise Bomb(f"a strip or tile is damaged ({error})") from error


def _check_image(data: bytes, limit: int) -> None:
    """Read the size that a PNG or JPEG 2000 image inside a chunk claims."""
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        sizes = data[16:20], data[20:24]
    elif (at := data[:4096].find(b"\xff\x4f\xff\x51")) >= 0:
        sizes = data[at + 8 : at + 12], data[at + 12 : at + 16]
    else:
        return
    _refuse(math.prod(int.from_bytes(size, "big") for size in sizes), limit)


_CHECKERS: dict[str, Callable[[bytes, int], None]] = {
    "blosc": _check_blosc,
    "bz2": _check_stream(bz2.BZ2Decompressor),
    "deflate": _if_long("deflate", _check_deflate),
    "gzip": _if_long("gzip", _check_deflate),
    "image": _check_image,
    "lz4": _check_lz4,
    "lzma": _check_stream(lzma.LZMADecompressor),
    "lzw": _if_long("lzw", _check_lzw),
    "zlib": _if_long("zlib", _check_deflate),
    "zstd": _check_zstd,
}


def _shown(shape: Sequence[int]) -> str:
    return " x ".join(f"{n:.3g}" if n > 10**6 else str(n) for n in shape)
