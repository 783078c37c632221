"""The choice of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from magicgui.widgets import ComboBox
from qtpy.QtWidgets import QFileDialog

from napari_biomedparse.networks.catalogue import available_models
from napari_biomedparse.networks.weights import SUFFIXES, default_model, is_fine_tuned

CAPTIONS = {
    "v2": "BiomedParse v2 (published, for volumes)",
    "v1": "BiomedParse v1 (published, for images)",
    "demo": "demo (small, built in)",
    "tiny": "tiny (random weights, for testing)",
}
FROM_FILE = "file…"


class ModelChoice(ComboBox):
    """The models known by name, and the files chosen so far."""

    def __init__(self) -> None:
        self._files: tuple[str, ...] = ()
        self._chosen = default_model()
        super().__init__(
            name="model",
            label="Model",
            value=self._chosen,
            choices=self._list,
            tooltip="Model to use. A file holds weights of BiomedParse or of your own "
            "fine-tuned model: .safetensors, .ckpt or .pt.",
        )
        self.changed.connect(self._on_changed)

    def choose(self, model: str) -> None:
        """Choose a model by name, or an existing weights file, which joins the list.

        Raises ValueError if there is none.
        """
        if model in available_models():
            self.value = model
        elif Path(model).is_file():
            self.choose_file(model)
        else:
            raise ValueError(f"There is no model {model!r}.")

    def recall(self, model: str) -> None:
        """Choose a model as `choose` does, but only offer a fine-tuned one.

        It was made for some images, and the next ones may be others.
        """
        if model not in available_models() and is_fine_tuned(model):
            self._offer(model)
        else:
            self.choose(model)

    def choose_file(self, path: str) -> None:
        """Add a weights file to the list and choose it."""
        self._offer(path)
        self.value = path

    def replace(self, model: str, by: str) -> None:
        """Choose another model, and offer this file no longer."""
        self.choose(by)
        self._files = tuple(file for file in self._files if file != model)
        self.reset_choices()

    def _offer(self, path: str) -> None:
        self._files = (*(file for file in self._files if file != path), path)
        self.reset_choices()

    def _list(self, _: Any) -> list[tuple[str, str]]:
        named = [(CAPTIONS.get(name, name), name) for name in available_models()]
        files = [(Path(file).name, file) for file in self._files]
        return [*named, *files, (FROM_FILE, FROM_FILE)]

    def _on_changed(self, value: str) -> None:
        if value != FROM_FILE:
            self._chosen = value
        elif not self.ask_for_file():
            self.value = self._chosen

    def ask_for_file(self, *_args: object) -> bool:
        """Open a dialog for a weights file; return whether one was chosen."""
        patterns = " ".join(f"*{suffix}" for suffix in SUFFIXES)
        path, _ = QFileDialog.getOpenFileName(
            self.native, "Choose model weights", filter=f"Weights ({patterns})"
        )
        if path:
            self.choose_file(path)
        return bool(path)
