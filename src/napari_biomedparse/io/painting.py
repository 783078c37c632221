"""Labels in a run folder as an array that a person paints into, larger than memory."""

from __future__ import annotations

import logging
import math
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from filelock import FileLock, Timeout

from napari_biomedparse.errors import OutputError
from napari_biomedparse.io.durable import is_zarr, refuse_links, writing
from napari_biomedparse.io.formats.ome_labels import (
    journal_for,
    open_levels,
    write_levels,
)
from napari_biomedparse.io.journal import (
    LOCK,
    Box,
    Change,
    Chunk,
    has_journal,
    overlap,
    within,
)

logger = logging.getLogger(__name__)

MOST_WAITING = 2**28
"""Bytes of changed chunks that may wait to be written."""
SPARSE = 2**24
"""Voxels of a box above which scattered points are looked up chunk by chunk."""
_PATIENCE_SECONDS = 1.0
_PAUSE_SECONDS = 0.1


class PaintableLabels:
    """The finest level of a label image in a run folder; reads and changes its voxels.

    A change is in the journal when ``labels[...] = values`` returns; a thread writes
    the chunks of all levels. The folder is locked from the first change until all are
    written: if a run or somebody else is writing to it, an `OutputError` is raised.

    Parameters
    ----------
    image : path
        The label image.
    shown : callable, optional
        Makes the view that is wanted of an array of the image's shape, by leaving out
        axes of length one or by adding some.
    locked : bool
        Whether the caller has locked the folder.
    """

    def __init__(
        self,
        image: Path,
        shown: Callable[[Any], Any] | None = None,
        *,
        locked: bool = False,
    ) -> None:
        self.image = image
        self._store, self._levels = open_levels(image)
        finest = self._levels[0]
        self._journal = journal_for(image, self._levels)
        strides = range(1, finest.ndim + 1)  # tell which axis is which
        probe: Any = np.lib.stride_tricks.as_strided(
            np.empty(1, np.uint8), finest.shape, strides, writeable=False
        )
        probe = probe if shown is None else shown(probe)
        self._axes = [stride - 1 for stride in probe.strides]  # -1 if it was added
        self.shape: tuple[int, ...] = probe.shape
        self.ndim, self.size = probe.ndim, probe.size
        self.dtype = np.dtype(finest.dtype)
        self._changed: dict[Chunk, npt.NDArray[Any]] = {}
        self._guard = threading.RLock()
        self._lock = FileLock(image.parent / LOCK, thread_local=False)
        self._locked, self._open, self._known = locked, False, image.stat().st_ino
        self._writer: threading.Thread | None = None
        self._hurry = threading.Event()
        for one in self._journal.edited(since=self._journal.applied):
            self._put(one.box, one.mask, one.after[one.mask])

    def __getitem__(self, key: Any) -> Any:
        """Return voxels, as numpy does for integers, slices and arrays of positions."""
        if isinstance(key, int | np.integer) and self.ndim > 1:
            return _Plane(self, int(key))
        key = self._whole_key(key)
        if (groups := self._groups(key)) is not None:
            found = np.empty(np.broadcast_shapes(*map(np.shape, key)), self.dtype)
            for at, part in groups:
                found.ravel()[at] = self[part]
            return found
        box, shape, rest = self._find(key)
        return self._read(box).reshape(shape)[rest]

    def __setitem__(self, key: Any, values: Any) -> None:
        """Change voxels; they are in the journal once this returns."""
        key = self._whole_key(key)
        if (groups := self._groups(key)) is not None:
            points = np.broadcast_shapes(*map(np.shape, key))
            every = np.broadcast_to(values, points).ravel()
            for at, part in groups:
                self[part] = every[at]
            return
        box, shape, rest = self._find(key)
        with self._guard:
            waiting = sum(array.nbytes for array in self._changed.values())
        if waiting > MOST_WAITING:
            self.flush()
        with self._guard:
            before = self._read(box)
            after = before.copy()
            after.reshape(shape)[rest] = values
            changes = list(self._changes(box, before, after))
            if changes:
                with writing(self.image):
                    self._begin()
                    self._journal.append(changes)
                for change in changes:
                    self._put(change.box, change.mask, change.new)
                self._wake()

    def __array__(
        self, dtype: Any = None, copy: bool | None = None
    ) -> npt.NDArray[Any]:
        """Read everything."""
        return np.asarray(self[...], dtype)

    def __deepcopy__(self, memo: Any) -> npt.NDArray[Any]:
        """Return a copy in memory, which can be changed without the image."""
        return np.asarray(self)

    def flush(self) -> None:
        """Wait until the label image holds all changes."""
        with self._guard:
            if self._changed:
                with writing(self.image):
                    self._begin()
                self._wake()
            writer = self._writer
        if writer is not None:
            self._hurry.set()
            writer.join()

    def _begin(self) -> None:
        """Lock the folder and open the journal, unless this was done."""
        if self._open:
            return
        if not self._locked:
            refuse_links(Path(self._lock.lock_file))
            try:
                self._lock.acquire(timeout=_PATIENCE_SECONDS)
            except Timeout as error:
                raise OutputError(
                    f"{self.image.parent} is being written by another process, such as "
                    "a run; wait for it before you change its labels."
                ) from error
        try:
            if self.image.stat().st_ino != self._known:
                raise OutputError(f"{self.image} was replaced; open it again.")
            self._journal.open()
        except BaseException:
            self._lock.release()
            raise
        self._open = True

    def _end(self) -> None:
        self._journal.close()
        self._lock.release()
        self._open, self._writer = False, None

    def _wake(self) -> None:
        """Have the changes written, unless this is under way."""
        if self._writer is None:
            self._hurry.clear()
            self._writer = threading.Thread(
                target=self._write, name="napari-biomedparse strokes"
            )
            self._writer.start()

    def _write(self) -> None:
        """Write changed chunks until there are none left."""
        try:
            while True:
                self._journal.sync()
                self._hurry.wait(_PAUSE_SECONDS)
                with self._guard:
                    waiting, end = dict(self._changed), self._journal.end
                    if not waiting:
                        self._end()
                        return
                self._journal.sync()
                for chunk, array in waiting.items():
                    write_levels(self._levels, self._journal.box(chunk), array)
                self._store.sync()
                with self._guard:
                    self._journal.mark(end)
                    for chunk, array in waiting.items():
                        if self._changed[chunk] is array:
                            del self._changed[chunk]
        except Exception as error:  # what is in the journal is not lost
            logger.warning(
                "%s: changes are in %s, but not yet in the labels: %s",
                self.image,
                self._journal.path,
                error,
            )
            with self._guard:
                self._end()

    def _put(self, box: Box, mask: npt.NDArray[np.bool_], new: Any) -> None:
        """Change voxels of a box within a chunk, which is then to be written."""
        sizes = zip(box, self._journal.chunks, strict=True)
        chunk = tuple(part.start // size for part, size in sizes)
        own = self._journal.box(chunk)
        array = self._changed.get(chunk)
        array = self._read(own) if array is None else array.copy()
        array[within(box, own)][mask] = new
        self._changed[chunk] = array

    def _read(self, box: Box) -> npt.NDArray[Any]:
        """Read a box, with the changes that are not yet written, as a new array."""
        with self._guard:  # before reading: what is written meanwhile is newer
            waiting = []
            for chunk, array in self._changed.items():
                own = self._journal.box(chunk)
                both = overlap(own, box)
                if all(part.start < part.stop for part in both):
                    waiting.append((both, array[within(both, own)]))
        if len(waiting) == 1 and waiting[0][0] == box:
            return waiting[0][1].copy()
        found = np.array(self._levels[0][box])
        for both, part in waiting:
            found[within(both, box)] = part
        return found

    def _changes(
        self, box: Box, before: npt.NDArray[Any], after: npt.NDArray[Any]
    ) -> Iterator[Change]:
        """Yield what differs, chunk by chunk."""
        for chunk in self._journal.chunks_in(box):
            both = overlap(self._journal.box(chunk), box)
            old, new = before[within(both, box)], after[within(both, box)]
            mask = old != new
            if mask.any():
                start = tuple(part.start for part in both)
                yield Change(start, mask, old[mask], new[mask])

    def _whole_key(self, key: Any) -> tuple[Any, ...]:
        """Return slices, numbers and arrays of positions, one for each axis."""
        given = key if isinstance(key, tuple) else (key,)
        if len(given) == 1 and getattr(given[0], "dtype", None) == np.bool_:
            return np.nonzero(np.broadcast_to(given[0], self.shape))
        rest = [slice(None)] * (self.ndim - len(given) + 1)
        at = [i for i, part in enumerate(given) if part is Ellipsis] or [len(given)]
        given = (*given[: at[0]], *rest, *given[at[0] + 1 :])[: self.ndim]
        pairs = zip(given, self.shape, strict=True)
        return tuple(
            part if isinstance(part, slice) else _positions(part, size)
            for part, size in pairs
        )

    def _find(self, key: tuple[Any, ...]) -> tuple[Box, list[int], tuple[Any, ...]]:
        """Return a box, its shape as shown, and where in it the key's voxels are."""
        box = [slice(0, 1)] * len(self._journal.shape)
        shape: list[int] = []
        rest: list[Any] = []
        for part, axis, size in zip(key, self._axes, self.shape, strict=True):
            if isinstance(part, slice):
                every = range(size)[part]
                first, last = sorted((every[0], every[-1])) if every else (0, -1)
                rest.append(slice(None, None, every.step))
            else:
                ends = (part.min(), part.max()) if part.size else (0, -1)
                first, last = map(int, ends)
                rest.append(part - first if part.ndim else 0)
            shape.append(last + 1 - first)
            if axis >= 0:
                box[axis] = slice(first, last + 1)
        return tuple(box), shape, tuple(rest)

    def _groups(self, key: tuple[Any, ...]) -> Iterator[tuple[Any, Any]] | None:
        """Return scattered points chunk by chunk, if they are in too large a box."""
        if any(isinstance(part, slice) for part in key):
            return None
        points = [np.ravel(part) for part in np.broadcast_arrays(*key)]
        if math.prod(int(np.ptp(at)) + 1 for at in points if at.size) <= SPARSE:
            return None
        sizes = [self._journal.chunks[axis] if axis >= 0 else 1 for axis in self._axes]
        chunks = np.stack([at // size for at, size in zip(points, sizes, strict=True)])
        order = np.lexsort(chunks)
        ends = np.flatnonzero(np.diff(chunks[:, order]).any(axis=0)) + 1
        return (
            (at, tuple(part[at] for part in points)) for at in np.split(order, ends)
        )


class _Plane(np.lib.mixins.NDArrayOperatorsMixin):
    """One index of the first axis, read when used: napari asks for its type alone."""

    def __init__(self, labels: PaintableLabels, index: int) -> None:
        self._labels, self._index = labels, index
        self.dtype, self.shape = labels.dtype, labels.shape[1:]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> Any:
        return np.asarray(self)[key]

    def __array__(
        self, dtype: Any = None, copy: bool | None = None
    ) -> npt.NDArray[Any]:
        return np.asarray(self._labels[self._index, ...], dtype)

    def __array_ufunc__(self, ufunc: Any, method: str, *given: Any, **more: Any) -> Any:
        read = (np.asarray(one) if isinstance(one, _Plane) else one for one in given)
        return getattr(ufunc, method)(*read, **more)


def is_paintable(image: Path) -> bool:
    """Return whether a label image is one of a run folder that may be written to."""
    record = image.parent / "manifest.json"
    if not (image.name.endswith(".ome.zarr") and is_zarr(image) and record.is_file()):
        return False
    with record.open("rb") as file:
        if b'"napari-biomedparse run"' not in file.read(100):
            return False
    return os.access(image.parent, os.W_OK)


def recover(image: Path, *, locked: bool = False) -> None:
    """Write strokes to a label image that a crash kept from it.

    If somebody is writing to its folder, they are left to them.
    """
    if has_journal(image):
        try:
            PaintableLabels(image, locked=locked).flush()
        except OutputError as error:
            logger.warning("%s", error)


def edited_voxels(image: Path) -> int:
    """Count the voxels of a label image that a person changed."""
    if not has_journal(image):
        return 0
    return journal_for(image, open_levels(image)[1]).count()


def _positions(part: Any, size: int) -> npt.NDArray[np.int64]:
    found = np.asarray(part)
    if found.size and (found.dtype.kind not in "iu" or found.min() < -size):
        raise IndexError(f"{part!r} is no position along an axis of {size}")
    found = np.where(found < 0, found + size, found).astype(np.int64)
    if found.size and found.max() >= size:
        raise IndexError(f"{part!r} is no position along an axis of {size}")
    return found
