"""An image, its labels and what they are called: what can be learned from layers."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from magicgui.widgets import CheckBox, TextEdit
from napari.layers import Image, Labels
from qtpy.QtWidgets import QWidget

from napari_biomedparse.data.prompts import PromptSet, parse_prompts
from napari_biomedparse.errors import VolumeError
from napari_biomedparse.training.collect import add_to_training_set
from napari_biomedparse.viewer.layers import prompts_of_layer, volume_from_layer
from napari_biomedparse.widgets.shared.form import form_layout
from napari_biomedparse.widgets.shared.layer_choice import LayerChoice
from napari_biomedparse.widgets.training.reviewed import review_axis, reviewed_slices

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt
    from napari import Viewer

    from napari_biomedparse.data.volume import Volume

_NUMBERED = re.compile(r"\s*(\d+)\s*[:=]\s*(.*)")
_ROWS, _FRAME = 3, 24


@dataclass(frozen=True)
class Labelled:
    """A volume with its labels, as `add_to_training_set` takes them.

    Parameters
    ----------
    volume : Volume
    labels : integer ndarray [Z, Y, X]
    prompts : PromptSet
    reviewed : tuple of int, optional
        None for all slices.
    axis : int
        Along which reviewed slices are counted.
    """

    volume: Volume
    labels: npt.NDArray[np.integer[Any]]
    prompts: PromptSet
    reviewed: tuple[int, ...] | None
    axis: int

    def add_to(self, folder: Path) -> Path:
        """Write it into a training set."""
        return add_to_training_set(
            folder,
            self.volume,
            self.labels,
            self.prompts,
            reviewed=self.reviewed,
            axis=self.axis,
        )


class LabelledForm(QWidget):
    """Choose an image and its labels, and say what the label values are.

    Parameters
    ----------
    viewer : napari.Viewer
    """

    def __init__(self, viewer: Viewer) -> None:
        super().__init__()
        self._viewer = viewer
        self._prefilled = ""
        self.image = LayerChoice(
            viewer,
            Image,
            label="Image",
            tooltip="What the labels lie on; follows the layer you select.",
        )
        self.labels = LayerChoice(
            viewer,
            Labels,
            label="Labels",
            tooltip="What is right in the image; follows the layer you select.",
        )
        self.names = TextEdit(
            label="Names",
            tooltip="What each label value is, one a line, as a prompt that will be "
            "used: 1: nuclei in light-sheet microscopy. Filled in after a run.",
        )
        self.objects = CheckBox(
            label="Each label value is an object",
            tooltip="On: values tell objects of one kind apart; name that kind alone.",
        )
        edit = self.names.native
        edit.setPlaceholderText("1: nuclei in light-sheet microscopy")
        edit.setTabChangesFocus(True)
        edit.setFixedHeight(_ROWS * edit.fontMetrics().lineSpacing() + _FRAME)
        form_layout(self, [self.image, self.labels, self.names, self.objects])
        self.labels.changed.connect(self._on_labels_changed)
        self._on_labels_changed()

    def reset_choices(self, *_: Any) -> None:
        """Offer the layers there are now."""
        for box in (self.image, self.labels):
            box.reset_choices()
        self._on_labels_changed()

    def prompt_set(self) -> PromptSet:
        """Return what the label values are.

        Raises
        ------
        PromptError
            If there is no name, or one cannot be used as a prompt.
        """
        lines = [line for line in self.names.value.splitlines() if line.strip()]
        named = [_NUMBERED.fullmatch(line) for line in lines]
        if all(named):
            texts = {m[1]: m[2] for m in named if m}
            given = parse_prompts(dict(texts)) if texts else parse_prompts([])
        else:
            given = parse_prompts(lines)
        return replace(given, instance=bool(self.objects.value))

    def read(self, *, only_reviewed: bool) -> Labelled:
        """Return what there is to learn.

        Parameters
        ----------
        only_reviewed : bool
            Whether slices count only that were accepted.

        Raises
        ------
        VolumeError, PromptError
            If a layer or a name is missing, or they do not fit.
        """
        image, labels = self.image.value, self.labels.value
        if image is None or labels is None:
            raise VolumeError("Open an image and its labels first, and choose both.")
        prompts = self.prompt_set()
        volume = volume_from_layer(image, self._viewer.dims)
        values = np.asarray(labels.data[0] if labels.multiscale else labels.data)
        if values.ndim == 2 and volume.flat:
            values = values[None]
        axis, reviewed = 0, None
        if only_reviewed:
            axis = review_axis(labels) or 0
            reviewed = reviewed_slices(labels, axis)
        return Labelled(volume, values, prompts, reviewed, axis)

    def _on_labels_changed(self, *_: Any) -> None:
        """Fill in the names that came with the labels, unless others were typed."""
        layer = self.labels.value
        if layer is None or self.names.value.strip() not in ("", self._prefilled):
            return
        known = prompts_of_layer(layer)
        if known is not None:
            self._prefilled = "\n".join(f"{p.id}: {p.text}" for p in known.prompts)
            self.names.value = self._prefilled
            self.objects.value = known.instance
