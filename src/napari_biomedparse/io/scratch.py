"""Temporary folders, which the next start removes if their process was killed."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast
from uuid import uuid4

from filelock import FileLock

from napari_biomedparse.errors import OutputError

if TYPE_CHECKING:
    import numpy as np
    import zarr

_PREFIX = "napari-biomedparse-"


@contextmanager
def scratching() -> Iterator[None]:
    """Name the place of temporary files in an `OSError` of writing to it."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        place = tempfile.tempdir or os.environ.get("TMPDIR", "")
        raise OutputError(
            f"Temporary files cannot be written to {place}: {error.strerror or error}. "
            "Free space there, or set TMPDIR to a folder that has more."
        ) from error


def scratch_file() -> BinaryIO:
    """Open a temporary file that has no name, and ends with its last use."""
    with scratching():
        return cast(BinaryIO, tempfile.TemporaryFile(prefix=_PREFIX))


def scratch_folder() -> tuple[Path, Callable[[], object]]:
    """Make a temporary folder; return it and what removes it.

    It is removed at the end of this process in any case.
    """
    with scratching():
        folder = _root(os.getpid(), tempfile.gettempdir()) / uuid4().hex
        folder.mkdir(parents=True)  # a tidy system may have removed the empty root
    return folder, partial(shutil.rmtree, folder, ignore_errors=True)


def temporary_array(
    shape: tuple[int, ...], chunks: tuple[int, ...], dtype: np.dtype[Any]
) -> zarr.Array[Any]:
    """Make a Zarr array of zeros in a temporary folder that lives as long as it."""
    import zarr  # slow, and the process of the network needs a folder alone

    folder, remove = scratch_folder()
    with scratching():
        array = zarr.create_array(
            store=folder, shape=shape, chunks=chunks, dtype=dtype, fill_value=0
        )
    weakref.finalize(array, remove)
    return array


def remove_abandoned() -> None:
    """Remove what processes that were killed have left.

    A process that lives holds a lock, wherever it runs. Only what is this user's own is
    looked at, as anybody may write to a common folder.
    """
    with suppress(OSError):
        for lock in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*.lock"):
            state, folder = lock.lstat(), lock.with_suffix("")
            plain = not lock.is_symlink() and state.st_nlink == 1 and not state.st_size
            ours = hasattr(os, "getuid") and state.st_uid == os.getuid()
            if plain and (ours or os.name == "nt") and folder.is_dir():
                with suppress(OSError, NotImplementedError), FileLock(lock, timeout=0):
                    _remove(folder, lock)


@cache
def _root(process: int, place: str) -> Path:
    """Make the folder of this process, of which it holds the lock."""
    remove_abandoned()
    root = Path(place) / f"{_PREFIX}{process}-{uuid4().hex}"
    held = FileLock(f"{root}.lock", thread_local=False)
    with suppress(NotImplementedError):  # without locks nothing is ever removed
        held.acquire(timeout=0)
    try:
        root.mkdir(0o700)
    except OSError:
        _remove(root, Path(held.lock_file))
        held.release()
        raise

    def leave() -> None:
        if os.getpid() == process:  # not a fork of it
            _remove(root, Path(held.lock_file))
            held.release()

    weakref.finalize(held, leave)
    return root


def _remove(folder: Path, lock: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    lock.unlink(missing_ok=True)
