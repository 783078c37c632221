"""Compare the speed of the widget in a real napari window with the command line's.

Both segment the same volume by turns, each in a fresh process, and time themselves
from the first finished slices to the last ones, so that starting up and loading the
model do not count. A timer in the Qt loop tells how long the GUI was blocked, and how
much processor time its thread took for that (which other programs do not lengthen). In
the window the model process is warm, as after a preview: from pressing Run to the first
labels that are drawn is told in seconds and in slice times; these are of the whole run,
whose slices may be computed side by side. With --preview the run goes on with the layer
of a preview, and its slice is remembered.

    xvfb-run -a -s "-screen 0 1600x1000x24" python benchmarks/gui_speed.py --model demo
    ... gui_speed.py --model weights.safetensors --slices 6 --way window
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from napari_biomedparse.widgets.segment.widget import SegmentWidget

PROMPTS = "mitochondria in electron microscopy\ncell membranes in electron microscopy"
TICK = 0.005
"""Seconds between two beats of the timer in the Qt loop."""


def volume(slices: int, size: int) -> np.ndarray:
    """Noise: what is in the image does not change how long it takes."""
    shape = (slices, size, size)
    return np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)


def pace(times: list[tuple[float, int]]) -> float:
    """Slices a second from the first to the last of (time, slices done)."""
    (began, first), (ended, last) = times[0], times[-1]
    return (last - first) / (ended - began)


def plain(args: argparse.Namespace) -> dict[str, float]:
    """Do what the command line does, without reading and writing files."""
    from napari_biomedparse.engine.engine import Engine
    from napari_biomedparse.networks.weights import load_model
    from napari_biomedparse.pipeline.loop import run_plan
    from napari_biomedparse.pipeline.plan import plan_run

    engine = Engine(load_model(args.model), args.device)
    data = volume(args.slices, args.size)
    plan = plan_run(data, PROMPTS, config=engine.model.config)
    times = [(time.monotonic(), part.stop) for part in run_plan(plan, engine)]
    return {"pace": pace(times)}


def window(args: argparse.Namespace) -> dict[str, float]:
    """Do what a user does: the widget, its process, a Labels layer that fills."""
    import napari
    from qtpy.QtCore import QTimer

    from napari_biomedparse.widgets.segment.live_labels import LiveLabels
    from napari_biomedparse.widgets.segment.live_run import LiveRun
    from napari_biomedparse.widgets.segment.widget import SegmentWidget

    times: list[tuple[float, int]] = []
    painted: list[float] = []
    drawn: list[float] = []
    shown, repaint = LiveRun._on_changed, LiveLabels.repaint

    def timed(run: LiveRun, step: object) -> None:
        times.append((time.monotonic(), step.done))  # type: ignore[attr-defined]
        shown(run, step)  # type: ignore[arg-type]

    def repainted(live: LiveLabels) -> None:
        if live._stale:
            painted.append(time.monotonic())
        repaint(live)

    LiveRun._on_changed = timed  # type: ignore[method-assign]
    LiveLabels.repaint = repainted  # type: ignore[method-assign]
    viewer = napari.Viewer()
    widget = SegmentWidget(viewer)
    viewer.window.add_dock_widget(widget)
    canvas = viewer.window._qt_viewer.canvas._scene_canvas
    canvas.events.draw.connect(lambda _: drawn.append(time.monotonic()))
    widget.form.model.choose(args.model)
    widget.form.device.value = args.device
    widget.form.prompts.value = PROMPTS
    viewer.add_image(255 - volume(2, args.size), name="to warm up")
    press_run(widget)
    viewer.layers.clear()
    viewer.add_image(volume(args.slices, args.size))
    if args.preview:
        show_preview(widget)
    times.clear()
    painted.clear()
    beats: list[tuple[float, float]] = []
    timer = QTimer()
    timer.timeout.connect(lambda: beats.append((time.monotonic(), time.thread_time())))
    timer.start(round(1000 * TICK))
    pressed = time.monotonic()
    press_run(widget)
    steady = np.diff([beat for beat in beats if beat[0] >= times[0][0]], axis=0)
    gaps, busy = steady[:, 0] - TICK, steady[:, 1]
    first = min(t for t in drawn if t >= painted[0]) - pressed
    slice_time = 1 / pace(times)
    widget.session.close()
    viewer.close()
    return {
        "pace": pace(times),
        "blocked_ms_median": 1000 * float(np.median(gaps)),
        "blocked_ms_99": 1000 * float(np.percentile(gaps, 99)),
        "blocked_ms_max": 1000 * float(gaps.max()),
        "busy_ms_99": 1000 * float(np.percentile(busy, 99)),
        "busy_ms_max": 1000 * float(busy.max()),
        "slice_s": slice_time,
        "first_labels_s": first,
        "first_labels_in_slices": first / slice_time,
    }


def press_run(widget: SegmentWidget) -> None:
    """Run to the end, in Qt's own loop: one of our own would take CPU time away."""
    from qtpy.QtCore import QEventLoop

    loop = QEventLoop()
    widget.start()
    assert widget.run is not None
    widget.run.finished.connect(loop.quit)
    loop.exec()


def show_preview(widget: SegmentWidget) -> None:
    """Show the slice in view, and let the window come to rest."""
    from qtpy.QtCore import QEventLoop, QTimer

    loop, look = QEventLoop(), QTimer()
    said = widget.view.status.text
    look.timeout.connect(lambda: said().startswith("Preview of") and loop.quit())
    widget.preview(True)
    look.start(50)
    loop.exec()
    QTimer.singleShot(1000, loop.quit)
    loop.exec()


def by_turns(args: argparse.Namespace) -> Iterator[tuple[str, dict[str, float]]]:
    """Run each way in processes of their own."""
    for _ in range(args.repeats):
        for way in ("plain", "window"):
            command = [sys.executable, __file__, *sys.argv[1:], "--way", way]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
            yield way, json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Print one line a run, and the ratio of the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--slices", type=int, default=120)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--preview", action="store_true")
    parser.add_argument("--way", choices=("plain", "window"))
    args = parser.parse_args()
    if args.way:
        print(json.dumps({"plain": plain, "window": window}[args.way](args)))
        return
    paces: dict[str, list[float]] = {"plain": [], "window": []}
    for way, result in by_turns(args):
        paces[way].append(result["pace"])
        print(way, {key: round(value, 2) for key, value in result.items()}, flush=True)
    middle = {way: statistics.median(values) for way, values in paces.items()}
    print(f"window / command line: {middle['window'] / middle['plain']:.3f}")


if __name__ == "__main__":
    main()
