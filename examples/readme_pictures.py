"""Take the README's pictures of a real napari window while a volume is segmented.

    xvfb-run -a -s "-screen 0 1600x1000x24" python examples/readme_pictures.py
    ... readme_pictures.py --volume ct.npz --model weights.safetensors --slices 30 32
    ... readme_pictures.py --states
    ... readme_pictures.py --animation

Without a volume the samples are segmented by the demo model. Pictures go to
``docs/images``: NAME_form.png before the run and NAME.png after it. With --states every
state of the widget is shown in a small window, for docs/widget.md: widget_STATE.png.
With --animation mitochondria are found in a blurred sample, and one corrected slice
changes the others: teach.gif.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import napari
import numpy as np
from napari._qt.dialogs.qt_notification import NapariQtNotification
from PIL import Image
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication, QDialog, QDockWidget, QListWidget, QPushButton
from scipy.ndimage import gaussian_filter, label

from napari_biomedparse.widgets.shared.docks import open_widget

PLUGIN, WIDGET = "napari-biomedparse", "Segment with text"
WINDOW, SMALL_WINDOW, ANIMATED_WINDOW = (1400, 900), (1280, 720), (1000, 540)
DOCK = 560
PAUSE = 0.1
PROMPT = "mitochondria in electron microscopy"
BLUR, WIDTH = 2.0, 800
CORRECTED, OTHERS = 12, (9, 15, 18)
REPEATS = 2
"""How often the sample is stacked, so that a run takes a while."""


def wait(condition: Callable[[], bool], seconds: float) -> None:
    """Let the window live until something is so."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        QApplication.processEvents()
        time.sleep(0.01)


def settle(pause: float) -> None:
    """Let the window draw, also on a busy machine, which does little in a second."""
    for _ in range(max(1, round(pause / PAUSE))):
        wait(lambda: False, PAUSE)
        QApplication.processEvents()


def take(viewer: napari.Viewer, path: Path, pause: float = 1.0) -> None:
    """Save what the window shows."""
    settle(pause)
    viewer.screenshot(str(path), canvas_only=False, flash=False)
    print(path, flush=True)


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
    widget = open_widget(viewer, WIDGET)
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


class Animation:
    """Finds mitochondria, corrects a slice, and shows what that gives elsewhere.

    Parameters
    ----------
    args : argparse.Namespace
        Of this script.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.frames: list[Image.Image] = []
        self.times: list[int] = []
        self.viewer = napari.Viewer()
        self.viewer.window.resize(*ANIMATED_WINDOW)
        self.image, self.truth = self.viewer.open_sample(PLUGIN, "em")
        self.truth.visible = False
        self.image.data = gaussian_filter(self.image.data, (0, BLUR, BLUR))
        self.viewer.layers.selection.active = self.image
        for dock in self.viewer.window._qt_window.findChildren(QDockWidget):
            if dock.objectName().startswith("layer "):
                dock.hide()
        self.widget = self.open(WIDGET)
        self.form = self.widget.form
        self.form.reset()
        self.form.model.choose(args.model)
        self.form.prompts.value = PROMPT
        self.go(CORRECTED)
        settle(2.0)
        self.viewer.reset_view()

    def take_all(self) -> None:
        """Take all frames, and write them."""
        self.add(1000)
        self.widget.view.run_button.click()
        self.finish()
        labels = self.viewer.layers[-1]
        review = self.open("Review labels")
        for at in (CORRECTED, *OTHERS, CORRECTED):
            self.go(at)
            self.add(400)
        self.correct(labels)
        review.accept_button.click()
        self.go(CORRECTED)
        self.finish()
        for at in (CORRECTED, *OTHERS):
            self.go(at)
            self.add(600)
        self.times[-1] = 1500
        self.save()
        self.viewer.close()

    def correct(self, labels: napari.layers.Labels) -> None:
        """Copy the true labels, one piece after the other, as if they were painted."""
        rows = self.truth.features
        (number,) = rows["index"][rows["prompt"] == PROMPT]
        truth = self.truth.data[CORRECTED] == number
        plane = labels.data[CORRECTED]
        pieces, count = label(truth | (plane > 0))
        for piece in np.array_split(np.arange(1, count + 1), 5):
            here = np.isin(pieces, piece)
            plane[here] = truth[here]
            labels.refresh()
            self.add(200)

    def open(self, name: str) -> Any:
        """Open a widget, as wide as it will need to be."""
        widget, window = open_widget(self.viewer, name), self.viewer.window._qt_window
        docks = [d for d in window.findChildren(QDockWidget) if d.isAncestorOf(widget)]
        window.resizeDocks(docks, [DOCK] * len(docks), Qt.Orientation.Horizontal)
        return widget

    def finish(self) -> None:
        """Wait until the run, or what follows from an accepted slice, is done."""
        wait(lambda: self.widget.run is None, self.args.timeout)

    def go(self, at: int) -> None:
        """Show a slice."""
        self.viewer.dims.set_current_step(0, at)

    def add(self, milliseconds: int) -> None:
        """Add what the window shows, for a while."""
        settle(1.0)
        shown = self.viewer.screenshot(canvas_only=False, flash=False)
        picture = Image.fromarray(shown[..., :3])
        height = round(WIDTH * picture.height / picture.width)
        self.frames.append(picture.resize((WIDTH, height), Image.Resampling.LANCZOS))
        self.times.append(milliseconds)

    def save(self) -> None:
        """Write the frames, with the same colors in all."""
        tall = Image.new("RGB", (WIDTH, sum(one.height for one in self.frames)))
        for number, one in enumerate(self.frames):
            tall.paste(one, (0, number * one.height))
        palette = tall.quantize(method=Image.Quantize.MAXCOVERAGE)
        first, *rest = (
            one.quantize(palette=palette, dither=Image.Dither.NONE)
            for one in self.frames
        )
        path = self.args.out / "teach.gif"
        first.save(path, save_all=True, append_images=rest, duration=self.times, loop=0)
        print(path, f"{sum(self.times) / 1000} s, {path.stat().st_size} bytes")


class States:
    """Brings the widget into one state after the other, and takes its pictures.

    Parameters
    ----------
    args : argparse.Namespace
        Of this script.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.viewer = napari.Viewer()
        self.viewer.window.resize(*SMALL_WINDOW)
        self.viewer.open_sample(PLUGIN, "em")
        self.viewer.layers[1].visible = False
        self.image = self.viewer.layers[0]
        self.image.data = np.concatenate([np.asarray(self.image.data)] * REPEATS)
        self.viewer.layers.selection.active = self.image
        self.widget = open_widget(self.viewer, WIDGET)
        self.form, self.view = self.widget.form, self.widget.view
        self.form.reset()
        self.form.model.choose(args.model)
        wait(lambda: False, 2.0)
        self.viewer.reset_view()

    def take_all(self) -> None:
        """Take all pictures."""
        self.before_a_run()
        self.during_a_run()
        self.after_a_run()
        self.other_runs()
        self.settings()
        self.viewer.close()

    def before_a_run(self) -> None:
        """Nothing done yet; no weights; a preview; what the network sees; an error."""
        self.take("idle")
        self.form.model.choose("v2")
        self.take("first_use")
        self.form.model.choose(self.args.model)
        self.view.probability_box.setChecked(True)
        self.widget.preview(True)
        self.until(lambda: self.view.status.text().startswith("Preview of"))
        self.take("preview")
        self.widget.preview(False)
        self.view.probability_box.setChecked(False)
        self.press("What the network sees")
        self.take("seen")
        self.press("What the network sees")
        self.press("Advanced")
        self.take("advanced")
        self.press("Advanced")
        prompts, self.form.prompts.value = self.form.prompts.value, ""
        self.widget.start()
        self.take("error", pause=0.5)
        self.form.prompts.value = prompts
        for note in self.viewer.window._qt_window.findChildren(NapariQtNotification):
            note.close()

    def during_a_run(self) -> None:
        """Time left; another run waits; cancelled."""
        self.widget.start()
        self.until(
            lambda: self.view.status.text().startswith("About") or not self.widget.run
        )
        self.take("running", pause=0.1)
        self.widget.start()
        self.take("queued", pause=0.1)
        while len(self.view.queue):
            self.view.queue.take()
        self.widget.cancel()
        self.until(lambda: self.widget.run is None)
        self.take("cancelled")

    def after_a_run(self) -> None:
        """Show the plot; on a light ground; another threshold; objects."""
        self.widget.resume()
        self.until(lambda: self.widget.run is None)
        self.take("finished")
        self.viewer.theme = "light"
        self.take("light")
        self.viewer.theme = "dark"
        self.form.set_option("existence_threshold", 0.9)
        self.apply()
        self.take("threshold")
        self.form.set_option("existence_threshold", 0.5)
        self.form.set_option("instances", True)
        self.apply()
        self.take("objects")
        self.form.set_option("instances", False)
        self.apply()

    def other_runs(self) -> None:
        """Within a rectangle; nothing found."""
        low, high = (np.array(self.image.data.shape[1:]) * part for part in (0.2, 0.7))
        corners = [low, (low[0], high[1]), high, (high[0], low[1])]
        at = self.viewer.dims.current_step[0]
        shapes = self.viewer.add_shapes(
            [np.insert(np.array(corners), 0, at, axis=1) * self.image.scale],
            name="region",
            units=self.image.units,
            face_color="transparent",
            edge_color="yellow",
            edge_width=2 * self.image.scale[-1],
        )
        self.viewer.layers.selection.active = self.image
        for layer in self.viewer.layers:
            layer.visible = layer in (self.image, shapes)
        self.form.region.value = shapes
        self.form.scope.choose(at - 3, at + 3)
        self.run()
        self.take("region")
        self.viewer.layers.remove(shapes)
        self.form.prompts.value = "liver in abdominal CT"
        self.form.set_option("modality", "ct")
        self.run()
        self.take("nothing_found")

    def settings(self) -> None:
        """Show the page of napari's Settings."""
        self.viewer.window._open_preferences_dialog()
        dialog = next(
            window
            for window in QApplication.topLevelWidgets()
            if isinstance(window, QDialog) and window.isVisible()
        )
        pages = dialog.findChild(QListWidget)
        (page,) = pages.findItems("BiomedParse", Qt.MatchFlag.MatchContains)
        pages.setCurrentItem(page)
        wait(lambda: False, 1.0)
        dialog.grab().save(str(self.args.out / "widget_settings.png"))
        dialog.close()

    def apply(self) -> None:
        """Wait until another threshold is that of the labels."""
        wait(lambda: self.widget.run is not None, 1.0)
        self.until(lambda: self.widget.run is None)

    def run(self) -> None:
        """Run to the end."""
        self.until(lambda: self.widget.run is None)
        self.widget.start()
        self.until(lambda: self.widget.run is None)
        wait(lambda: not self.view.doctor.isHidden(), 2)

    def press(self, title: str) -> None:
        """Press the button of something that is folded away."""
        buttons = self.widget.findChildren(QPushButton)
        next(button for button in buttons if title in button.text()).click()

    def until(self, condition: Callable[[], bool]) -> None:
        """Let the window live until something is so."""
        wait(condition, self.args.timeout)

    def take(self, state: str, pause: float = 3.0) -> None:
        """Save what the window shows."""
        take(self.viewer, self.args.out / f"widget_{state}.png", pause)


def main() -> None:
    """Read the arguments and take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--volume", type=Path)
    parser.add_argument("--states", action="store_true")
    parser.add_argument("--animation", action="store_true")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--slices", type=int, nargs=2, metavar=("FIRST", "LAST"))
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    parser.add_argument("--timeout", type=float, default=600)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.states:
        States(args).take_all()
        return
    if args.animation:
        Animation(args).take_all()
        return
    if args.volume:
        picture(args, str(args.volume), args.volume.stem)
        return
    for sample in ("em", "light-sheet"):
        picture(args, sample, f"demo_{sample}")


if __name__ == "__main__":
    main()
