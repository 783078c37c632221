"""Guards for untrusted Zarr folders: links, codecs and decompression bombs.

Zarr itself follows links, reads pipes, and looks up codecs by the names in the
metadata; one of these unpickles. Here only plain codecs pass, and the unpacked size of
a chunk is checked first.
"""

from __future__ import annotations

import math
import stat
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from numcodecs.abc import Codec  # type: ignore[import-untyped]
from zarr.abc.codec import BytesBytesCodec
from zarr.abc.store import RangeByteRequest
from zarr.codecs import ShardingCodec
from zarr.core.array import AsyncArray
from zarr.storage import LocalStore

from napari_biomedparse.errors import FormatError
from napari_biomedparse.io.guards.bounds import (
    MAX_METADATA,
    MAX_PARTS,
    check_packed,
    damaged,
    unpacked_limit,
)

if TYPE_CHECKING:
    from zarr.abc.store import ByteRequest
    from zarr.core.array_spec import ArraySpec
    from zarr.core.buffer import Buffer, BufferPrototype

_METADATA = ("zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata")
_COMPRESSORS = frozenset({"blosc", "bz2", "gzip", "lz4", "lzma", "zlib", "zstd"})
_FILTERS = frozenset(
    "adler32 astype bitround crc32 crc32c delta fixedscaleoffset fletcher32 "
    "jenkins_lookup3 packbits quantize shuffle".split()
)
_PLAIN = frozenset({"bytes", "endian", "sharding_indexed", "transpose"})
_ADMITTED = _COMPRESSORS | _FILTERS | _PLAIN
_DTYPES = ("dtype", "astype", "encode_dtype", "decode_dtype")
_MAX_INDEX = 2**20
"""Largest number of chunks in a shard."""


class FencedStore(LocalStore):
    """A read-only folder in which only regular files are read, and none outside it.

    `root` itself may be reached by a link.
    """

    def __init__(self, root: Path | str, *, read_only: bool = True) -> None:
        super().__init__(root, read_only=read_only)
        self._real = Path(root).resolve()

    async def get(
        self,
        key: str,
        prototype: BufferPrototype | None = None,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        """Return a file's content, or None; see `zarr.abc.store.Store`."""
        size = self.check(key)
        return await super().get(key, prototype, _within(byte_range, size))

    async def get_partial_values(
        self,
        prototype: BufferPrototype,
        key_ranges: Iterable[tuple[str, ByteRequest | None]],
    ) -> list[Buffer | None]:
        """Return parts of files; see `zarr.abc.store.Store`."""
        wanted = [(key, _within(part, self.check(key))) for key, part in key_ranges]
        return await super().get_partial_values(prototype, wanted)

    def check(self, key: str) -> int:
        """Refuse a key that is not a file of this folder; return the file's size."""
        path = self.root / key
        try:
            found = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return 0
        if not path.resolve().is_relative_to(self._real):
            raise FormatError(
                f"{self.root} has a link that leads out of it, {key}; open the folder "
                "that it points to, or copy the data into one folder."
            )
        if stat.S_ISDIR(found.st_mode):
            return 0
        if not stat.S_ISREG(found.st_mode):
            raise damaged(self.root, f"contains {key}, which is not a file")
        if found.st_size == 0:
            raise damaged(self.root, f"contains {key}, which is empty")
        if path.name in _METADATA and found.st_size > MAX_METADATA:
            raise damaged(path, f"is longer than {MAX_METADATA} bytes")
        return found.st_size


def _within(part: ByteRequest | None, size: int) -> ByteRequest | None:
    """Clip a range to a file's size: zarr allocates the range before it reads."""
    if isinstance(part, RangeByteRequest):
        return RangeByteRequest(min(part.start, size), min(part.end, size))
    return part


def guarded(array: Any, what: str) -> zarr.Array[Any]:
    """Return a zarr array whose chunks are checked before they are unpacked.

    Raises `FormatError` if a codec is not admitted, or chunks are too small.
    """
    limit = unpacked_limit(math.prod(array.chunks) * array.dtype.itemsize)
    metadata: Any = array.metadata
    if metadata.zarr_format == 2:
        filters = metadata.filters or ()
        for codec in filters:
            _admit(codec.get_config(), "id", what)
        packer = metadata.compressor
        if packer is not None:
            _admit(packer.get_config(), "id", what)
            packer = BoundedCompressor(packer, limit)
        checked = replace(metadata, compressor=packer)
    else:
        codecs = _bounded(metadata.codecs, array.shards or array.chunks, limit, what)
        checked = replace(metadata, codecs=codecs)
    return zarr.Array(AsyncArray(checked, store_path=array.store_path))


def check_parts(
    shape: tuple[int, ...], chunks: tuple[int, ...], block: tuple[int, ...], what: str
) -> None:
    """Raise `FormatError` if a block of an array consists of too many chunks."""
    sizes = zip(shape, chunks, block, strict=True)
    parts = math.prod(-(-min(b, n) // max(1, c)) for n, c, b in sizes)
    if parts > MAX_PARTS:
        raise FormatError(
            f"{what} has chunks of {' x '.join(map(str, chunks))}, so that each block "
            f"would consist of {parts} of them, and at most {MAX_PARTS} are accepted; "
            "write it again with larger chunks."
        )


def _bounded(
    codecs: Iterable[Any], shape: tuple[int, ...], limit: int, what: str
) -> tuple[Any, ...]:
    """Check the codecs of a version 3 array, and wrap those that unpack."""
    found: list[Any] = []
    for codec in codecs:
        described = codec.to_dict()
        name = _admit(described, "name", what)
        if isinstance(codec, ShardingCodec):
            pieces = zip(shape, codec.chunk_shape, strict=True)
            if math.prod(-(-n // max(1, c)) for n, c in pieces) > _MAX_INDEX:
                raise FormatError(
                    f"{what} has shards of more than {_MAX_INDEX} chunks. It is "
                    "damaged; if it is real, write it again with larger chunks."
                )
            inner = _bounded(codec.codecs, codec.chunk_shape, limit, what)
            found.append(replace(codec, codecs=inner))
        elif name in _COMPRESSORS and isinstance(codec, BytesBytesCodec):
            found.append(BoundedCodec(codec, name, limit))
        else:
            found.append(codec)
    return tuple(found)


def _admit(described: dict[str, Any], key: str, what: str) -> str:
    """Return the plain name of a codec, if it is admitted."""
    name = str(described.get(key)).removeprefix("numcodecs.")
    options = described.get("configuration") or described
    dtypes = [options[k] for k in _DTYPES if options.get(k) is not None]
    if name not in _ADMITTED or any(np.dtype(d).kind not in "buif" for d in dtypes):
        raise FormatError(
            f"{what} is compressed with the codec {name!r}, which is not used for "
            "images or could run code; write it again with zstd, blosc or gzip."
        )
    return name


class BoundedCompressor(Codec):  # type: ignore[misc]
    """A compressor of numcodecs that unpacks to no more than `limit` bytes."""

    codec_id = "bounded"

    def __init__(self, inner: Any, limit: int) -> None:
        self.inner = inner
        self.limit = limit
        self.codec_id = inner.codec_id

    def get_config(self) -> dict[str, Any]:
        """Return the metadata."""
        return dict(self.inner.get_config())

    def decode(self, packed: Any, out: Any = None) -> Any:
        """Unpack a chunk."""
        check_packed(packed, str(self.codec_id), self.limit)
        return self.inner.decode(packed, out)

    def encode(self, unpacked: Any) -> Any:
        """Pack a chunk."""
        return self.inner.encode(unpacked)


@dataclass(frozen=True)
class BoundedCodec(BytesBytesCodec):
    """A compressor of Zarr version 3 that unpacks to no more than `limit` bytes."""

    inner: BytesBytesCodec
    name: str
    limit: int
    is_fixed_size = False

    def to_dict(self) -> dict[str, Any]:
        """Return the metadata."""
        return self.inner.to_dict()

    def compute_encoded_size(self, size: int, spec: ArraySpec) -> int:
        """Return the packed size, if it does not depend on the data."""
        return self.inner.compute_encoded_size(size, spec)

    async def _decode_single(self, packed: Buffer, spec: ArraySpec) -> Buffer:
        check_packed(packed.to_bytes(), self.name, self.limit)
        (unpacked,) = await self.inner.decode([(packed, spec)])
        if unpacked is None:  # codecs return this only for a missing chunk
            raise ValueError("a chunk is missing")
        return unpacked

    async def _encode_single(self, unpacked: Buffer, spec: ArraySpec) -> Buffer | None:
        (packed,) = await self.inner.encode([(unpacked, spec)])
        return packed
