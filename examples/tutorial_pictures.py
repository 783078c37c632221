"""Do what docs/tutorial.md says in a real napari window, and take its pictures.

    xvfb-run -a -s "-screen 0 1600x1000x24" python examples/tutorial_pictures.py
    ... tutorial_pictures.py --volume cells.tif --truth masks.tif --name cells
        --prompts "nuclei in light-sheet microscopy" --objects
    ... tutorial_pictures.py --teach
    ... tutorial_pictures.py --photograph biomedparse_v1.pt --volume ct.npz

Pictures go to ``docs/images``, all other files of the tutorial to a folder of its own.
With a volume of your own and its true labels, it is opened, segmented, compared and
measured, and the scores are printed. With --teach only the chapter about teaching is
done, with its commands. With weights of BiomedParse v1, pictures are taken of its form
for a photograph and a volume, before there are results.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import napari
import numpy as np
from napari._app_model import get_app_model
from qtpy.QtWidgets import QApplication, QPushButton, QWidget

from napari_biomedparse.samples import sample_light_sheet
from napari_biomedparse.widgets.shared.docks import docked, open_widget

PLUGIN = "napari-biomedparse"
SLICE = 16
REVIEWED = range(4, 12)
CORRECTED = 12
LARGE = 200  # voxels of a nucleus
DOCS = Path(__file__).parents[1] / "docs"


class Tutorial:
    """A viewer in which the tutorial is done, step by step.

    Parameters
    ----------
    files, pictures : Path
        Folders for what the steps write, and for the pictures.
    epochs : int
        How long is learned.
    name : str
        How the pictures' names begin.
    """

    def __init__(self, files: Path, pictures: Path, epochs: int, name: str) -> None:
        self.files, self.pictures, self.epochs = files, pictures, epochs
        self.name = name
        self.viewer = napari.Viewer()
        self.viewer.window.resize(1400, 900)

    def open_sample(self) -> None:
        """Open the sample."""
        self.image, self.truth = self.viewer.open_sample(PLUGIN, "light-sheet")

    def open_files(self, volume: Path, truth: Path) -> None:
        """Open an image and its true labels, which a TIFF does not tell from images."""
        (self.image,) = self.viewer.open(volume, plugin=PLUGIN)
        (layer,) = self.viewer.open(truth, plugin=PLUGIN)
        if isinstance(layer, napari.layers.Image):
            self.viewer.layers.selection.active = layer
            commands = get_app_model().commands
            commands.execute_command("napari.layer.convert_to_labels").result()
        self.truth = self.viewer.layers[-1]

    def segment(self, prompts: str = "", *, objects: bool = False) -> None:
        """Run prompts, or those of the file."""
        self.truth.visible = False
        self.viewer.layers.selection.active = self.image
        self.look()
        widget = self.open("Segment with text")
        widget.form.model.choose("demo")
        if prompts:
            widget.form.prompts.value = prompts
        widget.form.instances.value = objects
        self.take("1_form")
        widget.view.run_button.click()
        self.labels = self.viewer.layers[-1]
        self.wait(lambda: widget.run is None)
        self.take("2_segmented")
        print(widget.view.status.text())

    def compare(self) -> None:
        """Score the labels against the truth."""
        widget = self.open("Compare labels")
        widget.labels.value = self.labels
        widget.truth.value = self.truth
        widget.button.click()
        self.wait(widget.button.isEnabled)
        self.take("3_compared")
        widget.copy()
        print(QApplication.clipboard().text())
        self.close(widget)

    def review(self) -> None:
        """Paint, accept slices, and add them to a training set."""
        widget = self.open("Review labels")
        layer = self.labels
        widget.form.image.value = self.image
        widget.form.labels.value = layer
        for at in REVIEWED:
            self.viewer.dims.set_current_step(0, at)
            layer.data[at] = self.truth.data[at]
            widget.accept_button.click()
            if at == REVIEWED[0]:
                segment = docked(self.viewer, "Segment with text")
                self.wait(lambda: segment.run is None)  # noqa: B023
                self.take("4_taught")
                widget.learning.learn_box.setChecked(False)
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
        self.viewer.layers.selection.active = self.labels
        self.look()
        widget = self.open("Measure objects")
        widget.image.value = self.image
        widget.report(str(self.files / "report.html"))
        self.wait(widget.report_button.isEnabled)
        widget.save(str(self.files / "labels.zarr"))
        self.wait(widget.save_button.isEnabled)
        widget.button.click()
        self.wait(widget.button.isEnabled)
        self.take("6_measured")
        widget.save_table(str(self.files / "objects.csv"))
        self.wait(widget.save_button.isEnabled)

    def teach(self) -> None:
        """Correct two slices of blurred mitochondria, and save what they taught."""
        make, use = commands("## Teach: correct one slice, watch the others")
        self.call(make)
        self.viewer.layers.clear()
        self.image, self.truth = self.viewer.open(
            self.files / "stack.npz", plugin=PLUGIN
        )
        self.viewer.reset_view()
        segment = self.run()
        widget = self.open("Review labels")
        widget.learning.learn_box.setChecked(True)
        self.viewer.dims.set_current_step(0, CORRECTED)
        for _ in range(2):
            at = self.viewer.dims.current_step[0]
            self.labels.data[at] = self.truth.data[at]
            widget.accept_button.click()
            self.wait(lambda: segment.run is None)
            print(at, widget.learning.lessons.text(), widget.learning.next_text.text())
        self.viewer.reset_view()
        self.take("7_taught")
        segment.save_taught(str(self.files / "mitochondria.taught.safetensors"))
        self.close(widget)
        self.split()
        self.call(use)

    def split(self) -> None:
        """Split two touching nuclei by two clicks."""
        self.viewer.layers.clear()
        self.open_sample()
        self.viewer.reset_view()
        segment = self.run(objects=True)
        self.close(segment)
        widget = self.open("Proofread objects")
        nuclei = sample_light_sheet().objects["nuclei"]
        places = touching(np.asarray(self.labels.data), nuclei)
        middle = np.mean(places, axis=0)
        self.viewer.dims.set_current_step(0, int(middle[0]))
        self.viewer.scene.camera.zoom *= 2
        self.viewer.scene.camera.center = self.labels.data_to_world(middle)
        widget.tools["Split"].click()
        for place in places:
            widget.click(place)
            print(place, widget.status.text())
        self.take("8_split", pause=3)
        first, second = (self.labels.data[place] for place in places)
        assert first != second
        self.close(widget)

    def run(self, *, objects: bool = False) -> Any:
        """Run the prompts of the image with the demo model."""
        self.truth.visible = False
        self.viewer.layers.selection.active = self.image
        widget = self.open("Segment with text")
        widget.form.model.choose("demo")
        widget.form.instances.value = objects
        widget.view.run_button.click()
        self.labels = self.viewer.layers[-1]
        self.wait(lambda: widget.run is None)
        print(widget.view.status.text())
        return widget

    def call(self, command: str) -> None:
        """Run a command of the tutorial in the folder of files."""
        print(f"$ {command}", flush=True)
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        subprocess.run(
            command,
            shell=True,
            check=True,
            cwd=self.files,
            env=os.environ | {"PATH": path},
        )

    def photograph(self, weights: Path, volume: Path | None) -> None:
        """Show the form of v1 for a photograph and a volume, and a recognition."""
        widget = self.open("Segment with text")
        widget.form.reset()
        widget.form.model.choose(str(weights))
        self.show_alone(lambda: self.viewer.open_sample(PLUGIN, "fundus"))
        buttons = widget.findChildren(QPushButton)
        sees = next(one for one in buttons if "What the network sees" in one.text())
        sees.click()
        self.take("1_form")
        sees.click()
        if volume is not None:
            self.show_alone(lambda: self.viewer.open(volume, plugin=PLUGIN))
            self.look()
            widget.form.recognition.kind.value = "CT-Abdomen"
            self.take("2_volume")
        self.show_alone(lambda: self.viewer.open_sample(PLUGIN, "pathology"))
        widget.form.recognition.kind.value = "Pathology"
        widget.form.recognition.button.native.click()
        self.wait(lambda: "left" in widget.view.status.text() or not widget.run)
        self.take("3_recognise", pause=0.1)
        widget.cancel()
        self.wait(lambda: widget.run is None)

    def show_alone(self, add: Callable[[], Any]) -> None:
        """Show an image and nothing else."""
        self.viewer.layers.clear()
        self.image = add()[0]
        self.wait(lambda: False, 1.0)
        self.viewer.reset_view()

    def look(self) -> None:
        """Go to a slice that is worth a picture."""
        self.viewer.dims.set_current_step(0, min(SLICE, self.image.data.shape[0] // 2))

    def open(self, name: str) -> Any:
        """Open a widget of the plugin, or return the one that is open."""
        return open_widget(self.viewer, name)

    def close(self, widget: QWidget) -> None:
        """Close a widget, so that the next one has room."""
        self.viewer.window.remove_dock_widget(widget)
        self.wait(lambda: False, 0.3)

    def take(self, name: str, pause: float = 1.0) -> None:
        """Save what the window shows."""
        self.wait(lambda: False, pause)
        path = self.pictures / f"{self.name}_{name}.png"
        self.viewer.screenshot(str(path), canvas_only=False, flash=False)
        print(path)

    def wait(self, condition: Callable[[], bool], seconds: float = 600) -> None:
        """Let the window live until something is so."""
        end = time.monotonic() + seconds
        while not condition() and time.monotonic() < end:
            QApplication.processEvents()
            time.sleep(0.01)


def commands(heading: str) -> list[str]:
    """Return the blocks of commands of a chapter of the tutorial."""
    chapter = (DOCS / "tutorial.md").read_text("utf-8").partition(heading)[2]
    blocks = chapter.partition("\n## ")[0].split("```bash\n")[1:]
    return [block.partition("```")[0] for block in blocks]


def touching(labels: Any, nuclei: Any) -> list[tuple[int, ...]]:
    """Return the middles [z, y, x] of two nuclei that are one object of the labels."""
    for number in range(1, labels.max() + 1):
        here = nuclei[labels == number]
        sizes = np.bincount(here[here > 0], minlength=1)
        large = np.flatnonzero(sizes > LARGE)
        if len(large) == 2:
            return [_middle((labels == number) & (nuclei == one)) for one in large]
    raise SystemExit("All nuclei are separate.")


def _middle(mask: Any) -> tuple[int, ...]:
    z = int(mask.sum(axis=(1, 2)).argmax())
    return z, *np.argwhere(mask[z]).mean(axis=0).round().astype(int).tolist()


def main() -> None:
    """Read the arguments and do all steps."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    parser.add_argument("--files", type=Path)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--teach", action="store_true")
    parser.add_argument("--photograph", type=Path, metavar="WEIGHTS")
    parser.add_argument("--volume", type=Path)
    parser.add_argument("--truth", type=Path)
    parser.add_argument("--prompts", nargs="+", default=[])
    parser.add_argument("--objects", action="store_true")
    parser.add_argument("--name", default="tutorial")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    files = args.files or Path(tempfile.mkdtemp(prefix="biomedparse-tutorial-"))
    tutorial = Tutorial(files, args.out, args.epochs, args.name)
    if args.photograph:
        tutorial.photograph(args.photograph, args.volume)
        tutorial.viewer.close()
        return
    if args.teach:
        tutorial.teach()
        tutorial.viewer.close()
        return
    if args.volume:
        tutorial.open_files(args.volume, args.truth)
    else:
        tutorial.open_sample()
    tutorial.segment("\n".join(args.prompts), objects=args.objects)
    tutorial.compare()
    if not args.volume:
        tutorial.review()
        tutorial.learn()
    tutorial.measure()
    if not args.volume:
        tutorial.teach()
    for path in sorted(files.iterdir()):
        print(path)
    tutorial.viewer.close()


if __name__ == "__main__":
    main()
