"""One array inside an ``.npz`` file, read in parts.

An ``.npz`` is a zip of ``.npy`` files. `np.load` reads a member as a whole, even when
it is to be mapped. Here a stored member is read where it lies; a deflated one is
unpacked once, when a part of it is first needed, into a temporary file that is mapped.
"""

from __future__ import annotations

import io
import math
import shutil
import tempfile
import threading
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_biomedparse.errors import FormatError
from napari_biomedparse.io.guards.bounds import most_bytes
from napari_biomedparse.io.lazy import BLOCK_BYTES, Index, lazy_array
from napari_biomedparse.io.scratch import scratch_file, scratching

if TYPE_CHECKING:
    from napari_biomedparse.data.volume import ArrayLike

_HEADER_BYTES = 2**16
_METHODS = {zipfile.ZIP_STORED: "none", zipfile.ZIP_DEFLATED: "deflate"}
_ZIP_ERRORS = (
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
)


class NpyMember:
    """One array of an ``.npz`` file, of which only the header is read at once.

    The file is opened for each read and closed again. The temporary file with unpacked
    data has no name, and disappears with the last array that was read from it.
    """

    def __init__(self, path: Path, info: zipfile.ZipInfo) -> None:
        self.path = path
        self.key = info.filename.removesuffix(".npy")
        self._info = info
        self._lock = threading.Lock()
        self._unpacked: npt.NDArray[np.uint8] | None = None
        if info.flag_bits & 1:
            raise self.fault("is encrypted")
        method = _METHODS.get(info.compress_type)
        if method is None:
            raise self.fault("is packed with a method that numpy does not use")
        if info.file_size > most_bytes(info.compress_size, method):
            raise self.fault(
                f"claims {info.file_size} bytes, more than its {info.compress_size} "
                "packed ones can hold"
            )
        self._data = 0
        self.shape, self.dtype, self._fortran = self._read_header()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the path and the entry, not the unpacked data."""
        return NpyMember, (self.path, self._info)

    def fault(self, found: str) -> FormatError:
        """Return an error about this array; `found` completes its sentence."""
        return FormatError(
            f"{self.path}: the array {self.key!r} {found}. Write the file again with "
            "numpy.savez_compressed, or copy it again from its source."
        )

    def lazy(self) -> ArrayLike:
        """Return the array as dask blocks along the axis that is stored outermost."""
        shape = self._stored_shape
        row = math.prod(shape[1:]) * self.dtype.itemsize
        rows = max(1, min(shape[0], BLOCK_BYTES // max(1, row)))
        what = f"{self.path}: the array {self.key!r}"

        def read(index: Index) -> npt.NDArray[Any]:
            return self.read_rows(index[0].start, index[0].stop)

        array: Any = lazy_array(read, shape, self.dtype, (rows, *shape[1:]), what)
        return array.T if self._fortran else array  # type: ignore[no-any-return]

    def read(self) -> npt.NDArray[Any]:
        """Return the whole array."""
        flat = np.frombuffer(self.read_bytes(), self.dtype)
        return flat.reshape(self.shape, order="F" if self._fortran else "C")

    def read_rows(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Return rows `start` to `stop` along the axis that is stored outermost."""
        shape = self._stored_shape
        row = math.prod(shape[1:]) * self.dtype.itemsize
        begin, end = self._data + start * row, self._data + stop * row
        if self._info.compress_type == zipfile.ZIP_STORED:
            raw: Any = self._read_stored(begin, end)
        else:
            raw = self._unpack()[begin:end]
        return np.frombuffer(raw, self.dtype).reshape(stop - start, *shape[1:])

    def read_bytes(self, limit: int | None = None) -> bytes:
        """Return what follows the header, if it is not longer than `limit`."""
        size = self._info.file_size - self._data
        if limit is not None and size > limit:
            raise self.fault(f"takes {size} bytes, where at most {limit} are expected")
        with self._opened() as file:
            data = file.read()[self._data :]
        if len(data) != size:
            raise self.fault("is cut short")
        return data

    @property
    def _stored_shape(self) -> tuple[int, ...]:
        return self.shape[::-1] if self._fortran else self.shape

    @contextmanager
    def _opened(self) -> Iterator[IO[bytes]]:
        """Open the unpacked member as a stream; the checksum is tested at its end."""
        try:
            with zipfile.ZipFile(self.path) as archive:
                with archive.open(self._info) as file:
                    yield file
        except FormatError:
            raise
        except _ZIP_ERRORS as error:
            raise self.fault(
                f"is cut short, or its checksum is wrong ({error})"
            ) from error

    def _read_stored(self, begin: int, end: int) -> bytes:
        with self.path.open("rb") as file:
            file.seek(self._info.header_offset)
            head = file.read(30)  # fixed size; holds the lengths of name and extra
            name, extra = (int.from_bytes(head[i : i + 2], "little") for i in (26, 28))
            file.seek(name + extra + begin, io.SEEK_CUR)
            data = file.read(end - begin)
        if len(data) != end - begin:
            raise self.fault("is cut short")
        return data

    def _unpack(self) -> npt.NDArray[np.uint8]:
        """Return the unpacked member, mapped from a temporary file."""
        with self._lock:
            if self._unpacked is None:
                size = self._info.file_size
                with scratching():
                    free = shutil.disk_usage(tempfile.gettempdir()).free
                if size > free:
                    raise FormatError(
                        f"{self.path}: the array {self.key!r} unpacks to "
                        f"{size / 2**30:.3g} GiB, and {tempfile.gettempdir()} has "
                        f"{free / 2**30:.3g} GiB of free space. Free some, or set "
                        "TMPDIR to a folder that has more."
                    )
                with scratch_file() as file:
                    with self._opened() as packed:
                        while part := packed.read(2**20):
                            with scratching():
                                file.write(part)
                                file.flush()
                    if file.tell() != size:
                        raise self.fault("is cut short")
                    self._unpacked = np.memmap(file, np.uint8, "r")
            return self._unpacked

    def _read_header(self) -> tuple[tuple[int, ...], np.dtype[Any], bool]:
        with self._opened() as file:
            stream = io.BytesIO(file.read(_HEADER_BYTES))
        try:
            version = np.lib.format.read_magic(stream)
            if version == (1, 0):
                header = np.lib.format.read_array_header_1_0(stream)
            else:
                header = np.lib.format.read_array_header_2_0(stream)
        except Exception as error:  # numpy parses the header as Python code
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
