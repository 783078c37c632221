"""Do what docs/tutorial.md says in a real napari window, and take its pictures.

    xvfb-run -a -s "-screen 0 1600x1000x24" python examples/tutorial_pictures.py

Pictures go to ``docs/images``, all other files of the tutorial to a folder of its own.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import napari
from qtpy.QtWidgets import QApplication, QFileDialog, QPushButton, QWidget

PLUGIN = "napari-biomedparse"
SLICE = 16
REVIEWED = range(4, 12)


class Tutorial:
    """A viewer in which the tutorial is done, step by step.

    Parameters
    ----------
    files, pictures : Path
        Folders for what the steps write, and for the pictures.
    epochs : int
        How long is learned.
    """

    def __init__(self, files: Path, pictures: Path, epochs: int) -> None:
        self.files, self.pictures, self.epochs = files, pictures, epochs
        self.viewer = napari.Viewer()
        self.viewer.window.resize(1400, 900)

    def segment(self) -> None:
        """Open the sample, run its prompts."""
        image, truth = self.viewer.open_sample(PLUGIN, "light-sheet")
        truth.visible = False
        self.viewer.layers.selection.active = image
        self.viewer.dims.set_current_step(0, SLICE)
        widget = self.open("Segment with text")
        widget.form.model.choose("demo")
        self.take("1_form")
        widget.view.run_button.click()
        self.wait(lambda: widget.run is None)
        self.take("2_segmented")
        self.close(widget)

    def compare(self) -> None:
        """Score the labels against the sample's truth."""
        widget = self.open("Compare labels")
        widget.labels.value = self.viewer.layers["light-sheet sample segmentation"]
        widget.truth.value = self.viewer.layers["light-sheet sample truth"]
        widget.button.click()
        self.wait(widget.button.isEnabled)
        self.take("3_compared")
        self.close(widget)

    def review(self) -> None:
        """Paint, accept slices, and add them to a training set."""
        widget = self.open("Review labels")
        layer = self.viewer.layers["light-sheet sample segmentation"]
        widget.form.image.value = self.viewer.layers["light-sheet sample"]
        widget.form.labels.value = layer
        for at in REVIEWED:
            self.viewer.dims.set_current_step(0, at)
            layer.data[at] = self.viewer.layers["light-sheet sample truth"].data[at]
            widget.accept_button.click()
        layer.refresh()
        widget.folder.value = self.files / "training set"
        widget.add_button.click()
        self.wait(widget.add_button.isEnabled)
        self.take("4_reviewed")
        widget.learn_button.click()
        self.close(widget)

    def learn(self) -> None:
        """Fine-tune the demo model with what was accepted, and use the result."""
        widget = self.open("Fine-tune a model")
        widget.form.model.choose("demo")
        widget.form.output.value = self.files / "tuned"
        widget.form.options["epochs"].value = self.epochs
        widget.start_button.click()
        self.wait(lambda: widget.tuning is None)
        self.take("5_learned")
        widget.use_button.click()
        segment = self.open("Segment with text")
        assert segment.form.model.value.endswith("finetuned.safetensors")
        self.close(segment)
        self.close(widget)

    def measure(self) -> None:
        """Measure the objects; save the table, the labels and a page."""
        layer = self.viewer.layers["light-sheet sample segmentation"]
        self.viewer.layers.selection.active = layer
        self.viewer.dims.set_current_step(0, SLICE)
        widget = self.open("Measure objects")
        widget.image.value = self.viewer.layers["light-sheet sample"]
        widget.report(str(self.files / "report.html"))
        self.wait(widget.report_button.isEnabled)
        widget.save(str(self.files / "labels.zarr"))
        self.wait(widget.save_button.isEnabled)
        widget.button.click()
        self.wait(widget.button.isEnabled)
        self.take("6_measured")
        table = next(
            dock
            for name, dock in self.viewer.window.dock_widgets.items()
            if "eatures table" in name
        )
        self.save_table(table, self.files / "objects.csv")

    def save_table(self, table: QWidget, path: Path) -> None:
        """Press napari's button below the table and answer its question."""
        ask, QFileDialog.getSaveFileName = (  # type: ignore[method-assign]
            QFileDialog.getSaveFileName,
            lambda *_, **__: (str(path), ""),
        )
        try:
            buttons = table.findChildren(QPushButton)
            next(b for b in buttons if "csv" in b.text().lower()).click()
        finally:
            QFileDialog.getSaveFileName = ask  # type: ignore[method-assign]

    def open(self, name: str) -> Any:
        """Open a widget of the plugin, or return the one that is open."""
        return self.viewer.window.add_plugin_dock_widget(PLUGIN, name)[1]

    def close(self, widget: QWidget) -> None:
        """Close a widget, so that the next one has room."""
        self.viewer.window.remove_dock_widget(widget)
        self.wait(lambda: False, 0.3)

    def take(self, name: str) -> None:
        """Save what the window shows."""
        self.wait(lambda: False, 1.0)
        path = self.pictures / f"tutorial_{name}.png"
        self.viewer.screenshot(str(path), canvas_only=False, flash=False)
        print(path)

    def wait(self, condition: Callable[[], bool], seconds: float = 600) -> None:
        """Let the window live until something is so."""
        end = time.monotonic() + seconds
        while not condition() and time.monotonic() < end:
            QApplication.processEvents()
            time.sleep(0.01)


def main() -> None:
    """Read the arguments and do all steps."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    parser.add_argument("--files", type=Path)
    parser.add_argument("--epochs", type=int, default=6)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    files = args.files or Path(tempfile.mkdtemp(prefix="biomedparse-tutorial-"))
    tutorial = Tutorial(files, args.out, args.epochs)
    tutorial.segment()
    tutorial.compare()
    tutorial.review()
    tutorial.learn()
    tutorial.measure()
    for path in sorted(files.iterdir()):
        print(path)
    tutorial.viewer.close()


if __name__ == "__main__":
    main()
