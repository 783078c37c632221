"""Files that are complete or absent after a crash, and temporary ones that then go."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cache, partial
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast
from uuid import uuid4

from filelock import FileLock

from napari_biomedparse.errors import OutputError

if TYPE_CHECKING:
    import numpy as np
    import zarr

PARTIAL = ".partial"
"""Ending of files that a crash may leave behind."""
_PREFIX = "napari-biomedparse-"
_NAME = re.compile(r"\.[0-9a-f]{32}\.partial")


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Provide a temporary name that becomes `path` once it is written and on the disk.

    An existing file or folder is replaced. If an exception is raised, whatever was
    written is removed and `path` stays as it was.
    """
    partial = _partial(path)
    replaced = _partial(path)
    try:
        with _noted(partial):
            yield partial
            inside = partial.rglob("*") if partial.is_dir() else [partial]
            sync_files(file for file in inside if file.is_file())
        if path.is_dir():  # which cannot be replaced in one step
            path.rename(replaced)
        try:
            partial.replace(path)
        except BaseException:
            if replaced.exists():
                replaced.rename(path)
            raise
    finally:
        for leftover in (partial, replaced):
            _discard(leftover)
    sync_folder(path.parent)


def write_durably(path: Path, text: str) -> None:
    """Write a UTF-8 text file with `atomic_write`.

    The bytes of file names that are not UTF-8 become escapes, which JSON reads back.
    """
    with atomic_write(path) as partial:
        with partial.open("xb") as file:
            file.write(text.encode("utf-8", "backslashreplace"))


@contextmanager
def written(
    path: Path,
    remedy: str = "Choose a folder that you may write to, on a disk with free space.",
) -> Iterator[None]:
    """Turn an `OSError` of writing to a file or folder into an `OutputError`."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written: {error.strerror or error}. {remedy}"
        ) from error


def writing(folder: Path) -> AbstractContextManager[None]:
    """Do the same for the folder of a run, which can be continued."""
    return written(
        folder,
        "Finished blocks are kept: free disk space or reconnect the disk, then run the "
        "same again to continue.",
    )


@contextmanager
def whole_or_nothing(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """Do the same as `atomic_write` after `check_place`, but raise `OutputError`."""
    path = path.absolute()
    check_place(path, overwrite=overwrite)
    with written(path), atomic_write(path) as temporary:
        yield temporary


def check_place(
    path: Path, *, overwrite: bool, inputs: Iterable[str | Path | None] = ()
) -> None:
    """Raise `OutputError` if a file or Zarr folder cannot be written, after a trial.

    None of the `inputs`, nor a part of one, is replaced in any case.
    """
    path = path.absolute()
    with written(path):
        refuse_inputs(path, inputs)
        if path.exists() and not overwrite:
            raise OutputError(
                f"{path} exists already; choose another name, or allow overwriting."
            )
        if path.is_dir() and not is_zarr(path):
            raise OutputError(f"{path} is a folder of other files and is not replaced.")
        check_folder(path.parent)
        if not path.parent.is_dir():
            raise OutputError(
                f"The folder {path.parent} does not exist; create it first."
            )
        trial = _partial(path)
        try:
            trial.write_bytes(bytes(4096))
        finally:
            trial.unlink(missing_ok=True)


def check_folder(folder: Path) -> None:
    """Raise `OutputError` if a file stands where a folder is to be."""
    for place in (folder, *folder.parents):
        if place.exists() and not place.is_dir():
            raise OutputError(f"{place} is a file, not a folder; choose another place.")


def refuse_inputs(path: Path, inputs: Iterable[str | Path | None]) -> None:
    """Raise `OutputError` if replacing a file or folder would replace an input.

    An input is a path or a pattern; of a folder that is no Zarr, each of its files.
    """
    target = path.resolve()
    known = [Path(given) for given in inputs if given is not None]
    for given in known if path.exists() else ():
        found = [given] if given.exists() else map(Path, glob(str(given)))
        for place in found:
            own = place.is_dir() and not is_zarr(place)
            for one in place.iterdir() if own else (place,):
                there = one.resolve()
                if (
                    target in (there, *there.parents)
                    or there in target.parents
                    or (one.exists() and one.samefile(path))
                ):
                    raise OutputError(
                        f"{path} holds the input {one}, which is never replaced; "
                        "choose another name."
                    )


def open_own(path: Path, flags: int) -> int:
    """Open a file of a folder that others may have filled; a link is refused."""
    refuse_links(path.parent, path)
    more = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    return os.open(path, flags | more, 0o666)


def refuse_links(*paths: Path) -> None:
    """Raise `OutputError` if one of these is a link, which may lead anywhere."""
    for path in paths:
        if path.is_symlink():
            raise OutputError(
                f"{path} is a link, which is not followed; replace it by what it "
                "points to, or choose another folder."
            )


def sync_files(paths: Iterable[Path]) -> None:
    """Wait until files, and the folders that list them, are on the disk."""
    paths = [path for path in paths if path.exists()]
    for path in paths:
        with path.open("r+b") as file:
            os.fsync(file.fileno())
    for folder in {path.parent for path in paths}:
        sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Wait until a folder's list of files is on the disk (Windows does it itself)."""
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_zarr(folder: Path) -> bool:
    """Return whether a folder is a Zarr group or array, not only some chunks of one.

    Writing a chunk makes the folders above it, even where everything was removed.
    """
    return any(
        (folder / name).is_file() for name in ("zarr.json", ".zgroup", ".zarray")
    )


@contextmanager
def _noted(partial: Path) -> Iterator[None]:
    """Have a temporary file removed at the next start if this process is killed."""
    note = None
    with suppress(OSError):
        note = _root(os.getpid(), tempfile.gettempdir()) / f"{uuid4().hex}{PARTIAL}"
        note.write_bytes(os.fsencode(partial.absolute()))
    try:
        yield
    finally:
        if note is not None:
            with suppress(OSError):
                note.unlink(missing_ok=True)


def _discard(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _partial(path: Path) -> Path:
    # The name itself may be as long as a name can be.
    return path.with_name(f"{path.name[:40]}.{uuid4().hex}{PARTIAL}")


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
                    for note in folder.glob(f"*{PARTIAL}"):
                        partial = Path(os.fsdecode(note.read_bytes()))
                        if _NAME.fullmatch("".join(partial.suffixes[-2:])):
                            _discard(partial)
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
