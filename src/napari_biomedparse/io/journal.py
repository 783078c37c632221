"""What a person changed in labels on disk: a journal of strokes that survives a crash.

The journal of ``<folder>/labels.ome.zarr`` is ``<folder>/edits/labels.ome.zarr``. It is
only ever appended to, and each stroke is synced before a chunk of the labels changes.
A record is a head (magic, length and CRC-32 of the body) and its body: the changes in
one or several chunks, or the place up to which the labels hold all strokes.
"""

from __future__ import annotations

import logging
import math
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from napari_biomedparse.errors import FormatError
from napari_biomedparse.io.durable import open_own, sync_folder

logger = logging.getLogger(__name__)

EDITS = "edits"
"""Folder of the journals, in that of a run."""
LOCK = ".lock"
"""Held by whoever writes to a run folder: a run, or a person's strokes."""
_MAGIC = b"\x93stroke\n"
_HEAD = struct.Struct("<8sQI")
_MARK = struct.Struct("<Q")
Box = tuple[slice, ...]
Chunk = tuple[int, ...]


class Change(NamedTuple):
    """Voxels of a box within one chunk that changed."""

    start: tuple[int, ...]
    mask: npt.NDArray[np.bool_]
    """Of the box; true where a voxel changed."""
    old: npt.NDArray[Any]
    """Values of these voxels before."""
    new: npt.NDArray[Any]

    @property
    def box(self) -> Box:
        """Where it is in the labels."""
        pairs = zip(self.start, self.mask.shape, strict=True)
        return tuple(slice(at, at + size) for at, size in pairs)


class Edited(NamedTuple):
    """All that was changed in a box within one chunk, as arrays of its shape."""

    box: Box
    mask: npt.NDArray[np.bool_]
    """Where any stroke changed a voxel."""
    before: npt.NDArray[Any]
    """Values before the first one."""
    after: npt.NDArray[Any]
    """Values after the last one."""


class Journal:
    """The strokes in a label image, whose arrays are described by its finest level.

    `end` is the length of what was read, and `applied` the place up to which the
    labels hold all strokes. Raises `FormatError` if it is not a journal of this image.
    """

    def __init__(
        self, image: Path, shape: Sequence[int], dtype: Any, chunks: Sequence[int]
    ) -> None:
        self.path = journal_of(image)
        self.shape, self.chunks = tuple(shape), tuple(chunks)
        self.dtype = np.dtype(dtype)
        self.end = self.applied = 0
        self._part = struct.Struct(f"<{2 * len(self.shape)}QI")
        self._packed: dict[Chunk, list[tuple[int, Box, bytes]]] = {}
        self._file: int | None = None
        self.read()

    def read(self) -> None:
        """Read what was appended since the last call, by whomever."""
        if not self.path.is_file():
            return
        with os.fdopen(open_own(self.path, os.O_RDONLY), "rb") as opened:
            opened.seek(self.end)
            data = opened.read()
        at = good = 0
        while at >= 0 and at + _HEAD.size <= len(data):
            magic, length, checksum = _HEAD.unpack_from(data, at)
            stop = at + _HEAD.size + length
            body = data[at + _HEAD.size : stop]
            if magic == _MAGIC and len(body) == length and zlib.crc32(body) == checksum:
                if at != good:
                    logger.warning("%s is damaged at byte %d.", self.path, good)
                self._take(body, self.end + at)
                at = good = stop
            else:
                at = data.find(_MAGIC, at + 1)
        self.end += good

    def open(self) -> None:
        """Open for appending; what a crash left of an incomplete stroke is cut off."""
        self.read()
        self.path.parent.mkdir(exist_ok=True)
        self._file = open_own(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.ftruncate(self._file, self.end)
        sync_folder(self.path.parent)

    def close(self) -> None:
        """Close."""
        if self._file is not None:
            os.close(self._file)
        self._file = None

    def append(self, changes: Sequence[Change]) -> None:
        """Append a stroke."""
        parts = []
        for change in changes:
            sizes = (*change.start, *change.mask.shape)
            raw = np.packbits(change.mask).tobytes()
            raw += change.old.tobytes() + change.new.tobytes()
            packed = zlib.compress(raw, 1)
            parts += [self._part.pack(*sizes, len(packed)), packed]
        self._append(b"".join(parts))

    def mark(self, applied: int) -> None:
        """Append that the labels hold all strokes up to a place."""
        self._append(_MARK.pack(applied))

    def sync(self) -> None:
        """Wait until all strokes are on the disk."""
        if self._file is not None:
            os.fsync(self._file)

    def edited(self, where: Box | None = None, since: int = 0) -> Iterator[Edited]:
        """Yield what was changed, chunk by chunk, inside of `where`.

        Only strokes from the place `since` on count.
        """
        for chunk in self._touched(where):
            box = self.box(chunk)
            shape = tuple(part.stop - part.start for part in box)
            mask = np.zeros(shape, np.bool_)
            before, after = np.zeros((2, *shape), self.dtype)
            for at, inner, packed in self._packed[chunk]:
                if at < since:
                    continue
                change = self._unpacked(inner, packed)
                own = within(inner, box)
                fresh = ~mask[own][change.mask]
                before[own][change.mask & ~mask[own]] = change.old[fresh]
                after[own][change.mask] = change.new
                mask[own] |= change.mask
            both = box if where is None else overlap(box, where)
            own = within(both, box)
            if mask[own].any():
                yield Edited(both, mask[own], before[own], after[own])

    def count(self, where: Box | None = None) -> int:
        """Count the voxels that differ from before all strokes."""
        return sum(
            int(np.count_nonzero(one.mask & (one.before != one.after)))
            for one in self.edited(where)
        )

    def box(self, chunk: Chunk) -> Box:
        """Return where a chunk is in the labels."""
        zipped = zip(chunk, self.chunks, self.shape, strict=True)
        return tuple(slice(i * c, min(i * c + c, n)) for i, c, n in zipped)

    def chunks_in(self, where: Box) -> Iterator[Chunk]:
        """Yield the chunks that a box touches."""
        pairs = zip(where, self.chunks, strict=True)
        return product(*(range(w.start // c, -(-w.stop // c)) for w, c in pairs))

    def _touched(self, where: Box | None) -> list[Chunk]:
        every = sorted(self._packed)
        if where is None:
            return every
        boxes = (overlap(self.box(chunk), where) for chunk in every)
        both = zip(every, boxes, strict=True)
        return [chunk for chunk, box in both if all(b.start < b.stop for b in box)]

    def _append(self, body: bytes) -> None:
        assert self._file is not None
        record = _HEAD.pack(_MAGIC, len(body), zlib.crc32(body)) + body
        try:
            written = 0
            while written < len(record):
                written += os.write(self._file, record[written:])
        except BaseException:
            os.ftruncate(self._file, self.end)
            raise
        self._take(body, self.end)
        self.end += len(record)

    def _take(self, body: bytes, at: int) -> None:
        """Remember a record, whose checksum is right but which may be a stranger's."""
        if len(body) == _MARK.size:
            (self.applied,) = _MARK.unpack(body)
            return
        place, rank = 0, len(self.shape)
        while place < len(body):
            try:
                *sizes, length = self._part.unpack_from(body, place)
            except struct.error as error:
                raise self._foreign() from error
            pairs = list(zip(sizes[:rank], sizes[rank:], strict=True))
            box = tuple(slice(first, first + size) for first, size in pairs)
            zipped = zip(box, self.shape, self.chunks, strict=True)
            chunk = tuple(at // c for at, c in zip(sizes, self.chunks, strict=False))
            if not all(
                part.start < part.stop <= n and (part.stop - 1) // c == part.start // c
                for part, n, c in zipped
            ):
                raise self._foreign()
            place += self._part.size + length
            packed = body[place - length : place]
            self._packed.setdefault(chunk, []).append((at, box, packed))

    def _unpacked(self, box: Box, packed: bytes) -> Change:
        shape = tuple(part.stop - part.start for part in box)
        count, item = math.prod(shape), self.dtype.itemsize
        bits = -(-count // 8)
        try:
            raw = zlib.decompressobj().decompress(packed, bits + 2 * count * item)
            mask = np.unpackbits(np.frombuffer(raw[:bits], np.uint8), count=count)
            old, new = np.frombuffer(raw[bits:], self.dtype).reshape(2, -1)
        except (ValueError, zlib.error) as error:
            raise self._foreign() from error
        if len(old) != np.count_nonzero(mask):
            raise self._foreign()
        start = tuple(part.start for part in box)
        return Change(start, mask.reshape(shape).astype(np.bool_), old, new)

    def _foreign(self) -> FormatError:
        return FormatError(
            f"{self.path} does not fit the labels beside it; restore the labels that "
            "it belongs to, or move it elsewhere."
        )


def overlap(box: Box, other: Box) -> Box:
    """Return where two boxes overlap."""
    pairs = zip(box, other, strict=True)
    return tuple(slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in pairs)


def within(box: Box, outer: Box) -> Box:
    """Return a box as seen from the first corner of another one."""
    pairs = zip(box, outer, strict=True)
    return tuple(slice(a.start - b.start, a.stop - b.start) for a, b in pairs)


def journal_of(image: Path) -> Path:
    """Return the path of a label image's journal."""
    return image.parent / EDITS / image.name


def has_journal(image: Path) -> bool:
    """Return whether strokes in a label image were recorded."""
    return journal_of(image).is_file()
