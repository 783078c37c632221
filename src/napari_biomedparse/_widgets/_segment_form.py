"""What to segment, and how: the upper part of the Segment widget."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magicgui.types import FileDialogMode
from magicgui.widgets import CheckBox, ComboBox, FileEdit, LineEdit, TextEdit
from napari.layers import Image
from qtpy.QtWidgets import QWidget

from napari_biomedparse._napari import (
    prompts_of_layer,
    shown_position,
    volume_from_layer,
)
from napari_biomedparse._widgets._form import form_layout, option_fields, show_row
from napari_biomedparse._widgets._model_choice import ModelChoice
from napari_biomedparse._widgets._request import Request
from napari_biomedparse._widgets._scope import SliceScope
from napari_biomedparse._widgets._stack_choice import StackChoice
from napari_biomedparse._widgets._suggestions import PromptLine
from napari_biomedparse._widgets._tiles import TileChoice
from napari_biomedparse.errors import OptionError, VolumeError
from napari_biomedparse.intensity import MODALITIES
from napari_biomedparse.options import SegmentOptions
from napari_biomedparse.preprocess import choose_axis
from napari_biomedparse.prompts import PromptSet, parse_prompts

if TYPE_CHECKING:
    from napari import Viewer
    from napari.utils.events import Event

    from napari_biomedparse.volume import Volume

PLACEHOLDER = """one per line, for example
mitochondria in electron microscopy
nuclei in light-sheet microscopy"""
DEVICES = ("auto", "cpu", "cuda", "mps")
CAPTIONS: dict[str, dict[Any, str]] = {
    "modality": {
        **{key: modality.label for key, modality in MODALITIES.items()},
        "auto": "automatic",
    },
}
ADVANCED = ("axis", "existence_threshold", "overlap_threshold", "batch_size", "seed")
_ROWS = 5
_FRAME = 24
"""Pixels of the prompt box that are not text."""


class SegmentForm(QWidget):
    """The form of a run; `advanced` and `large` are parts to be shown on demand.

    Parameters
    ----------
    viewer : napari.Viewer
        Its Image layers are offered; the one the user selects is chosen.
    """

    def __init__(self, viewer: Viewer) -> None:
        super().__init__()
        self._viewer = viewer
        self._prefilled = ""
        self._known: PromptSet | None = None
        main = option_fields(SegmentOptions, ("modality", "instances"), CAPTIONS)
        advanced = option_fields(SegmentOptions, ADVANCED, CAPTIONS)
        self._options = {**main, **advanced}
        self.image = ComboBox(
            name="image",
            label="Image",
            choices=self._images,
            nullable=False,
            tooltip="The volume to segment; follows the layer you select.",
        )
        self.prompts = TextEdit(
            name="prompts",
            label="Prompts",
            tooltip="What to find, one thing a line. Name the structure, and where and "
            "how it was imaged. Prompts that come with a file are filled in.",
        )
        self.model = ModelChoice()
        self.device = ComboBox(
            name="device",
            label="Device",
            choices=DEVICES,
            tooltip="Where the network runs; auto takes the fastest there is.",
        )
        self.scope = SliceScope()
        self.stack = StackChoice()
        self.tiles = TileChoice()
        self.consensus = CheckBox(
            name="consensus",
            label="Consensus of three axes",
            tooltip="Run along z, y and x and let each voxel have the label that two "
            "of the three runs agree on, else that of z. For isotropic volumes; takes "
            "three times as long.",
        )
        self.instances = main["instances"]
        self._layout = form_layout(
            self,
            [
                self.image,
                self.stack.channel,
                self.stack.time,
                main["modality"],
                self.prompts,
                self.model,
                self.device,
                self.scope,
                self.instances,
            ],
        )
        self.prompt_line = PromptLine()
        below = self._layout.getWidgetPosition(self.prompts.native)[0] + 1
        self._layout.insertRow(below, "", self.prompt_line)
        self.advanced = QWidget()
        axis, *others = advanced.values()
        form_layout(self.advanced, [axis, self.consensus, self.tiles, *others])
        self.folder = FileEdit(
            name="folder",
            label="Run folder",
            mode=FileDialogMode.EXISTING_DIRECTORY,
            nullable=True,
            value=None,
            tooltip="For volumes of any size: labels go to an OME-Zarr in this folder "
            "as they come, and the layer shows it. After Cancel, a crash or a closed "
            "window, the same folder and Run go on where it was. Empty: labels stay "
            "in memory.",
        )
        self.scheduler = LineEdit(
            name="scheduler",
            label="Scheduler",
            tooltip="Address of a dask.distributed scheduler, for example "
            "tcp://server:8786: its workers compute, and go on when napari is closed. "
            "The run folder and Run attach to it again; Cancel stops it. Both image "
            "and run folder must be on a disk that all machines share.",
        )
        self.scheduler.native.setPlaceholderText("none: compute on this machine")
        self.large = QWidget()
        form_layout(self.large, [self.folder, self.scheduler])
        self._style_prompts()
        self.prompt_line.entered.connect(self._add_prompt)
        main["modality"].changed.connect(self.prompt_line.set_modality)
        self.image.changed.connect(self._on_image_changed)
        self._options["axis"].changed.connect(self._set_depth)
        viewer.layers.selection.events.active.connect(self._on_layer_selected)
        self._on_layer_selected()
        self._on_image_changed()

    @property
    def layer(self) -> Image | None:
        """The layer to segment."""
        return self.image.value

    def prompt_set(self) -> PromptSet:
        """Return what to find; lines that came with the file keep their label ids.

        Raises
        ------
        PromptError
            If there is no prompt, or one cannot be used.
        """
        given = parse_prompts(self.prompts.value)
        if self._known is not None and given.texts == self._known.texts:
            given = self._known
        return given

    def options(self, current: int) -> SegmentOptions:
        """Return how to do it.

        Parameters
        ----------
        current : int
            The slice in view.
        """
        values = {name: widget.value for name, widget in self._options.items()}
        return SegmentOptions(
            slices=self.scope.slices(current),
            tile=self.tiles.tile,
            pixel_size=self.tiles.pixel_size,
            **values,
        )

    def request(self) -> Request:
        """Return the run that the form describes.

        Raises
        ------
        VolumeError, PromptError, OptionError
            If there is no image or no prompt, or one cannot be used.
        """
        image = self.layer
        if image is None:
            raise VolumeError(
                "There is no image to segment; open one, or drop a file on the viewer."
            )
        options = self.options(self._current_slice(image))
        return Request(
            image=image,
            at=self.stack.position(self._viewer.dims),
            series=self.stack.whole_series,
            prompts=replace(self.prompt_set(), instance=bool(options.instances)),
            options=options,
            model=self.model.value,
            device=self.device.value,
            consensus=bool(self.consensus.value),
            folder=self._run_folder(),
            scheduler=self.scheduler.value.strip() or None,
        )

    def slicing_axis(self) -> int | None:
        """Return the axis of the volume that is cut, or None without a volume."""
        volume = self._volume()
        if volume is None:
            return None
        name = self._options["axis"].value
        if name in volume.axes:
            return volume.axes.index(name)
        return 0 if volume.is_colour else choose_axis(volume.grid)

    def reset_choices(self, *_: Any) -> None:
        """Offer the layers there are now, and stay with the one chosen."""
        chosen = self.image.value
        self.image.reset_choices()
        if chosen in self.image.choices and self.image.value is not chosen:
            self.image.value = chosen

    def disconnect(self) -> None:
        """Stop following the viewer."""
        events = self._viewer.layers.selection.events
        events.active.disconnect(self._on_layer_selected)

    def _images(self, _: Any) -> list[Image]:
        return [layer for layer in self._viewer.layers if isinstance(layer, Image)]

    def _run_folder(self) -> Path | None:
        """Return the run's folder, or None if labels are to stay in memory."""
        folder = self.folder.value
        if isinstance(folder, Path) and folder != Path():
            return folder
        if self.scheduler.value.strip():
            raise OptionError(
                "A cluster writes its labels to a run folder: choose one under Large "
                "volumes, on a disk that all machines share."
            )
        return None

    def _current_slice(self, image: Image) -> int:
        """Return the position in view along the slicing axis."""
        axis = self.slicing_axis()
        if axis is None or image.ndim == 2:
            return 0
        position = shown_position(image, self._viewer.dims)
        return int(position[axis + image.ndim - 3])

    def _volume(self) -> Volume | None:
        try:
            return None if self.layer is None else volume_from_layer(self.layer)
        except VolumeError:  # told when the user presses Run
            return None

    def _on_layer_selected(self, event: Event | None = None) -> None:
        active = self._viewer.layers.selection.active
        if isinstance(active, Image) and active in self.image.choices:
            self.image.value = active

    def _on_image_changed(self) -> None:
        self._set_depth()
        self.stack.set_layer(self.layer)
        for field in (self.stack.channel, self.stack.time):
            show_row(self._layout, field, self.stack.offers(field))
        known = None if self.layer is None else prompts_of_layer(self.layer)
        if self.prompts.value.strip() not in ("", self._prefilled):
            return
        self._known = known
        self._prefilled = "" if known is None else "\n".join(known.texts)
        self.prompts.value = self._prefilled
        self.instances.value = known is not None and known.instance

    def _set_depth(self) -> None:
        volume, axis = self._volume(), self.slicing_axis()
        if volume is not None and axis is not None:
            self.scope.set_depth(volume.shape[axis])
            self.tiles.set_volume(volume, axis)

    def _add_prompt(self, text: str) -> None:
        lines = self.prompts.value.rstrip()
        self.prompts.value = f"{lines}\n{text}" if lines else text

    def _style_prompts(self) -> None:
        edit = self.prompts.native
        edit.setPlaceholderText(PLACEHOLDER)
        edit.setTabChangesFocus(True)
        edit.setFixedHeight(_ROWS * edit.fontMetrics().lineSpacing() + _FRAME)
