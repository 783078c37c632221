"""What to learn from, and how: the upper part of the Fine-tune widget."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magicgui.types import FileDialogMode
from magicgui.widgets import CheckBox, ComboBox, FileEdit
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_biomedparse.errors import OptionError, OutputError
from napari_biomedparse.training.options import FinetuneOptions
from napari_biomedparse.widgets.shared.fold import fold
from napari_biomedparse.widgets.shared.form import form_layout, option_fields
from napari_biomedparse.widgets.training.labelled import LabelledForm
from napari_biomedparse.widgets.weights.model_choice import ModelChoice
from napari_biomedparse.widgets.weights.weights_panel import WeightsPanel

if TYPE_CHECKING:
    from napari import Viewer

    from napari_biomedparse.widgets.training.labelled import Labelled

LAYERS, FOLDER = "layers", "a data folder"
DEVICES = ("auto", "cpu", "cuda", "mps")
RATES = {
    1e-5: "1e-5, as published",
    3e-5: "3e-5",
    1e-4: "1e-4",
    3e-4: "3e-4, for small networks",
    1e-3: "1e-3",
}
SMALL, SMALL_RATE, SMALL_BYTES = ("demo", "tiny"), 3e-4, 2**26
"""Small networks are these, and what weights files of so many bytes at most hold."""
ADVANCED = (
    "batch_size", "accumulate", "checkpointing", "validation", "patience", "rank",
    "augment", "seed",
)  # fmt: skip


@dataclass(frozen=True)
class TuningRequest:
    """A fine-tuning that the form describes.

    Parameters
    ----------
    layers : Labelled, optional
        What is to be written to `data` first.
    data, output : Path
    checkpoint : str
    options : FinetuneOptions
    device : str
    """

    layers: Labelled | None
    data: Path
    output: Path
    checkpoint: str
    options: FinetuneOptions
    device: str


class TuningForm(QWidget):
    """The form of a fine-tuning.

    Parameters
    ----------
    viewer : napari.Viewer
    """

    def __init__(self, viewer: Viewer) -> None:
        super().__init__()
        self.source = ComboBox(
            label="Learn from",
            choices=(LAYERS, FOLDER),
            tooltip="An image and its labels in this window, or a folder of files.",
        )
        self.layers = LabelledForm(viewer)
        self.reviewed = CheckBox(
            label="Only slices that were accepted",
            tooltip="Learn from slices only that were accepted with Review labels.",
        )
        self.data = FileEdit(
            label="Data",
            mode=FileDialogMode.EXISTING_DIRECTORY,
            nullable=True,
            value=None,
            tooltip="Folder with images and labels (or imgs and gts) of the same "
            "names, or files that hold both, and class_prompts.json.",
        )
        self.model = ModelChoice()
        self.model.label = "Start from"
        self.weights = WeightsPanel(self.model)
        self.output = FileEdit(
            label="Result",
            mode=FileDialogMode.EXISTING_DIRECTORY,
            nullable=True,
            value=None,
            tooltip="Folder for finetuned.safetensors, the log and the training data. "
            "The same settings and folder go on where a training was.",
        )
        self.options = option_fields(FinetuneOptions, ("epochs", *ADVANCED))
        rate = next(f for f in fields(FinetuneOptions) if f.name == "learning_rate")
        self.rate = ComboBox(
            label=rate.metadata["label"],
            choices=[(caption, value) for value, caption in RATES.items()],
            tooltip=rate.metadata["help"],
        )
        self.device = ComboBox(
            label="Device",
            choices=DEVICES,
            tooltip="Where the network learns; auto takes the fastest there is.",
        )
        self._build()
        self.source.changed.connect(self._on_source_changed)
        self.model.changed.connect(self._on_model_changed)
        self._on_source_changed()
        self._on_model_changed()

    def reset_choices(self, *_: Any) -> None:
        """Offer the layers there are now."""
        self.layers.reset_choices()

    def learn_from_folder(self, folder: Path) -> None:
        """Choose a data folder."""
        self.source.value, self.data.value = FOLDER, folder

    def request(self) -> TuningRequest:
        """Return the fine-tuning that the form describes.

        Raises
        ------
        VolumeError, PromptError, OptionError, OutputError, CheckpointError
            If something is missing or does not fit.
        """
        self.weights.require()
        output = _folder(self.output)
        if output is None:
            raise OutputError("Choose a folder for the result, which may be a new one.")
        layers, data = None, output / "data"
        if self.source.value == LAYERS:
            layers = self.layers.read(only_reviewed=bool(self.reviewed.value))
        else:
            chosen = _folder(self.data)
            if chosen is None:
                raise OptionError("Choose the folder with the training data.")
            data = chosen
        values = {name: widget.value for name, widget in self.options.items()}
        return TuningRequest(
            layers,
            data,
            output,
            self.model.value,
            FinetuneOptions(learning_rate=self.rate.value, **values),
            self.device.value,
        )

    def _build(self) -> None:
        self._from_layers, self._from_folder = QWidget(), QWidget()
        below = QVBoxLayout(self._from_layers)
        below.setContentsMargins(0, 0, 0, 0)
        below.addWidget(self.layers)
        below.addWidget(self.reviewed.native)
        form_layout(self._from_folder, [self.data])
        top, rest, advanced = QWidget(), QWidget(), QWidget()
        form_layout(top, [self.source])
        fields = form_layout(
            rest, [self.model, self.output, self.options["epochs"], self.rate]
        )
        fields.insertRow(1, self.weights)
        self.weights.update_state()
        form_layout(advanced, [*(self.options[n] for n in ADVANCED), self.device])
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for part in (
            top,
            self._from_layers,
            self._from_folder,
            rest,
            fold("Advanced", advanced),
            advanced,
        ):
            layout.addWidget(part)

    def _on_source_changed(self, *_: Any) -> None:
        shown = self.source.value == LAYERS
        self._from_layers.setVisible(shown)
        self._from_folder.setVisible(not shown)

    def _on_model_changed(self, *_: Any) -> None:
        small = _is_small(self.model.value)
        self.rate.value = SMALL_RATE if small else FinetuneOptions.learning_rate


def _is_small(model: str) -> bool:
    """Tell what a network of a name, or in a file, is without reading it."""
    path = Path(model)
    return model in SMALL or (path.is_file() and path.stat().st_size <= SMALL_BYTES)


def _folder(field: FileEdit) -> Path | None:
    value = field.value
    return value if isinstance(value, Path) and value != Path() else None
