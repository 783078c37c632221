"""How long a user waits: import, the widget, loading a model, the first labelled slice.

    xvfb-run -a -s "-screen 0 1280x720x24" python benchmarks/startup.py
    python benchmarks/startup.py --only import load --model synthetic_v2.safetensors

Each figure is the median of processes of their own. ``import``: the package, above
what Python itself takes. ``load``: a model onto the device, and the peak of memory
above that of the imports, beside the size of its weights. ``window``: from asking for
the widget, in a napari that is open, until it is drawn; then from pressing its button
until the first labels are in the layer, with the model's process not yet started (cold)
and with it there (warm). CPU-seconds stand beside those of the clock, for machines that
others use too; the model's process is not among them.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PARTS = ("import", "load", "window")


class Watch:
    """Seconds by the clock and of the CPU, since it was made."""

    def __init__(self) -> None:
        self._began = time.perf_counter(), time.process_time()

    def read(self, name: str) -> dict[str, float]:
        """Return both under a name."""
        return {
            f"{name}_seconds": time.perf_counter() - self._began[0],
            f"{name}_cpu_seconds": time.process_time() - self._began[1],
        }


def measure_import(args: argparse.Namespace) -> dict[str, Any]:
    """Import the package."""
    watch = Watch()
    import napari_biomedparse

    assert napari_biomedparse.__all__
    return watch.read("import") | {"torch_imported": "torch" in sys.modules}


def measure_load(args: argparse.Namespace) -> dict[str, Any]:
    """Load a model, and copy it to the device."""
    from napari_biomedparse.engine.engine import Engine
    from napari_biomedparse.networks import checkpoint
    from napari_biomedparse.networks.weights import load_model

    assert checkpoint.read_checkpoint  # what loading would import
    load_model("tiny")
    before = _peak()
    watch = Watch()
    engine = Engine(load_model(args.model), args.device, precision=args.precision)
    found = watch.read("load")
    touched = sum(float(x.sum()) for x in engine._network.parameters())  # maps pages in
    assert touched == touched
    weights = sum(x.nbytes for x in engine._network.parameters())
    return found | {
        "precision": engine.precision,
        "weights_mib": weights / 2**20,
        "peak_above_imports_mib": _peak() - before,
    }


def measure_window(args: argparse.Namespace) -> dict[str, Any]:
    """Open the widget and press its button, twice."""
    import napari
    import numpy as np
    from qtpy.QtCore import QEventLoop
    from qtpy.QtWidgets import QApplication

    viewer = napari.Viewer()
    size = (8, args.size, args.size)
    viewer.add_image(np.random.default_rng(0).integers(0, 255, size, dtype=np.uint8))
    QApplication.processEvents()
    watch = Watch()
    from napari_biomedparse.widgets.segment.live_run import LiveRun
    from napari_biomedparse.widgets.segment.widget import SegmentWidget

    widget = SegmentWidget(viewer)
    viewer.window.add_dock_widget(widget)
    QApplication.processEvents()
    found = watch.read("widget")
    widget.form.model.choose(args.model)
    widget.form.prompts.value = "mitochondria in electron microscopy"
    shown, first = LiveRun._on_changed, QEventLoop()

    def timed(run: LiveRun, step: Any) -> None:
        shown(run, step)
        first.quit()

    LiveRun._on_changed = timed  # type: ignore[method-assign]
    for name in ("cold", "warm"):
        watch = Watch()
        widget.start()
        first.exec()
        QApplication.processEvents()
        found |= watch.read(f"first_labels_{name}")
        if widget.run is not None:  # it may be over by now
            done = QEventLoop()
            widget.run.finished.connect(done.quit)
            done.exec()
    widget.session.close()
    viewer.close()
    return found


def _peak() -> float:
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def main() -> None:
    """Print a line for each figure, and write JSON if asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--inner", choices=PARTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inner:
        measures = dict(
            zip(PARTS, (measure_import, measure_load, measure_window), strict=True)
        )
        print(json.dumps(measures[args.inner](args)))
        sys.stdout.flush()
        os._exit(0)  # napari takes its time to end
    result: dict[str, Any] = {}
    for part in args.only:
        runs: list[dict[str, Any]] = []
        for _ in range(args.repeats):
            command = [sys.executable, __file__, *sys.argv[1:], "--inner", part]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
            runs.append(json.loads(done.stdout.splitlines()[-1]))
        for key, value in runs[0].items():
            number = isinstance(value, float)
            middle = statistics.median(run[key] for run in runs) if number else value
            result[key] = middle
            print(f"{key:30} {f'{middle:.3f}' if number else middle}", flush=True)
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
