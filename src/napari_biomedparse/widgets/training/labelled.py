"""An image, its labels and their names: training data from layers, and its use."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from magicgui.widgets import CheckBox, TextEdit
from napari.layers import Image, Labels
from qtpy.QtWidgets import QWidget

from napari_biomedparse.data.prompts import PromptSet, parse_prompts
from napari_biomedparse.errors import VolumeError
from napari_biomedparse.process.messages import Status
from napari_biomedparse.training.collect import add_to_training_set
from napari_biomedparse.viewer.layers import (
    prompts_of_layer,
    volume_from_layer,
    voxels_of_labels,
)
from napari_biomedparse.widgets.shared.form import LayerChoice, form_layout
from napari_biomedparse.widgets.shared.task import Task
from napari_biomedparse.widgets.training.review_strip import (
    review_axis,
    reviewed_slices,
    unlike,
)

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt
    from napari import Viewer

    from napari_biomedparse.data.volume import Volume
    from napari_biomedparse.process import RunHandle
    from napari_biomedparse.process.messages import Event
    from napari_biomedparse.widgets.shared.task import Step

_NUMBERED = re.compile(r"\s*(\d+)\s*[:=]\s*(.*)")
_ROWS, _FRAME = 3, 24


@dataclass(frozen=True)
class Labelled:
    """A volume with labels [Z, Y, X], as `add_to_training_set` takes them.

    `reviewed` are slices along `axis`; None for all slices.
    """

    volume: Volume
    labels: npt.NDArray[np.integer[Any]]
    prompts: PromptSet
    reviewed: tuple[int, ...] | None
    axis: int

    def add_to(self, folder: Path) -> Path:
        """Add it to a training set; return the path of the volume in it."""
        return add_to_training_set(
            folder,
            self.volume,
            self.labels,
            self.prompts,
            reviewed=self.reviewed,
            axis=self.axis,
        )


class LabelledForm(QWidget):
    """The choice of an image, its labels and the names of the label values."""

    def __init__(self, viewer: Viewer) -> None:
        super().__init__()
        self._viewer = viewer
        self._prefilled = ""
        self._filled_for: tuple[Labels, bool] | None = None
        self.image = LayerChoice(
            viewer,
            Image,
            label="Image",
            tooltip="The image of the labels. Follows the selected layer.",
        )
        self.labels = LayerChoice(
            viewer,
            Labels,
            label="Labels",
            tooltip="The correct labels. Follows the selected layer.",
        )
        self.names = TextEdit(
            label="Names",
            tooltip="The prompt of each label value, one per line, for example "
            "1: nuclei in light-sheet microscopy. Filled in after a run.",
        )
        self.objects = CheckBox(
            label="Each label value is an object",
            tooltip="On: the values are objects of one kind; enter the name of that "
            "kind only.",
        )
        edit = self.names.native
        edit.setPlaceholderText("1: nuclei in light-sheet microscopy")
        edit.setTabChangesFocus(True)
        edit.setFixedHeight(_ROWS * edit.fontMetrics().lineSpacing() + _FRAME)
        form_layout(self, [self.image, self.labels, self.names, self.objects])
        self.labels.changed.connect(self._on_labels_changed)
        self._on_labels_changed()

    def reset_choices(self, *_: Any) -> None:
        """List the current layers."""
        for box in (self.image, self.labels):
            box.reset_choices()
        self._on_labels_changed()

    def prompt_set(self) -> PromptSet:
        """Return the prompts of the label values.

        Raises PromptError if there is none, or one is not valid.
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
        """Return the training data: all slices, or only those that were accepted.

        Raises VolumeError or PromptError if something is missing or does not fit.
        """
        image, labels = self.image.value, self.labels.value
        if image is None or labels is None:
            raise VolumeError("Open an image and its labels, and choose both.")
        if self.names.value.strip():  # a run may have separated objects meanwhile
            self._on_labels_changed()
        prompts = self.prompt_set()
        volume = volume_from_layer(image, self._viewer.dims)
        values = voxels_of_labels(labels)
        if others := unlike(labels, prompts.instance):
            raise VolumeError(
                f"Slices {', '.join(map(str, others[:9]))} were accepted before "
                "Separate objects was switched. Switch back, or undo and accept anew."
            )
        axis, reviewed = 0, None
        if only_reviewed:
            axis = review_axis(labels) or 0
            reviewed = reviewed_slices(labels, axis)
        return Labelled(volume, values, prompts, reviewed, axis)

    def _on_labels_changed(self, *_: Any) -> None:
        """Fill in the names of the labels, unless the user typed others."""
        layer = self.labels.value
        if layer is None or self.names.value.strip() not in ("", self._prefilled):
            return
        known = prompts_of_layer(layer)
        if known is not None:
            self._prefilled = "\n".join(f"{p.id}: {p.text}" for p in known.prompts)
            self.names.value = self._prefilled
            if self._filled_for != (layer, known.instance):  # else the user's
                self._filled_for = layer, known.instance
                self.objects.value = known.instance


class Tuning(Task):
    """Fine-tuning in the model process; cancelled, it ends with the best weights.

    `layers`, if given, are written to `data` first.
    """

    def __init__(
        self, begin: Callable[[], RunHandle], layers: Labelled | None, data: Path
    ) -> None:
        super().__init__(begin)
        self._layers, self._data = layers, data

    def _follow_all(self) -> Iterator[Step]:
        if self._layers is not None:
            yield Status("Writing the layers as training data…")
            self._layers.add_to(self._data)
        yield from super()._follow_all()

    def _events(self, begin: Callable[[], RunHandle]) -> Iterator[Event]:
        """Yield a run's events to its end, which comes soon if this is cancelled."""
        with closing(begin()) as run:
            told = False
            for event in run.polled():
                if event is not None:
                    yield event
                if self.cancelled and not told:
                    run.cancel()
                    told = True
