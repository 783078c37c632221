"""Files that are either complete or absent after a crash or a power loss."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from glob import glob
from pathlib import Path
from uuid import uuid4

from napari_biomedparse.errors import OutputError

PARTIAL = ".partial"
"""Ending of files that a crash may leave behind."""


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Provide a temporary name that becomes `path` once it is written and on the disk.

    An existing file or folder is replaced. If an exception is raised, whatever was
    written is removed and `path` stays as it was.
    """
    partial = _partial(path)
    replaced = _partial(path)
    try:
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
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)
    sync_folder(path.parent)


def write_durably(path: Path, text: str) -> None:
    """Write a UTF-8 text file with `atomic_write`.

    The bytes of file names that are not UTF-8 become escapes, which JSON reads back.
    """
    with atomic_write(path) as partial:
        with partial.open("xb") as file:
            file.write(text.encode("utf-8", "backslashreplace"))


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn an `OSError`, such as that of a full or lost disk, into an `OutputError`."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(
            f"{folder} cannot be written: {error.strerror or error}. Finished blocks "
            "are kept: free disk space or reconnect the disk, then run the same again "
            "to continue."
        ) from error


@contextmanager
def whole_or_nothing(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """Do the same as `atomic_write` after `check_place`, but raise `OutputError`."""
    path = path.absolute()
    check_place(path, overwrite=overwrite)
    with written(path), atomic_write(path) as temporary:
        yield temporary


@contextmanager
def written(path: Path) -> Iterator[None]:
    """Turn an `OSError` of writing a single file or Zarr into an `OutputError`."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written: {error.strerror or error}. Choose a folder "
            "that you may write to, on a disk with free space."
        ) from error


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


def _partial(path: Path) -> Path:
    # The name itself may be as long as a name can be.
    return path.with_name(f"{path.name[:40]}.{uuid4().hex}{PARTIAL}")
