"""Take the README's pictures of a real napari window while a volume is segmented.

    xvfb-run -a -s "-screen 0 1600x1000x24" python examples/readme_pictures.py
    ... readme_pictures.py --volume ct.npz --model weights.safetensors --slices 30 32

Without a volume the samples are segmented by the demo model. Pictures go to
``docs/images``: NAME_form.png before the run and NAME.png after it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import napari
from qtpy.QtWidgets import QApplication

PLUGIN, WIDGET = "napari-biomedparse", "Segment with text"
WINDOW = (1400, 900)


def wait(condition: Callable[[], bool], seconds: float) -> None:
    """Let the window live until something is so."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        QApplication.processEvents()
        time.sleep(0.01)


def take(viewer: napari.Viewer, path: Path) -> None:
    """Save what the window shows."""
    wait(lambda: False, 1.0)
    viewer.screenshot(str(path), canvas_only=False, flash=False)
    print(path)


def picture(args: argparse.Namespace, source: str, name: str) -> None:
    """Open, segment and save a picture before and after."""
    viewer = napari.Viewer()
    viewer.window.resize(*WINDOW)
    if args.volume:
        viewer.open(source, plugin=PLUGIN)
    else:
        viewer.open_sample(PLUGIN, source)
        viewer.layers[1].visible = False
    viewer.layers.selection.active = viewer.layers[0]
    _, widget = viewer.window.add_plugin_dock_widget(PLUGIN, WIDGET)
    widget.form.model.choose(args.model)
    if args.slices:
        widget.form.scope.choose(*args.slices)
        viewer.dims.set_current_step(0, sum(args.slices) // 2)
    wait(lambda: False, 0.5)
    viewer.reset_view()
    take(viewer, args.out / f"{name}_form.png")
    widget.start()
    wait(lambda: widget.run is None, args.timeout)
    take(viewer, args.out / f"{name}.png")
    viewer.close()


def main() -> None:
    """Read the arguments and take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--volume", type=Path)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--slices", type=int, nargs=2, metavar=("FIRST", "LAST"))
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    parser.add_argument("--timeout", type=float, default=600)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.volume:
        picture(args, str(args.volume), args.volume.stem)
        return
    for sample in ("em", "light-sheet"):
        picture(args, sample, f"demo_{sample}")


if __name__ == "__main__":
    main()
