"""What to segment, and how: the upper part of the Segment widget."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from magicgui.widgets import ComboBox
from napari.layers import Image
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QWidget

from napari_biomedparse.data.modalities import MODALITIES
from napari_biomedparse.data.options import SegmentOptions
from napari_biomedparse.errors import VolumeError
from napari_biomedparse.viewer.layers import is_derived, prompts_of_layer
from napari_biomedparse.widgets.prompts.of_file import FilePrompts
from napari_biomedparse.widgets.prompts.table import PromptTable
from napari_biomedparse.widgets.segment.form_state import (
    apply_setting,
    apply_settings,
    begin,
    restore,
    state_of,
)
from napari_biomedparse.widgets.segment.options import AdvancedOptions, LargeVolumes
from napari_biomedparse.widgets.segment.region import RegionChoice
from napari_biomedparse.widgets.segment.request import Request
from napari_biomedparse.widgets.segment.scope import SliceScope
from napari_biomedparse.widgets.segment.stack_choice import StackChoice
from napari_biomedparse.widgets.segment.which_slices import Cut
from napari_biomedparse.widgets.shared.form import (
    form_layout,
    option_fields,
    show_row,
    tab_after,
)
from napari_biomedparse.widgets.shared.settings import (
    keep_values,
    settings,
    watch,
)
from napari_biomedparse.widgets.weights.model_choice import ModelChoice
from napari_biomedparse.widgets.weights.weights_panel import WeightsPanel

if TYPE_CHECKING:
    from magicgui.widgets.bases import ValueWidget
    from napari import Viewer
    from napari.utils.events import Event

    from napari_biomedparse.data.prompts import PromptSet

OF_OBJECTS = ("edge_threshold", "minimum_size")
MAIN = ("modality", "instances", *OF_OBJECTS)
CAPTIONS: dict[str, dict[Any, str]] = {
    "modality": {
        **{key: modality.label for key, modality in MODALITIES.items()},
        "auto": "automatic",
    },
}


class SegmentForm(QWidget):
    """The form of a run; `advanced` and `large` are parts to be shown on demand.

    Parameters
    ----------
    viewer : napari.Viewer
        Its Image layers are offered; the one the user selects is chosen.
    """

    changed = Signal()
    """Something that a run depends on is another."""

    def __init__(self, viewer: Viewer) -> None:
        super().__init__()
        self._viewer = viewer
        main = option_fields(SegmentOptions, MAIN, CAPTIONS)
        self.advanced, self.large = AdvancedOptions(), LargeVolumes()
        advanced = self.advanced
        self.device, self.tiles = advanced.device, advanced.tiles
        self.consensus, self.overwrite = advanced.consensus, advanced.overwrite
        self.folder, self.scheduler = self.large.folder, self.large.scheduler
        self._options = {**main, **advanced.options}
        self.image = ComboBox(
            name="image",
            label="Image",
            choices=self._images,
            nullable=False,
            tooltip="The volume to segment; follows the layer you select.",
        )
        self.cut = Cut(viewer, self.image, self._options["axis"])
        self.prompts = PromptTable()
        self._file_prompts = FilePrompts(self.prompts)
        self.prompts.instance = lambda: bool(self.instances.value)
        self.model = ModelChoice()
        self.weights = WeightsPanel(self.model)
        self.scope = SliceScope()
        self.region = RegionChoice(viewer)
        self.stack = StackChoice()
        self.instances = main["instances"]
        self._layout = form_layout(
            self,
            [
                self.image,
                self.stack.channel,
                self.stack.time,
                main["modality"],
                self.model,
                self.scope,
                self.region,
                self.instances,
                *(main[name] for name in OF_OBJECTS),
            ],
        )
        above = self._layout.getWidgetPosition(self.model.native)[0]
        self._layout.insertRow(above, self.prompts)
        self._layout.insertRow(above + 2, self.weights)
        self.weights.update_state()
        tab_after(main["modality"].native, self.prompts)
        tab_after(self.model.native, self.weights)
        main["modality"].changed.connect(self.prompts.set_modality)
        self.prompts.instance_loaded.connect(self._on_instance_loaded)
        self.prompts.slice_chosen.connect(self.show_slice)
        self.instances.changed.connect(self._show_fields_of_objects)
        self._show_fields_of_objects()
        self.image.changed.connect(self._on_image_changed)
        self._options["axis"].changed.connect(self._set_depth)
        viewer.layers.selection.events.active.connect(self._on_layer_selected)
        self._on_layer_selected()
        self._on_image_changed()
        self._defaults = state_of(self)
        self._defaults.pop("prompts")
        begin(self, has_prompts=self._file_prompts.shown)
        self._file_prompts.take_as_filled()
        self.advanced.reset.changed.connect(self.reset)
        self._stop_watching = watch(partial(apply_setting, self))
        for field in self._fields():
            field.changed.connect(self._on_changed)

    @property
    def layer(self) -> Image | None:
        """The layer to segment."""
        return self.image.value

    def prompt_set(self) -> PromptSet:
        """Return what to find.

        Raises
        ------
        PromptError
            If there is no prompt, or one cannot be used.
        """
        return self.prompts.rows.prompt_set()

    def options(self, current: int) -> SegmentOptions:
        """Return how to do it.

        Parameters
        ----------
        current : int
            The slice in view.
        """
        image = self.layer
        region = None if image is None else self.region.text(image, self.slicing_axis())
        return SegmentOptions(
            slices=self.scope.slices(current),
            region=region,
            tile=self.tiles.tile,
            pixel_size=self.tiles.pixel_size,
            **self.option_values(),
        )

    @property
    def options_by_name(self) -> dict[str, ValueWidget[Any]]:
        """The options that have a simple field each."""
        return self._options

    def option_values(self) -> dict[str, Any]:
        """Return what the fields of `options_by_name` say."""
        return {name: widget.value for name, widget in self._options.items()}

    def set_option(self, name: str, value: Any) -> None:
        """Set one of `option_values`; raises KeyError or ValueError if it cannot be."""
        self._options[name].value = value

    def request(self, *, to_run: bool = True) -> Request:
        """Return the run that the form describes.

        Parameters
        ----------
        to_run : bool
            Whether it is to be run here, which needs the model to be at hand.

        Raises
        ------
        VolumeError, PromptError, OptionError, CheckpointError
            If there is no image or no prompt, or one cannot be used, or if the model
            has to be downloaded first.
        """
        image = self.layer
        if image is None:
            raise VolumeError(
                "There is no image to segment; open one, or drop a file on the viewer."
            )
        if to_run:
            self.weights.require()
        options = self.options(self.cut.shown())
        return Request(
            image=image,
            at=self.stack.position(self._viewer.dims),
            series=self.stack.whole_series,
            prompts=replace(self.prompt_set(), instance=bool(options.instances)),
            options=options,
            model=self.model.value,
            device=self.device.value,
            consensus=bool(self.consensus.value),
            folder=self.large.run_folder(),
            scheduler=self.large.address,
            overwrite=bool(self.overwrite.value),
        )

    def slicing_axis(self) -> int | None:
        """Return the axis of the volume that is cut, or None without a volume."""
        return self.cut.axis()

    def show_slice(self, index: int) -> None:
        """Move the viewer's slider to a slice along the slicing axis."""
        self.cut.show(index)

    def reset_choices(self, *_: Any) -> None:
        """Offer the layers there are now, and stay with the one chosen."""
        self.region.reset_choices()
        chosen = self.image.value
        self.image.reset_choices()
        if chosen in self.image.choices and self.image.value is not chosen:
            self.image.value = chosen

    def remember(self) -> None:
        """Keep the values for the next widget, and the next session."""
        keep_values(state_of(self))

    def reset(self) -> None:
        """Set all but the prompts to what napari's Settings say, or to the defaults."""
        restore(self, self._defaults)
        apply_settings(self, settings())

    def disconnect(self) -> None:
        """Stop following the viewer and napari's Settings, and downloading."""
        self.weights.abandon()
        self._stop_watching()
        events = self._viewer.layers.selection.events
        events.active.disconnect(self._on_layer_selected)

    def _fields(self) -> list[Any]:
        """List what decides about a run and says when it is changed."""
        stack, advanced = self.stack, self.advanced
        return [
            self.image,
            self.prompts,
            self.model,
            self.device,
            self.scope,
            self.region,
            self.tiles,
            stack.channel,
            stack.time,
            advanced.consensus,
            *self._options.values(),
        ]

    def _images(self, _: Any) -> list[Image]:
        return [
            layer
            for layer in self._viewer.layers
            if isinstance(layer, Image) and not is_derived(layer)
        ]

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
        if self._file_prompts.offer(known):
            self.instances.value = known is not None and known.instance

    def _show_fields_of_objects(self, *_: Any) -> None:
        for name in OF_OBJECTS:
            show_row(self._layout, self._options[name], bool(self.instances.value))

    def _on_changed(self, *_: Any) -> None:
        self.changed.emit()

    def _on_instance_loaded(self, instance: bool) -> None:
        self.instances.value = instance

    def _set_depth(self) -> None:
        volume, axis = self.cut.volume(), self.cut.axis()
        if volume is not None and axis is not None:
            self.scope.set_depth(volume.shape[axis])
            self.tiles.set_volume(volume, axis)
