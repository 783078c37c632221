"""Open napari, segment, close, again and again in one process, and see what grows.

Each round makes a viewer with the widget, runs it to the end on a small volume and
closes both. After the first rounds, which fill caches that are meant to be kept,
threads, open files, child processes, viewers, Qt windows and memory are counted, and
again after the last one. With --bare napari does without the widget: what grows then is
napari's own.

    xvfb-run -a -s "-screen 0 1280x720x24" python benchmarks/gui_soak.py --rounds 100
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
import threading
import time
from pathlib import Path

import napari
import numpy as np
import psutil
from qtpy.QtCore import QEventLoop, QTimer
from qtpy.QtWidgets import QApplication

from napari_biomedparse.widgets.segment.widget import SegmentWidget

PROMPTS = "nuclei in light-sheet microscopy\nvessels in light-sheet microscopy"
LIMIT = 0.05
"""Largest growth that is let pass, relative to the count after the warm-up."""


def play(model: str, voxels: np.ndarray) -> int:
    """Do one round and return how many voxels were labelled."""
    viewer = napari.Viewer()
    viewer.add_image(voxels)
    widget = SegmentWidget(viewer)
    viewer.window.add_dock_widget(widget)
    widget.form.model.choose(model)
    widget.form.device.value = "cpu"
    widget.form.prompts.value = PROMPTS
    widget.start()
    assert widget.run is not None
    loop = QEventLoop()
    widget.run.finished.connect(loop.quit)
    loop.exec()
    found = sum(int(np.count_nonzero(layer.data)) for layer in viewer.layers[1:])
    viewer.close()
    widget.session.close()
    pause(100)  # what was to be deleted later is deleted now
    return found


def pause(milliseconds: int) -> None:
    """Let Qt's loop run."""
    loop = QEventLoop()
    QTimer.singleShot(milliseconds, loop.quit)
    loop.exec()


def play_bare(model: str, voxels: np.ndarray) -> int:
    """Do a round as long as one of `play`, without anything of the plugin."""
    viewer = napari.Viewer()
    viewer.add_image(voxels)
    viewer.add_labels(np.zeros_like(voxels))
    pause(300)
    viewer.close()
    pause(100)
    return 0


def count() -> dict[str, float]:
    """Count what must not grow."""
    gc.collect()
    QApplication.processEvents()
    process = psutil.Process()
    return {
        "threads": threading.active_count(),
        "system threads": process.num_threads(),
        "open files": process.num_fds(),
        "child processes": len(process.children(recursive=True)),
        "viewers": sum(isinstance(thing, napari.Viewer) for thing in gc.get_objects()),
        "objects of ours": sum(
            "napari_biomedparse" in str(type(thing)) for thing in gc.get_objects()
        ),
        "windows": len(QApplication.topLevelWidgets()),
        "temporary files": len(list(Path(tempfile.gettempdir()).iterdir())),
        "memory, MiB": process.memory_info().rss / 2**20,
    }


def main() -> None:
    """Print the counts before and after, and exit with 1 if one grew too much."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--warm-up", type=int, default=10)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--bare", action="store_true")
    args = parser.parse_args()
    round_ = play_bare if args.bare else play
    voxels = np.random.default_rng(0).integers(0, 255, (4, 64, 64), dtype=np.uint8)
    began, first = time.monotonic(), {}
    for turn in range(args.warm_up + args.rounds):
        if turn == args.warm_up:
            first = count()
        round_(args.model, voxels)
        if turn % 10 == 9:
            now = {name: round(value) for name, value in count().items()}
            print(turn + 1, round(time.monotonic() - began), "s", now, flush=True)
    last = count()
    grown = []
    for name, before in first.items():
        growth = (last[name] - before) / max(before, 1)
        print(f"{name:16} {before:8.1f} -> {last[name]:8.1f}  {growth:+.1%}")
        if growth > LIMIT:
            grown.append(name)
    if grown:
        sys.exit(f"grew by more than {LIMIT:.0%}: {', '.join(grown)}")


if __name__ == "__main__":
    main()
