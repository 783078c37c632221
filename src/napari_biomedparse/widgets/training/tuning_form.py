"""The upper part of the Fine-tune widget: training data and options."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from magicgui.widgets import CheckBox, ComboBox
from qtpy.QtWidgets import QWidget

from napari_biomedparse.errors import OptionError, OutputError
from napari_biomedparse.networks.weights import is_small
from napari_biomedparse.process.messages import FinetuneRequest
from napari_biomedparse.training.options import FinetuneOptions
from napari_biomedparse.widgets.shared.fold import Fold
from napari_biomedparse.widgets.shared.form import (
    chosen_folder,
    device_field,
    folder_field,
    form_of,
    option_fields,
)
from napari_biomedparse.widgets.shared.parts import column
from napari_biomedparse.widgets.training.labelled import LabelledForm
from napari_biomedparse.widgets.weights.model_choice import ModelChoice
from napari_biomedparse.widgets.weights.weights_panel import WeightsPanel

if TYPE_CHECKING:
    from napari import Viewer

    from napari_biomedparse.widgets.training.labelled import Labelled

LAYERS, FOLDER = "layers", "a data folder"
RATES = {
    1e-5: "1e-5, as published",
    3e-5: "3e-5",
    1e-4: "1e-4",
    3e-4: "3e-4, for small networks",
    1e-3: "1e-3",
}
SMALL_RATE = 3e-4
"""Learning rate of small networks."""
ADVANCED = (
    "batch_size", "accumulate", "checkpointing", "validation", "patience", "rank",
    "augment", "turns", "seed",
)  # fmt: skip


class TuningForm(QWidget):
    """The form of a fine-tuning."""

    def __init__(self, viewer: Viewer) -> None:
        super().__init__()
        self.source = ComboBox(
            label="Learn from",
            choices=(LAYERS, FOLDER),
            tooltip="Train on an image and its labels in this window, or on a folder "
            "of files.",
        )
        self.layers = LabelledForm(viewer)
        self.reviewed = CheckBox(
            label="Accepted slices only",
            tooltip="Train only on slices that were accepted in Review labels.",
        )
        self.data = folder_field(
            "Data",
            "Folder with class_prompts.json and either the folders images and labels "
            "(or imgs and gts) with files of the same names, or files that hold both; "
            "or with the folders train and train_mask of the published layout of PNGs.",
        )
        self.model = ModelChoice()
        self.model.label = "Start from"
        self.weights = WeightsPanel(self.model)
        self.output = folder_field(
            "Result",
            "Folder for finetuned.safetensors, the log and the training data. The same "
            "folder with the same options resumes a training.",
        )
        self.options = option_fields(
            FinetuneOptions,
            ("epochs", "learning_rate", *ADVANCED),
            {"learning_rate": RATES},
        )
        self.rate = self.options["learning_rate"]
        self.device = device_field("Where the model is trained.")
        self._build()
        self.source.changed.connect(self._on_source_changed)
        self.model.changed.connect(self._on_model_changed)
        self._on_source_changed()
        self._on_model_changed()

    def reset_choices(self, *_: Any) -> None:
        """List the current layers."""
        self.layers.reset_choices()

    def learn_from_folder(self, folder: Path) -> None:
        """Select a data folder."""
        self.source.value, self.data.value = FOLDER, folder

    def request(self) -> tuple[Labelled | None, FinetuneRequest]:
        """Return the fine-tuning that the form describes, and layers for its data.

        Raises VolumeError, PromptError, OptionError, OutputError or CheckpointError if
        something is missing or invalid.
        """
        self.weights.require()
        output = chosen_folder(self.output)
        if output is None:
            raise OutputError("Choose a new or existing folder for the result.")
        layers, data = None, output / "data"
        if self.source.value == LAYERS:
            layers = self.layers.read(only_reviewed=bool(self.reviewed.value))
        else:
            chosen = chosen_folder(self.data)
            if chosen is None:
                raise OptionError("Choose the folder with the training data.")
            data = chosen
        values = {name: widget.value for name, widget in self.options.items()}
        return layers, FinetuneRequest(
            data=data,
            output=output,
            checkpoint=self.model.value,
            options=FinetuneOptions(**values),
            device=self.device.value,
        )

    def _build(self) -> None:
        self._from_layers, self._from_folder = QWidget(), form_of(self.data)
        column(self._from_layers, self.layers, self.reviewed.native)
        epochs = self.options["epochs"]
        rest = form_of(self.model, self.weights, self.output, epochs, self.rate)
        self.weights.update_state()
        advanced = form_of(*(self.options[name] for name in ADVANCED), self.device)
        parts = form_of(self.source), self._from_layers, self._from_folder, rest
        column(self, *parts, Fold("Advanced", advanced), advanced)

    def _on_source_changed(self, *_: Any) -> None:
        shown = self.source.value == LAYERS
        self._from_layers.setVisible(shown)
        self._from_folder.setVisible(not shown)

    def _on_model_changed(self, *_: Any) -> None:
        small = is_small(self.model.value)
        self.rate.value = SMALL_RATE if small else FinetuneOptions.learning_rate
