"""The doors that files of strangers come in by, and a guard that watches each.

Run in a process of its own (see `batch`), as it limits memory and sets an alarm.
"""

from __future__ import annotations

import json
import re
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

SECONDS = 10
"""Longest that any file may take, of a processor; computers that test are busy."""
_WAITING = 60
"""Longest that any file may take, of the clock."""
MEGABYTES = 512
"""Most memory that a small file may take, above what the program takes anyway."""
_HARD = 4096
"""Megabytes at which the system steps in, so that a failing test harms nobody."""


@dataclass
class Outcome:
    """What became of one file."""

    error: str | None
    """Name of the exception's class, or None."""
    ours: bool
    """Whether it is one of the package's own."""
    message: str
    seconds: float
    """Time of a processor."""
    megabytes: float
    """Most memory taken, above that at the start."""
    starved: bool
    """Whether memory ran out on the way, whoever caught that."""
    trace: str = ""

    @property
    def acceptable(self) -> bool:
        """Whether a user is safe: opened or refused, in time and within bounds."""
        return (
            (self.error is None or (self.ours and _is_sentence(self.message)))
            and self.seconds < SECONDS
            and self.megabytes < MEGABYTES
            and not self.starved
        )


class Hang(BaseException):
    """The alarm went off; not an Exception, so that nobody catches it."""


def data(path: Path) -> None:
    """Open a file of voxels, and read the first and the last block of each array."""
    from napari_biomedparse.data.volume import choose_channel
    from napari_biomedparse.io import open_file, open_volume

    contents = open_file(path)
    volumes = [*contents.images, *(found.volume for found in contents.labels)]
    for volume in volumes:
        for array in (volume.data, *volume.levels):
            first: Any = array
            for at in {0, -1}:
                block = first.blocks[(at,) * first.ndim] if first.size else first
                block.compute(scheduler="synchronous")
    if contents.images:
        choose_channel(contents.images[0], 0 if "c" in volumes[0].axes else None)
        open_volume(path)


def checkpoint(path: Path) -> None:
    """Load a network from a weights file."""
    from napari_biomedparse.networks.weights import load_model

    load_model(path)


def run_folder(path: Path) -> None:
    """Open a run's folder, or its record, and look at everything in it."""
    from napari_biomedparse.runs.folder import Run
    from napari_biomedparse.runs.manifest import read_manifest

    read_manifest(path)
    run = Run(path if path.is_dir() else path.parent)
    assert run.prompts and run.manifest.options and run.parameters
    assert run.existence.size >= 0 and run.voxels.size >= 0
    run.labels.blocks[(0,) * run.labels.ndim].compute(scheduler="synchronous")


def prompts(path: Path) -> None:
    """Take prompts from JSON: text, a list, or a mapping."""
    from napari_biomedparse.data.prompts import parse_prompts

    parse_prompts(json.loads(path.read_text("utf-8")))


DOORS: dict[str, Callable[[Path], None]] = {
    "data": data,
    "checkpoint": checkpoint,
    "run_folder": run_folder,
    "prompts": prompts,
}


def limit_memory() -> None:
    """Let this process take `_HARD` megabytes more than it has."""
    own = int(Path("/proc/self/statm").read_text().split()[0])
    most = own * resource.getpagesize() + _HARD * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def attempt(door: str, path: Path) -> Outcome:
    """Bring one file in by a door, and see what becomes of it."""

    def ring(signum: int, frame: FrameType | None) -> None:
        # Not here, between the door and the end of the clocks: nobody would catch it.
        if frame is None or frame.f_code is not attempt.__code__:
            raise Hang(f"{path.name} took longer than {SECONDS} s")

    clocks = (signal.SIGALRM, signal.SIGPROF)
    previous = [signal.signal(clock, ring) for clock in clocks]
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before, start = _memory("VmHWM"), time.process_time()
    # Again and again: Python drops what is raised while it collects garbage.
    signal.setitimer(signal.ITIMER_REAL, _WAITING, 1)
    signal.setitimer(signal.ITIMER_PROF, SECONDS, 1)
    caught: BaseException | None = None
    try:
        DOORS[door](path)
    except BaseException as error:
        caught = error
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        for clock, handler in zip(clocks, previous, strict=True):
            signal.signal(clock, handler)
    seconds = time.process_time() - start
    return _judge(caught, seconds, _memory("VmHWM") - before)


def _is_sentence(text: str) -> bool:
    """Whether an error's text is written for people, and not too long for them."""
    return (
        len(text) < 3000
        and len(text.split()) > 4
        and bool(re.search(r"(\.|run: [\w '\"\[\]/\\:.-]+)$", text))
    )


def _judge(caught: BaseException | None, seconds: float, taken: float) -> Outcome:
    from napari_biomedparse.errors import BiomedParseError

    ours = isinstance(caught, BiomedParseError)
    trace = (
        "" if ours or caught is None else "".join(traceback.format_exception(caught))
    )
    return Outcome(
        error=None if caught is None else type(caught).__name__,
        ours=ours,
        message="" if caught is None else str(caught),
        seconds=seconds,
        megabytes=taken,
        starved=any(isinstance(error, MemoryError) for error in _chain(caught)),
        trace=trace[-3000:],
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _memory(key: str) -> float:
    """Return a figure of this process in megabytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) / 1024
    raise LookupError(key)


def batch(files: Iterable[tuple[str, Path]]) -> list[Outcome]:
    """Bring files in by doors, all in one process with limits of its own."""
    asked = "\n".join(json.dumps([door, str(path)]) for door, path in files)
    done = subprocess.run(
        [sys.executable, __file__],
        input=asked,
        capture_output=True,
        text=True,
        check=False,
        env=None,
    )
    lines = done.stdout.splitlines()
    if done.returncode or len(lines) != len(asked.splitlines()):
        at = asked.splitlines()[len(lines)]
        raise AssertionError(f"the process died at {at}: {done.stderr[-3000:]}")
    return [Outcome(**json.loads(line)) for line in lines]


def warm_up() -> None:
    """Import all that the doors import, so that files are not charged for it."""
    import logging

    import dask.array
    import nibabel
    import pydicom.pixels
    import tifffile
    import torch
    import zarr

    import napari_biomedparse.networks.weights
    import napari_biomedparse.runs.folder

    assert dask.array and nibabel and pydicom.pixels and tifffile and torch and zarr
    napari_biomedparse.networks.weights.load_model("tiny")
    logging.disable()  # tifffile has a lot to say


if __name__ == "__main__":
    warm_up()
    limit_memory()
    for line in sys.stdin:
        door, name = json.loads(line)
        print(json.dumps(asdict(attempt(door, Path(name)))), flush=True)
