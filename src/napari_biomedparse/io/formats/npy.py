"""One array inside an ``.npz`` file, read in parts.

An ``.npz`` is a zip of ``.npy`` files. `np.load` reads a member as a whole even when
asked to map it; here a slab is read by seeking (stored) or by decompressing forward
from the nearest remembered place (deflated).
"""

from __future__ import annotations

import io
import math
import threading
import tokenize
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt

from napari_biomedparse.errors import FormatError
from napari_biomedparse.io.lazy import BLOCK_BYTES, Index, lazy_array

if TYPE_CHECKING:
    from napari_biomedparse.data.volume import ArrayLike

_HEADER_BYTES = 2**16
_STEP = 2**20
_PLACES = 64
"""Places remembered in a deflated member; each takes about 40 KiB."""
_HEADER_ERRORS = (
    ValueError,
    TypeError,
    SyntaxError,
    LookupError,
    EOFError,
    ArithmeticError,
    RecursionError,
    MemoryError,
    tokenize.TokenError,
)


@dataclass
class _Place:
    """A point up to which the member has been decompressed."""

    inflated: int
    deflated: int
    crc: int
    engine: Any

    def copy(self) -> _Place:
        return _Place(self.inflated, self.deflated, self.crc, self.engine.copy())


class NpyMember:
    """One array of an ``.npz`` file: header read, data left in the file.

    The file is opened for each read and closed again.

    Parameters
    ----------
    path : Path
        The ``.npz`` file.
    info : zipfile.ZipInfo
        Its entry for the member.

    Raises
    ------
    FormatError
        If the member is not an array, or its header does not fit its size.
    """

    def __init__(self, path: Path, info: zipfile.ZipInfo) -> None:
        self.path = path
        self.key = info.filename.removesuffix(".npy")
        self._info = info
        self._lock = threading.Lock()
        if info.flag_bits & 1:
            raise self.fault("is encrypted")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise self.fault("is packed in a way that numpy does not use")
        self._start = self._find_start()
        self._step = max(_STEP, info.file_size // _PLACES)
        self._places = [_Place(0, 0, 0, zlib.decompressobj(-15))]
        self._data = 0
        self.shape, self.dtype, self._fortran = self._read_header()

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to other processes as the place in the file."""
        return NpyMember, (self.path, self._info)

    def fault(self, found: str) -> FormatError:
        """Return the error that names the file, this array and what is wrong."""
        return FormatError(
            f"{self.path}: the array {self.key!r} {found}. Write the file again with "
            "numpy.savez_compressed, or copy it again from where it came."
        )

    def lazy(self) -> ArrayLike:
        """Return the array as dask blocks along the axis that is stored outermost."""
        shape = self._stored_shape
        row = math.prod(shape[1:]) * self.dtype.itemsize
        rows = max(1, min(shape[0], BLOCK_BYTES // max(1, row)))
        what = f"{self.path}: the array {self.key!r}"
        array: Any = lazy_array(
            self._read_block, shape, self.dtype, (rows, *shape[1:]), what
        )
        return array.T if self._fortran else array  # type: ignore[no-any-return]

    def read(self) -> npt.NDArray[Any]:
        """Return the whole array."""
        raw = self._read_bytes(self._data, self._info.file_size - self._data)
        flat = np.frombuffer(raw, self.dtype)
        return flat.reshape(self.shape, order="F" if self._fortran else "C")

    def read_rows(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Return rows `start` to `stop` along the axis that is stored outermost."""
        shape = self._stored_shape
        row = math.prod(shape[1:]) * self.dtype.itemsize
        raw = self._read_bytes(self._data + start * row, (stop - start) * row)
        return np.frombuffer(raw, self.dtype).reshape(stop - start, *shape[1:])

    def read_pickle_bytes(self, limit: int) -> bytes:
        """Return what follows the header of an object array, unread."""
        size = self._info.file_size - self._data
        if size > limit:
            raise self.fault(f"takes {size} bytes where at most {limit} are expected")
        return self._read_bytes(self._data, size)

    @property
    def _stored_shape(self) -> tuple[int, ...]:
        return self.shape[::-1] if self._fortran else self.shape

    def _read_block(self, index: Index) -> npt.NDArray[Any]:
        return self.read_rows(index[0].start, index[0].stop)

    def _find_start(self) -> int:
        """Return where the member's bytes begin, from its local header."""
        with self.path.open("rb") as file:
            file.seek(self._info.header_offset)
            head = file.read(30)
        if len(head) < 30 or head[:4] != b"PK\x03\x04":
            raise self.fault("has no entry where the zip's directory says it is")
        name, extra = head[26:28], head[28:30]
        lengths = int.from_bytes(name, "little") + int.from_bytes(extra, "little")
        return self._info.header_offset + 30 + lengths

    def _read_header(self) -> tuple[tuple[int, ...], np.dtype[Any], bool]:
        size = self._info.file_size
        prefix = self._read_bytes(0, min(12, size))
        end = 10 if prefix[6:7] == b"\1" else 12
        length = end + int.from_bytes(prefix[8:end], "little")
        raw = self._read_bytes(0, min(length, _HEADER_BYTES, size))
        stream = io.BytesIO(raw)
        try:
            version = np.lib.format.read_magic(stream)
            if version == (1, 0):
                header = np.lib.format.read_array_header_1_0(stream)
            else:
                header = np.lib.format.read_array_header_2_0(stream)
        except _HEADER_ERRORS as error:
            raise self.fault(f"has a damaged header ({error})") from error
        shape, fortran, dtype = header
        self._data = stream.tell()
        if any(size < 0 for size in shape):
            raise self.fault(f"claims the impossible shape {shape}")
        claimed = math.prod(shape) * dtype.itemsize
        found = self._info.file_size - self._data
        if not dtype.hasobject and claimed != found:
            raise self.fault(
                f"claims the shape {shape} of {dtype}, which takes {claimed} bytes, "
                f"but has {found}"
            )
        return shape, dtype, fortran and len(shape) > 1

    def _read_bytes(self, start: int, count: int) -> bytes:
        if self._info.compress_type == zipfile.ZIP_STORED:
            with self.path.open("rb") as file:
                file.seek(self._start + start)
                data = file.read(count)
        else:
            with self._lock, self.path.open("rb") as file:
                data = self._inflate(file, start, count)
        if len(data) != count:
            raise self.fault("is cut short")
        return data

    def _inflate(self, file: BinaryIO, start: int, count: int) -> bytes:
        """Decompress forward from the last remembered place before `start`."""
        place = max(
            (p for p in self._places if p.inflated <= start), key=lambda p: p.inflated
        ).copy()
        pieces: list[bytes] = []
        while place.inflated < start + count:
            before = place.inflated
            piece = self._next_piece(file, place, start + count - place.inflated)
            if not piece:
                break
            pieces.append(piece[max(0, start - before) :])
            self._remember(place)
        return b"".join(pieces)

    def _next_piece(self, file: BinaryIO, place: _Place, limit: int) -> bytes:
        """Move `place` on by at most `limit` bytes and return them."""
        piece = b""
        while not piece and not place.engine.eof:
            file.seek(self._start + place.deflated)
            left = self._info.compress_size - place.deflated
            source = file.read(min(_STEP // 4, left))
            if not source:
                return b""
            try:
                piece = place.engine.decompress(source, min(_STEP, limit))
            except zlib.error as error:
                raise self.fault(f"cannot be unpacked ({error})") from error
            place.deflated += len(source) - len(place.engine.unconsumed_tail)
        place.inflated += len(piece)
        place.crc = zlib.crc32(piece, place.crc)
        if place.inflated == self._info.file_size and place.crc != self._info.CRC:
            raise self.fault("is damaged (its checksum is wrong)")
        return piece

    def _remember(self, place: _Place) -> None:
        """Keep places `_step` apart, and the furthest one for reading on."""
        furthest = self._places[-1]
        if place.inflated <= furthest.inflated:
            return
        if len(self._places) > 1:
            before = self._places[-2]
            if furthest.inflated - before.inflated < self._step:
                self._places.pop()
        self._places.append(place.copy())
