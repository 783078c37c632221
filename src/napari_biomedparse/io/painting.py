"""Label images on disk that are changed in place, by a run and by a person.

What a person changes in ``<folder>/labels.ome.zarr`` is in a journal first,
``<folder>/edits/labels.ome.zarr``, so that a crash costs nothing. It is appended to,
and synced before a chunk of the labels changes. A record is a head (magic, length and
CRC-32 of its body) and a body: a box within one chunk with its voxels before and after,
equal if a person accepted them; or the place up to which the labels hold all strokes;
or the place that follows, which a run knows. Once the journal is long, it is replaced
by one that has a record for each chunk between two places that are known.
"""

from __future__ import annotations

import json
import logging
import math
import os
import struct
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from itertools import pairwise, product
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt
import zarr
from filelock import FileLock, Timeout

from napari_biomedparse.errors import FormatError, OutputError, check_shortage
from napari_biomedparse.io.durable import (
    PARTIAL,
    atomic_write,
    is_zarr,
    open_own,
    refuse_links,
    sync_files,
    write_durably,
    writing,
)
from napari_biomedparse.io.guards.zarr_guard import FencedStore, guarded

if TYPE_CHECKING:
    from zarr.core.buffer import Buffer

logger = logging.getLogger(__name__)

EDITS = "edits"
"""Folder of the journals, in that of a run."""
LOCK = ".lock"
"""Held by whoever writes to a run folder: a run, or a person's strokes."""
PATIENCE_SECONDS = 1.0
"""How long the lock is waited for: strokes are soon written."""
MOST_WAITING = 2**28
"""Bytes of changed chunks that may wait to be written."""
_PAUSE_SECONDS = 0.25
_MAGIC = b"\x93stroke\n"
_HEAD = struct.Struct("<8sQI")
_MARK = struct.Struct("<Q")
_PLACE = struct.Struct("<QQ")
"""A place, and how often the journal had been shortened, or 0 if it was told."""
_LONG = 2**22
"""Bytes after which a journal is shortened."""
_MOST_DAMAGES = 100
_FARTHEST = 2**62
Box = tuple[slice, ...]
Chunk = tuple[int, ...]
Stroke = tuple[int, Box, bytes]
"""The place of a record, a box within a chunk, and its voxels."""


class Edited(NamedTuple):
    """All that was changed in a box within one chunk, as arrays of its shape."""

    box: Box
    mask: npt.NDArray[np.bool_]
    """Where any stroke changed a voxel."""
    before: npt.NDArray[Any]
    after: npt.NDArray[Any]
    accepted: npt.NDArray[np.bool_]
    """Where a person said that the voxels are right."""


class Journal:
    """The strokes in a label image, whose finest level has this shape and type.

    `end` is the place up to which it was read, `applied` that up to which the labels
    hold all strokes, and `last` that of the last stroke. Raises `FormatError` if it is
    not a journal of this image.
    """

    def __init__(
        self, image: Path, shape: Sequence[int], dtype: Any, chunks: Sequence[int]
    ) -> None:
        self.path = journal_of(image)
        self.shape, self.chunks = tuple(shape), tuple(chunks)
        self._dtype = np.dtype(dtype)
        self._corners = struct.Struct(f"<{2 * len(self.shape)}Q")
        voxels = 2 * math.prod(self.chunks) * self._dtype.itemsize
        self._longest = self._corners.size + voxels + voxels // 500 + 1000
        self._forget()
        self.read()

    def _forget(self) -> None:
        self.end = self.applied = self._size = self._short = self._times = 0
        self._first, self.last, self._told, self._damaged = b"", -1, [0], False
        self._packed: dict[Chunk, list[Stroke]] = {}

    def read(self) -> None:
        """Read what was appended since the last call, by whomever."""
        if not self.path.is_file():
            self._forget()
            return
        with os.fdopen(open_own(self.path, os.O_RDONLY), "rb") as file:
            first = file.read(64)
            if not first.startswith(self._first):  # it was shortened
                self._forget()
            self._first = self._first or first
            self._read_from(file)

    def _read_from(self, file: BinaryIO) -> None:
        at, damages, size = self._size, 0, _HEAD.size
        while file.seek(at) == at and len(head := file.read(size)) == size:
            magic, length, checksum = _HEAD.unpack(head)
            ours = magic == _MAGIC and length <= self._longest
            body = file.read(length) if ours else b""
            if ours and len(body) == length and zlib.crc32(body) == checksum:
                if at != self._size:
                    logger.warning("%s is damaged at byte %d.", self.path, self._size)
                    self._damaged = True
                    self.end += at - self._size
                at = self._size = at + size + length
                self._take(body)
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

        They are written at once, so that a kill leaves all of them or none. A box whose
        values are equal is accepted.
        """
        self._append(*(self._body(*change) for change in changes))

    def _body(
        self, box: Box, before: npt.NDArray[Any], after: npt.NDArray[Any]
    ) -> bytes:
        packed = zlib.compress(before.tobytes() + after.tobytes(), 1)
        return self._corners.pack(*_corners(box)) + packed

    def mark(self, applied: int) -> None:
        """Append that the labels hold all strokes up to a place."""
        self._append(_MARK.pack(applied))

    def tell(self) -> None:
        """Append that others know its end, and may ask for strokes from there on."""
        if self._told[-1] != self.end:
            self._append(_PLACE.pack(self.end + _HEAD.size + _PLACE.size, 0))

    def sync(self) -> None:
        """Wait until all strokes are on the disk."""
        sync_files([self.path])

    @property
    def is_long(self) -> bool:
        """Whether it has grown to more than twice what it has to be."""
        return not self._damaged and self._size > max(_LONG, 2 * self._short)

    def shorten(self) -> None:
        """Replace it by a shorter one, once all strokes are in the labels.

        A kill leaves one of the two, each with all that is edited or accepted.
        """
        for left in self.path.parent.glob(f"*{PARTIAL}"):  # by one that was killed
            left.unlink()
        times = self._times + 1  # which tells it from those before, at its beginning
        with atomic_write(self.path) as partial, partial.open("xb") as file:
            for since, until in pairwise([*self._told, self.end]):
                file.write(_record(_PLACE.pack(since, 0 if since else times)))
                for chunk, strokes in self._packed.items():
                    ours = [one for one in strokes if since <= one[0] < until]
                    file.writelines(map(_record, self._shortened(chunk, ours)))
            file.write(_record(_PLACE.pack(self.end, times)))
            file.write(_record(_MARK.pack(self.end)))
        self._forget()
        self.read()

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
            own = within(both, whole)
            _, *arrays = self._merged(whole, strokes)
            if arrays[0][own].any():
                yield Edited(both, *(array[own] for array in arrays))

    def _merged(self, whole: Box, strokes: Iterable[Stroke]) -> Edited:
        """Return what strokes changed in a chunk."""
        shape = tuple(part.stop - part.start for part in whole)
        mask, accepted = np.zeros((2, *shape), np.bool_)
        before, after = np.zeros((2, *shape), self._dtype)
        for _, box, packed in strokes:
            own = within(box, whole)
            old, new = self._unpacked(box, packed)
            changed = old != new
            if not changed.any():
                accepted[own] = changed[...] = True
            np.copyto(before[own], old, where=changed & ~mask[own])
            np.copyto(after[own], new, where=changed)
            mask[own] |= changed
        return Edited(whole, mask, before, after, accepted)

    def _shortened(self, chunk: Chunk, strokes: list[Stroke]) -> list[bytes]:
        """Return as few bodies of records as there can be for strokes in a chunk."""
        known = [self._corners.pack(*_corners(box)) + body for _, box, body in strokes]
        if len(strokes) < 3:
            return known
        whole = self.box(chunk)
        _, mask, before, after, accepted = self._merged(whole, strokes)
        changed, bodies = mask & (before != after), {}
        if changed.any():
            bodies[""] = self._body(whole, np.where(changed, before, after), after)
        for _, box, packed in strokes if accepted.any() else ():
            if np.array_equal(*self._unpacked(box, packed)):
                values = after[within(box, whole)]
                bodies[str(box)] = self._body(box, values, values)
        less = sum(map(len, bodies.values())) < sum(map(len, known))
        return list(bodies.values()) if less else known

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
        records = [_record(body) for body in bodies]
        every = b"".join(records)
        self.path.parent.mkdir(exist_ok=True)
        file = open_own(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            # What a crash left of an incomplete stroke goes.
            os.ftruncate(file, self._size)
            written = 0
            while written < len(every):
                written += os.write(file, every[written:])
        finally:
            os.close(file)
        if not self._size:
            self._first = every[:64]
        for body, record in zip(bodies, records, strict=True):
            self._size += len(record)
            self._take(body)

    def _take(self, body: bytes) -> None:
        """Remember a record, whose checksum is right but which may be a stranger's."""
        at, self.end = self.end, self.end + _HEAD.size + len(body)
        if len(body) == _MARK.size:
            (self.applied,) = _MARK.unpack(body)
            return
        if len(body) == _PLACE.size:
            self.end, times = _PLACE.unpack(body)
            if not at <= self.end < _FARTHEST:
                raise self._foreign()
            if times:
                self._times, self._short = times, self._size
            else:
                self._told.append(self.end)
            return
        if len(body) < self._corners.size:
            raise self._foreign()
        corners, rank = self._corners.unpack_from(body), len(self.shape)
        box = tuple(map(slice, corners[:rank], corners[rank:]))
        chunk = tuple(part.start // c for part, c in zip(box, self.chunks, strict=True))
        if overlap(box, self.box(chunk)) != box or any(p.start >= p.stop for p in box):
            raise self._foreign()
        packed, self.last = body[self._corners.size :], at
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


def _record(body: bytes) -> bytes:
    return _HEAD.pack(_MAGIC, len(body), zlib.crc32(body)) + body


def _corners(box: Box) -> list[int]:
    return [part.start for part in box] + [part.stop for part in box]


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


def accepted_of(image: Path) -> Path:
    """Return the path of a list of a label image's accepted slices, by axis."""
    return image.parent / EDITS / f"{image.name}.accepted.json"


def read_accepted(image: Path, shape: Sequence[int]) -> dict[int, list[int]]:
    """Return the accepted slices of a label image, by its axis.

    Raises `FormatError` if it has no such axes or slices.
    """
    path = accepted_of(image)
    refuse_links(path.parent, path)
    if not path.is_file():
        return {}
    try:
        known = json.loads(path.read_text("utf-8"))
        found = {int(axis): sorted(map(int, known[axis])) for axis in known}
        if not all(0 <= z < shape[axis] for axis in found for z in found[axis]):
            raise ValueError("there are no such slices")
    except (IndexError, RecursionError, TypeError, ValueError) as error:
        raise FormatError(
            f"{path} does not fit the labels beside it ({error}); move it elsewhere."
        ) from error
    return found


def overlap(box: Box, other: Box) -> Box:
    """Return where two boxes overlap."""
    pairs = zip(box, other, strict=True)
    return tuple(slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in pairs)


def within(box: Box, outer: Box) -> Box:
    """Return a box as seen from the first corner of another one."""
    pairs = zip(box, outer, strict=True)
    return tuple(slice(a.start - b.start, a.stop - b.start) for a, b in pairs)


class SyncedStore(FencedStore):
    """A folder that holds a Zarr group and remembers which files were written."""

    def __init__(self, root: Path | str, *, read_only: bool = False) -> None:
        super().__init__(root, read_only=read_only)
        self._written: set[Path] = set()

    async def set(self, key: str, value: Buffer) -> None:
        """Write one file."""
        self._check_place(key)
        await super().set(key, value)
        self._written.add(self.root / key)

    async def delete(self, key: str) -> None:
        """Remove one file."""
        self._check_place(key)
        await super().delete(key)

    def _check_place(self, key: str) -> None:
        """Refuse to change a file in a folder that is reached by a link."""
        if not (self.root / key).parent.resolve().is_relative_to(self._real):
            raise FormatError(f"{self.root} has a link that leads out of it, {key}.")

    def sync(self) -> None:
        """Wait until everything written since the last call is on the disk."""
        written, self._written = self._written, set()
        sync_files(written)


def open_levels(path: Path) -> tuple[SyncedStore, list[Any], Journal]:
    """Open the levels of a label image for writing, the finest first; its journal."""
    refuse_links(path)
    store = SyncedStore(path)
    try:
        group = zarr.open_group(store, mode="r+")
        levels = [guarded(group["s0"], str(path))]
        while f"s{len(levels)}" in group:
            levels.append(guarded(group[f"s{len(levels)}"], str(path)))
    except Exception as error:  # zarr may raise anything for a damaged group
        check_shortage(error)
        raise damaged_labels(path, error) from error
    first = levels[0]
    return store, levels, Journal(path, first.shape, first.dtype, first.chunks)


def write_levels(
    levels: Sequence[Any], where: Box, block: npt.NDArray[Any], *, finest: int = 0
) -> None:
    """Write a box of the finest level to every level from `finest`."""
    for number, level in enumerate(levels[finest:], start=finest):
        steps = [1] * (block.ndim - 2) + [2**number] * 2
        put, take = [], []
        for part, step, size in zip(where, steps, block.shape, strict=True):
            first = -(-part.start // step)
            take.append(slice(first * step - part.start, None, step))
            put.append(slice(first, first + len(range(size)[take[-1]])))
        if all(part.start < part.stop for part in put):
            level[tuple(put)] = block[tuple(take)]


def damaged_labels(path: Path, why: object) -> OutputError:
    """Return an error about a label image that is not whole."""
    return OutputError(
        f"{path} is damaged ({why}); overwrite the run, or choose another folder."
    )


class PaintableLabels:
    """The finest level of a label image in a run folder; reads and changes its voxels.

    A change is in the journal when ``labels[...] = values`` returns; a thread writes
    the chunks of all levels. The folder is locked from the first change until all are
    written: if a run or somebody else is writing to it, an `OutputError` is raised.

    `shown` makes the view that is wanted of an array of the image's shape, by leaving
    out axes of length one or by adding some; `locked` is whether the caller has locked
    the folder.
    """

    def __init__(
        self,
        image: Path,
        shown: Callable[[Any], Any] | None = None,
        *,
        locked: bool = False,
    ) -> None:
        self._image, self._known = image, image.stat().st_ino
        self._store, self._levels, self._journal = open_levels(image)
        stored = self._journal.shape
        strides = range(1, len(stored) + 1)  # which tell the axes
        probe: Any = np.lib.stride_tricks.as_strided(
            np.empty(1, np.uint8), stored, strides, writeable=False
        )
        probe = probe if shown is None else shown(probe)
        self._axes = [stride - 1 for stride in probe.strides]  # -1 if it was added
        self.shape: tuple[int, ...] = probe.shape
        self.ndim, self.size = probe.ndim, probe.size
        self.dtype = np.dtype(self._levels[0].dtype)
        self._changed: dict[Chunk, npt.NDArray[Any]] = {}
        self._guard = threading.RLock()
        self._lock: FileLock | None = None
        self._locked = locked
        self._writer: threading.Thread | None = None
        self._hurry = threading.Event()
        self._read_journal()
        if self._journal.is_long:
            with suppress(OSError, OutputError), self._guard:  # who writes shortens it
                self._begin()

    def __getitem__(self, key: Any) -> Any:
        """Return voxels, as numpy does for numbers, slices and arrays of positions."""
        if isinstance(key, int | np.integer) and self.ndim > 1:
            return self._planes[key]
        box, shape, rest = self._find(key)
        return self._read(box).reshape(shape)[rest]

    def __setitem__(self, key: Any, values: Any) -> None:
        """Change voxels; they are in the journal once this returns."""
        box, shape, rest = self._find(key)
        if sum(array.nbytes for array in self._changed.copy().values()) > MOST_WAITING:
            self.flush()
        with self._guard, writing(self._image):
            before = self._read(box)
            after = before.copy()
            after.reshape(shape)[rest] = values
            changes = []
            for chunk in self._journal.chunks_in(box):
                both = overlap(self._journal.box(chunk), box)
                old, new = before[within(both, box)], after[within(both, box)]
                if not np.array_equal(old, new):
                    changes.append((both, old, new))
            if changes:
                self._begin()
                self._journal.append(*changes)
                for both, _, new in changes:
                    self._put(both, new)

    @property
    def accepted(self) -> dict[int, list[int]]:
        """The slices that a person accepted, by the axis as shown."""
        known = read_accepted(self._image, self._journal.shape)
        axes = range(self.ndim if self.ndim > 2 else 1)
        found = {axis: known.get(self._stored(axis)) for axis in axes}
        return {axis: slices for axis, slices in found.items() if slices}

    def accept(self, marks: Mapping[int, Iterable[int]]) -> None:
        """Mark slices as right, by the axis as shown, which then no run changes.

        Others are not accepted any more. A single image is slice 0 of axis 0.
        """
        with self._guard, writing(self._image):
            self._begin()
            known = self.accepted
            for axis, slices in marks.items():
                for at in sorted(set(slices) - set(known.get(axis, ()))):
                    self._keep(self._stored(axis), at)
            self._journal.sync()
            found = {self._stored(axis): list(marks[axis]) for axis in marks}
            write_durably(accepted_of(self._image), json.dumps(found))

    def _stored(self, axis: int) -> int:
        return self._axes[axis] if self.ndim > 2 else 0

    def _keep(self, axis: int, at: int) -> None:
        """Have the voxels of a slice in the journal as they are."""
        whole = tuple(slice(0, size) for size in self._journal.shape)
        one = (*whole[:axis], slice(at, at + 1), *whole[axis + 1 :])
        box = one if self.ndim > 2 else whole
        for chunk in self._journal.chunks_in(box):
            both = overlap(self._journal.box(chunk), box)
            voxels = self._read(both)
            self._journal.append((both, voxels, voxels))

    def __array__(
        self, dtype: Any = None, copy: bool | None = None
    ) -> npt.NDArray[Any]:
        """Read everything."""
        return np.asarray(self[...], dtype)

    def __deepcopy__(self, memo: Any) -> npt.NDArray[Any]:
        """Return a copy in memory, which can be changed without the image."""
        return np.asarray(self)

    @cached_property
    def _planes(self) -> Any:
        """The same, lazy: of a plane, napari often wants to know the type alone."""
        import dask.array as da

        planes = (1, *self.shape[1:])
        return da.from_array(self, planes, name=False)  # type: ignore[no-untyped-call]

    def flush(self, *, told: bool = False) -> None:
        """Wait until the label image holds all changes; a run is `told` the place."""
        with self._guard:
            if self._changed:
                with writing(self._image):
                    self._begin()
            writer = self._writer
        if writer is not None:
            self._hurry.set()
            writer.join()
        if told:
            self._journal.tell()

    def _begin(self) -> None:
        """Lock the folder and have changes written, unless this is under way."""
        if self._writer is not None:
            return
        if self._image.stat().st_ino != self._known:
            raise OutputError(f"{self._image} was replaced; open it again.")
        if not self._locked:
            self._lock = lock_folder(self._image.parent)
        self._hurry.clear()
        self._writer = threading.Thread(
            target=self._write, name="napari-biomedparse strokes"
        )
        self._writer.start()
        self._read_journal()

    def _read_journal(self) -> None:
        """Take over strokes that a crash kept from the labels."""
        self._journal.read()
        for one in self._journal.edited(since=self._journal.applied):
            self._put(one.box, one.after, one.mask)

    def _write(self) -> None:
        """Write changed chunks until there are none left."""
        try:
            while self._write_once():
                pass
        except Exception as error:  # what is in the journal is not lost
            logger.warning(
                "%s lacks changes, which are in the journal: %s", self._image, error
            )
            self._end()

    def _write_once(self) -> bool:
        self._journal.sync()
        self._hurry.wait(_PAUSE_SECONDS)
        with self._guard:
            waiting, end = self._changed.copy(), self._journal.end
            if not waiting:
                if (
                    self._journal.last >= self._journal.applied
                ):  # what was accepted is as it was
                    self._journal.mark(end)
                if self._journal.is_long:
                    with suppress(OSError):
                        self._journal.shorten()
                self._end()
                return False
        self._journal.sync()
        for chunk, array in waiting.items():
            write_levels(self._levels, self._journal.box(chunk), array)
        self._store.sync()
        with self._guard:
            self._journal.mark(end)
            for chunk, array in waiting.items():
                if self._changed[chunk] is array:
                    del self._changed[chunk]
        return True

    def _end(self) -> None:
        with self._guard:
            if self._lock is not None:
                self._lock.release()
            self._lock = self._writer = None

    def _put(
        self,
        box: Box,
        values: npt.NDArray[Any],
        where: npt.NDArray[np.bool_] | Any = True,
    ) -> None:
        """Change a box within a chunk, which is then to be written."""
        (chunk,) = self._journal.chunks_in(box)
        own = self._journal.box(chunk)
        array = self._read(own)
        np.copyto(array[within(box, own)], values, where=where)
        self._changed[chunk] = array

    def _read(self, box: Box) -> npt.NDArray[Any]:
        """Read a box, with the changes that are not yet written, as a new array."""
        waiting = []
        with self._guard:  # before reading: what is written meanwhile is newer
            for chunk, array in self._changed.items():
                own = self._journal.box(chunk)
                both = overlap(own, box)
                if both == box:
                    return array[within(box, own)].copy()
                if all(part.start < part.stop for part in both):
                    waiting.append((both, array[within(both, own)]))
        found = np.array(self._levels[0][box])
        for both, part in waiting:
            found[within(both, box)] = part
        return found

    def _find(self, key: Any) -> tuple[Box, list[int], tuple[Any, ...]]:
        """Return a box, its shape as shown, and where in it the key's voxels are."""
        given = key if isinstance(key, tuple) else (key,)
        if len(given) == 1 and getattr(given[0], "dtype", None) == np.bool_:
            given = np.nonzero(given[0])
        at = [i for i, part in enumerate(given) if part is Ellipsis] or [len(given)]
        missing = self.ndim - len([part for part in given if part is not Ellipsis])
        given = (*given[: at[0]], *[slice(None)] * missing, *given[at[0] + 1 :])
        box = [slice(0, 1)] * len(self._journal.shape)
        shape: list[int] = []
        rest: list[Any] = []
        for part, axis, size in zip(given, self._axes, self.shape, strict=True):
            every = np.arange(size)[part]
            first, last = (every.min(), every.max()) if every.size else (0, -1)
            whole = isinstance(part, slice)
            rest.append(slice(None, None, part.step) if whole else every - first)
            shape.append(int(last) + 1 - int(first))
            if axis >= 0:
                box[axis] = slice(int(first), int(last) + 1)
        return tuple(box), shape, tuple(rest)


def is_paintable(image: Path) -> bool:
    """Return whether a label image is one of a run folder."""
    record = image.parent / "manifest.json"
    if not (image.name.endswith(".ome.zarr") and is_zarr(image) and record.is_file()):
        return False
    with record.open("rb") as file:
        return b'"napari-biomedparse run"' in file.read(100)


def recover(image: Path, *, locked: bool = False) -> None:
    """Write strokes that a crash kept from a label image, unless somebody does so."""
    if journal_of(image).is_file() and is_zarr(image):
        try:
            PaintableLabels(image, locked=locked).flush(told=locked)
        except OutputError as error:
            logger.warning("%s lacks strokes of its journal: %s", image, error)


def edited_voxels(image: Path) -> int:
    """Count the voxels of a label image that a person changed."""
    if not journal_of(image).is_file():
        return 0
    try:
        return open_levels(image)[2].count()
    except OutputError as error:
        raise OutputError(
            f"{journal_of(image)} holds edits of labels that are not whole; run the "
            "same again to restore these, or move it away."
        ) from error


def accepted_slices(image: Path) -> int:
    """Count the slices of a label image that a person accepted."""
    if not accepted_of(image).is_file():
        return 0
    return sum(map(len, read_accepted(image, open_levels(image)[2].shape).values()))
