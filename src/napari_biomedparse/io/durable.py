"""Files that are whole or absent after a crash, also one of the power supply."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from zarr.storage import LocalStore

from napari_biomedparse.errors import OutputError

if TYPE_CHECKING:
    from zarr.core.buffer import Buffer

PARTIAL = ".partial"
"""Ending of files that a crash may leave behind."""


class SyncedStore(LocalStore):
    """A folder that holds a Zarr group, whose writes can be made to last.

    Parameters
    ----------
    root : Path
        The folder.
    read_only : bool
    """

    def __init__(self, root: Path | str, *, read_only: bool = False) -> None:
        super().__init__(root, read_only=read_only)
        self._written: set[Path] = set()

    async def set(self, key: str, value: Buffer) -> None:
        """Write one file, and remember it."""
        await super().set(key, value)
        self._written.add(self.root / key)

    def sync(self) -> None:
        """Wait until all that was written since the last call is on the disk."""
        written, self._written = self._written, set()
        sync_files(written)


def is_zarr(folder: Path) -> bool:
    """Say whether a folder is a Zarr group or array, and not just some chunks of one.

    Writing a chunk makes the folders above it, also where all has been removed.
    """
    return any(
        (folder / name).is_file() for name in ("zarr.json", ".zgroup", ".zarray")
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


def write_durably(path: Path, text: str) -> None:
    """Write a text file that is whole, or as it was before, whatever happens."""
    partial = path.with_name(f"{path.name}.{uuid4().hex}{PARTIAL}")
    try:
        with partial.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(path.parent)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn what the system says about a full or lost disk into an `OutputError`."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(
            f"{folder} cannot be written: {error.strerror or error}. Finished blocks "
            "are kept: make room, or bring the disk back, and run the same again to "
            "continue."
        ) from error
