"""Faults that strike a run in this process."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from faults.traps import EIO, broken, trap

Fault = Callable[["Scene", str], contextlib.AbstractContextManager[None]]
DISK = "napari-biomedparse-test"
NOBODY = 65534


class Scene:
    """Where a fault strikes.

    Parameters
    ----------
    source : Path
        The volume.
    folder : Path
        The run's.
    disk : Path or None
        A small disk that the folder is on, and nothing else.
    """

    def __init__(self, source: Path, folder: Path, disk: Path | None = None) -> None:
        self.source, self.folder, self.disk = source, folder, disk
        self.undo = contextlib.ExitStack()
        """Puts right what the fault broke, before the run is resumed."""


def mount(*arguments: str) -> None:
    """Mount a disk in memory, or skip the test."""
    if sys.platform != "linux":
        pytest.skip("small disks are mounted on Linux only")
    command = ["mount", "-t", "tmpfs", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no small disk can be mounted here: {done.stderr.strip()}")


@contextlib.contextmanager
def read_error(scene: Scene, stage: str) -> Iterator[None]:
    # Three windows are looked at before the run: in the first, middle and last chunk.
    with trap("reading", EIO, after=2 if stage == "looking" else 5):
        yield


@contextlib.contextmanager
def memory_full(scene: Scene, stage: str) -> Iterator[None]:
    def strike() -> None:
        raise MemoryError

    with trap(stage, strike, after=5):
        yield


@contextlib.contextmanager
def device_memory_full(scene: Scene, stage: str) -> Iterator[None]:
    def strike() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")

    with trap(stage, strike, after=5):
        yield


@contextlib.contextmanager
def write_error(scene: Scene, stage: str) -> Iterator[None]:
    with trap(stage, EIO, after=2 if stage in ("labels", "edges", "record") else 0):
        yield


@contextlib.contextmanager
def disk_full(scene: Scene, stage: str) -> Iterator[None]:
    disk = scene.disk
    assert disk is not None

    def fill() -> None:
        free = shutil.disk_usage(disk).free
        if free:
            with contextlib.suppress(OSError), (disk / "other").open("ab") as file:
                file.write(bytes(free))
                file.flush()

    scene.undo.callback((disk / "other").unlink)
    with trap(stage, fill, after=2 if stage == "labels" else 0):
        yield


@contextlib.contextmanager
def disk_read_only(scene: Scene, stage: str) -> Iterator[None]:
    # Files that are open for writing keep a disk writable, the lock among them.
    with trap(stage, broken(errno.EROFS), after=2):
        yield


@contextlib.contextmanager
def permission_lost(scene: Scene, stage: str) -> Iterator[None]:
    place = scene.source if stage == "reading" else scene.folder / "labels.ome.zarr"

    def lose() -> None:
        for path in [*sorted(place.rglob("*"), reverse=True), place]:
            scene.undo.callback(path.chmod, path.stat().st_mode)
            path.chmod(0)

    with _ordinary_user(scene), trap(stage, _once(lose), after=5):
        yield


@contextlib.contextmanager
def volume_removed(scene: Scene, stage: str) -> Iterator[None]:
    away = scene.source.with_name("away")

    def remove() -> None:
        scene.source.rename(away)
        scene.undo.callback(away.rename, scene.source)

    with trap(stage, _once(remove), after=5):
        yield


@contextlib.contextmanager
def volume_replaced(scene: Scene, stage: str) -> Iterator[None]:
    watched = scene.source
    if watched.is_dir():
        watched = watched / "zarr.json"
    old, status = watched.read_bytes(), watched.stat()

    def replace() -> None:
        watched.write_bytes(old + b" ")

    def put_back() -> None:
        watched.write_bytes(old)
        os.utime(watched, ns=(status.st_atime_ns, status.st_mtime_ns))

    scene.undo.callback(put_back)
    with trap(stage, _once(replace), after=5):
        yield


@contextlib.contextmanager
def labels_removed(scene: Scene, stage: str) -> Iterator[None]:
    name = "labels.ome.zarr" if stage == "labels" else "instances.ome.zarr"

    def remove() -> None:
        shutil.rmtree(scene.folder / name)

    with trap(stage, _once(remove), after=2 if stage == "labels" else 0):
        yield


@contextlib.contextmanager
def run_folder_removed(scene: Scene, stage: str) -> Iterator[None]:
    with trap(stage, _once(lambda: shutil.rmtree(scene.folder)), after=2):
        yield


@contextlib.contextmanager
def clock_jump(scene: Scene, stage: str) -> Iterator[None]:
    """Years ahead at first, and then years back."""
    jumps = iter((3e8, -3e8))
    shift = [0.0]
    real = time.time

    def jump() -> None:
        shift[0] = next(jumps, shift[0])

    class Clock(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
            return datetime.now(UTC) + timedelta(seconds=shift[0])

    with (
        patch("time.time", lambda: real() + shift[0]),
        patch("napari_biomedparse.runs.folder.datetime", Clock),
        trap(stage, jump, after=2),
    ):
        yield


FAULTS: dict[str, tuple[Fault, str]] = {
    "read error": (read_error, "in.*cannot be read.*Input/output error.*again"),
    "memory full": (memory_full, "not enough memory to read.*again"),
    "device memory full": (device_memory_full, "cpu has too little memory"),
    "write error": (write_error, "run cannot be written: Input/output error.*again"),
    "disk full": (disk_full, "run cannot be written: No space left.*again"),
    "disk read-only": (disk_read_only, "cannot be written: Read-only file.*again"),
    "permission lost": (permission_lost, "Permission denied.*again"),
    "volume removed": (volume_removed, r"in\..*(disappeared|cannot be read).*again"),
    "volume replaced": (volume_replaced, r"in\..* changed while it was being read"),
    "labels removed": (labels_removed, "removed while it was being written.*again"),
    "run folder removed": (run_folder_removed, "run.* (removed|written).*again"),
    "clock jump": (clock_jump, ""),
}
"""How each fault is made, and what the message about it says."""


def _once(action: Callable[[], None]) -> Callable[[], None]:
    done: list[None] = []

    def act() -> None:
        if not done:
            done.append(None)
            action()

    return act


@contextlib.contextmanager
def _ordinary_user(scene: Scene) -> Iterator[None]:
    """Be nobody instead of root, who may do anything, with the run's folder as own."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        yield
        return
    for path in (scene.source.parent, *scene.source.parent.rglob("*")):
        os.chown(path, NOBODY, -1)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
