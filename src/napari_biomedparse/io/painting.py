"""Labels in a run folder as an array that a person paints into, larger than memory."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_biomedparse.errors import OutputError
from napari_biomedparse.io.durable import is_zarr, writing
from napari_biomedparse.io.formats.ome_labels import open_levels, write_levels
from napari_biomedparse.io.journal import (
    Box,
    Chunk,
    journal_of,
    lock_folder,
    overlap,
    within,
)

if TYPE_CHECKING:
    from filelock import FileLock

logger = logging.getLogger(__name__)

MOST_WAITING = 2**28
"""Bytes of changed chunks that may wait to be written."""
_PAUSE_SECONDS = 0.25


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
        self._locked, self._open = locked, False
        self._writer: threading.Thread | None = None
        self._hurry = threading.Event()
        self._read_journal()

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

    def flush(self) -> None:
        """Wait until the label image holds all changes."""
        with self._guard:
            if self._changed:
                with writing(self._image):
                    self._begin()
            writer = self._writer
        if writer is not None:
            self._hurry.set()
            writer.join()

    def _begin(self) -> None:
        """Lock the folder and have changes written, unless this is under way."""
        if self._open:
            return
        if self._image.stat().st_ino != self._known:
            raise OutputError(f"{self._image} was replaced; open it again.")
        if not self._locked:
            self._lock = lock_folder(self._image.parent)
        self._open = True
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
            self._open, self._lock, self._writer = False, None, None

    def _put(
        self,
        box: Box,
        values: npt.NDArray[Any],
        where: npt.NDArray[np.bool_] | Any = True,
    ) -> None:
        """Change a box within a chunk, which is then to be written."""
        sizes = zip(box, self._journal.chunks, strict=True)
        chunk = tuple(part.start // size for part, size in sizes)
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
    """Write strokes to a label image that a crash kept from it.

    If somebody is writing to its folder, they are left to them.
    """
    if journal_of(image).is_file() and is_zarr(image):
        try:
            PaintableLabels(image, locked=locked).flush()
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
