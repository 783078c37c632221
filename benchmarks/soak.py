"""Many runs in one process, and what they leave behind.

    python benchmarks/soak.py [--runs 200] [--slices 50] [--edge 48]

Runs by turns into a run's folder, in memory, and slice by slice, of which every third
is left before its end. After a tenth of the runs (a warm-up) and in the end it counts
resident memory, threads, open files, and files of this process in the temporary
folder, and says by how much each has grown. Exit code 1 if memory has grown by more
than 2 % or anything else at all.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import tifffile

from napari_biomedparse.engine.engine import Engine
from napari_biomedparse.io import open_volume
from napari_biomedparse.networks.weights import load_model
from napari_biomedparse.pipeline.segment import iter_segment, segment
from napari_biomedparse.runs.blocks import trim_memory
from napari_biomedparse.runs.run import segment_to_folder

MOST_GROWTH = 0.02
PROMPTS = ["liver", "cell"]


def counts(folder: Path) -> dict[str, int]:
    """Count what this process holds."""
    gc.collect()
    trim_memory()
    me = psutil.Process()
    return {
        "memory (KiB)": me.memory_info().rss // 1024,
        "threads": me.num_threads(),
        "open files": me.num_fds() if hasattr(me, "num_fds") else me.num_handles(),
        "temporary files": sum(1 for _ in folder.rglob("*")),
    }


def runs_on(source: Path, out: Path) -> list[Callable[[int], None]]:
    """Return the kinds of runs, each a function of its number."""
    model = load_model("tiny")
    engine = Engine(model)
    grey = tifffile.imread(source)

    def to_folder(number: int) -> None:
        # Ten folders by turns: most runs replace another one.
        segment_to_folder(
            source,
            PROMPTS,
            out / f"run{number % 10}",
            model,
            instances=True,
            seed=number,
            overwrite=True,
        )

    def in_memory(number: int) -> None:
        segment(grey, [f"liver {number}", "cell"], engine, instances=True)

    def by_slices(number: int) -> None:
        parts = iter_segment(
            open_volume(source), PROMPTS, engine, batch_size=1 + number % 4
        )
        with contextlib.closing(parts):  # type: ignore[type-var]  # a generator
            for part in parts:
                if number % 3 == 0 and part.stop > len(grey) // 2:
                    break

    return [to_folder, in_memory, by_slices]


def main() -> int:
    """Run, count and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--slices", type=int, default=50)
    parser.add_argument("--edge", type=int, default=48)
    given = parser.parse_args()
    begun, done = time.monotonic(), 0
    with tempfile.TemporaryDirectory() as place:
        temporary = Path(place) / "tmp"
        temporary.mkdir()
        tempfile.tempdir = str(temporary)
        shape = (given.slices, given.edge, given.edge)
        grey = np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)
        source = Path(place) / "in.tif"
        tifffile.imwrite(source, grey, photometric="minisblack")
        kinds = runs_on(source, Path(place))
        first: dict[str, int] = {}
        now = counts(temporary)
        for number in range(given.runs):
            kinds[number % len(kinds)](number)
            done += given.slices
            if number + 1 == given.runs // 10:
                first = counts(temporary)
            if (number + 1) % max(1, given.runs // 10) == 0:
                now = counts(temporary)
                print(
                    f"{number + 1} runs, {done} slices, "
                    f"{time.monotonic() - begun:.0f} s: {now}",
                    flush=True,
                )
    grown = {key: (now[key] - first[key]) / max(1, first[key]) for key in now}
    told = ", ".join(f"{key} {value:+.1%}" for key, value in grown.items())
    print(f"Growth since the warm-up: {told}")
    memory = grown.pop("memory (KiB)")
    return int(memory > MOST_GROWTH or any(value > 0 for value in grown.values()))


if __name__ == "__main__":
    sys.exit(main())
