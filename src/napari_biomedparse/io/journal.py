"""What a person changed in labels on disk: a journal of strokes that survives a crash.

The journal of ``<folder>/labels.ome.zarr`` is ``<folder>/edits/labels.ome.zarr``. It is
only appended to, and synced before a chunk of the labels changes. A record is a head
(magic, length and CRC-32 of its body) and a body: a box within one chunk with its
voxels before and after, or the place up to which the labels hold all strokes.
"""

from __future__ import annotations

import logging
import math
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from itertools import chain, product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from filelock import FileLock, Timeout

from napari_biomedparse.errors import FormatError, OutputError
from napari_biomedparse.io.durable import open_own, refuse_links, sync_files

logger = logging.getLogger(__name__)

EDITS = "edits"
"""Folder of the journals, in that of a run."""
LOCK = ".lock"
"""Held by whoever writes to a run folder: a run, or a person's strokes."""
PATIENCE_SECONDS = 1.0
"""How long the lock is waited for: strokes are soon written."""
_MAGIC = b"\x93stroke\n"
_HEAD = struct.Struct("<8sQI")
_MARK = struct.Struct("<Q")
_MOST_DAMAGES = 100
Box = tuple[slice, ...]
Chunk = tuple[int, ...]


class Edited(NamedTuple):
    """All that was changed in a box within one chunk, as arrays of its shape."""

    box: Box
    mask: npt.NDArray[np.bool_]
    """Where any stroke changed a voxel."""
    before: npt.NDArray[Any]
    after: npt.NDArray[Any]


class Journal:
    """The strokes in a label image, whose finest level has this shape and type.

    `end` is the length of what was read, and `applied` the place up to which the
    labels hold all strokes. Raises `FormatError` if it is not a journal of this image.
    """

    def __init__(
        self, image: Path, shape: Sequence[int], dtype: Any, chunks: Sequence[int]
    ) -> None:
        self.path = journal_of(image)
        self.shape, self.chunks = tuple(shape), tuple(chunks)
        self.end = self.applied = 0
        self._dtype = np.dtype(dtype)
        self._corners = struct.Struct(f"<{2 * len(self.shape)}Q")
        voxels = 2 * math.prod(self.chunks) * self._dtype.itemsize
        self._longest = self._corners.size + voxels + voxels // 500 + 1000
        self._packed: dict[Chunk, list[tuple[int, Box, bytes]]] = {}
        self.read()

    def read(self) -> None:
        """Read what was appended since the last call, by whomever."""
        if not self.path.is_file():
            return
        at, damages, size = self.end, 0, _HEAD.size
        with os.fdopen(open_own(self.path, os.O_RDONLY), "rb") as file:
            while file.seek(at) == at and len(head := file.read(size)) == size:
                magic, length, checksum = _HEAD.unpack(head)
                ours = magic == _MAGIC and length <= self._longest
                body = file.read(length) if ours else b""
                if ours and len(body) == length and zlib.crc32(body) == checksum:
                    if at != self.end:
                        logger.warning("%s is damaged at byte %d.", self.path, self.end)
                    self._take(body, at)
                    at = self.end = at + size + length
                    continue
                file.seek(at + 1)
                found = file.read(2 * self._longest).find(_MAGIC)
                damages += 1
                if damages > _MOST_DAMAGES:
                    raise self._foreign()
                if found < 0:
                    return
                at += 1 + found

    def append(self, *changes: tuple[Box, npt.NDArray[Any], npt.NDArray[Any]]) -> None:
        """Append a stroke: boxes, each within one chunk, with old and new values.

        They are written at once, so that a kill leaves all of them or none.
        """
        bodies = []
        for box, before, after in changes:
            corners = [part.start for part in box] + [part.stop for part in box]
            packed = zlib.compress(before.tobytes() + after.tobytes(), 1)
            bodies.append(self._corners.pack(*corners) + packed)
        self._append(*bodies)

    def mark(self, applied: int) -> None:
        """Append that the labels hold all strokes up to a place."""
        self._append(_MARK.pack(applied))

    def sync(self) -> None:
        """Wait until all strokes are on the disk."""
        sync_files([self.path])

    def edited(self, where: Box | None = None, since: int = 0) -> Iterator[Edited]:
        """Yield what was changed, chunk by chunk, inside of `where`.

        Only strokes from the place `since` on count.
        """
        for chunk in sorted(self._packed):
            whole = self.box(chunk)
            both = whole if where is None else overlap(whole, where)
            strokes = [one for one in self._packed[chunk] if one[0] >= since]
            if not strokes or any(part.start >= part.stop for part in both):
                continue
            shape = tuple(part.stop - part.start for part in whole)
            mask = np.zeros(shape, np.bool_)
            before, after = np.zeros((2, *shape), self._dtype)
            for _, box, packed in strokes:
                own = within(box, whole)
                old, new = self._unpacked(box, packed)
                changed = old != new
                np.copyto(before[own], old, where=changed & ~mask[own])
                np.copyto(after[own], new, where=changed)
                mask[own] |= changed
            own = within(both, whole)
            if mask[own].any():
                yield Edited(both, mask[own], before[own], after[own])

    def count(self) -> int:
        """Count the voxels that differ from before all strokes."""
        every = (one.mask & (one.before != one.after) for one in self.edited())
        return sum(map(int, map(np.count_nonzero, every)))

    def box(self, chunk: Chunk) -> Box:
        """Return where a chunk is in the labels."""
        zipped = zip(chunk, self.chunks, self.shape, strict=True)
        return tuple(slice(i * c, min(i * c + c, n)) for i, c, n in zipped)

    def chunks_in(self, where: Box) -> Iterator[Chunk]:
        """Yield the chunks that a box touches."""
        pairs = zip(where, self.chunks, strict=True)
        return product(*(range(w.start // c, -(-w.stop // c)) for w, c in pairs))

    def _append(self, *bodies: bytes) -> None:
        heads = (_HEAD.pack(_MAGIC, len(body), zlib.crc32(body)) for body in bodies)
        record = b"".join(chain.from_iterable(zip(heads, bodies, strict=True)))
        self.path.parent.mkdir(exist_ok=True)
        file = open_own(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            os.ftruncate(file, self.end)  # what a crash left of an incomplete stroke
            written = 0
            while written < len(record):
                written += os.write(file, record[written:])
        finally:
            os.close(file)
        for body in bodies:
            self._take(body, self.end)
            self.end += _HEAD.size + len(body)

    def _take(self, body: bytes, at: int) -> None:
        """Remember a record, whose checksum is right but which may be a stranger's."""
        if len(body) == _MARK.size:
            (self.applied,) = _MARK.unpack(body)
            return
        if len(body) < self._corners.size:
            raise self._foreign()
        corners, rank = self._corners.unpack_from(body), len(self.shape)
        box = tuple(map(slice, corners[:rank], corners[rank:]))
        chunk = tuple(part.start // c for part, c in zip(box, self.chunks, strict=True))
        if overlap(box, self.box(chunk)) != box or any(p.start >= p.stop for p in box):
            raise self._foreign()
        packed = body[self._corners.size :]
        self._packed.setdefault(chunk, []).append((at, box, packed))

    def _unpacked(self, box: Box, packed: bytes) -> npt.NDArray[Any]:
        shape = (2, *(part.stop - part.start for part in box))
        most = math.prod(shape) * self._dtype.itemsize
        try:
            raw = zlib.decompressobj().decompress(packed, most)
            return np.frombuffer(raw, self._dtype).reshape(shape)
        except (ValueError, zlib.error) as error:
            raise self._foreign() from error

    def _foreign(self) -> FormatError:
        return FormatError(
            f"{self.path} does not fit the labels beside it; restore the labels that "
            "it belongs to, or move it elsewhere."
        )


def lock_folder(folder: Path) -> FileLock:
    """Lock a run folder; raise `OutputError` if somebody else has, for a while."""
    refuse_links(folder / LOCK)
    lock = FileLock(folder / LOCK, thread_local=False)
    try:
        lock.acquire(timeout=PATIENCE_SECONDS)
    except Timeout as error:
        raise OutputError(
            f"{folder} is being written by another process; wait for it, or choose "
            "another folder."
        ) from error
    return lock


def journal_of(image: Path) -> Path:
    """Return the path of a label image's journal."""
    return image.parent / EDITS / image.name


def overlap(box: Box, other: Box) -> Box:
    """Return where two boxes overlap."""
    pairs = zip(box, other, strict=True)
    return tuple(slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in pairs)


def within(box: Box, outer: Box) -> Box:
    """Return a box as seen from the first corner of another one."""
    pairs = zip(box, outer, strict=True)
    return tuple(slice(a.start - b.start, a.stop - b.start) for a, b in pairs)
