"""The upper part of the Segment widget: what to segment, and how."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from napari.layers import Image
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QLabel, QWidget

from napari_biomedparse.data.options import MODALITIES, SegmentOptions
from napari_biomedparse.errors import BiomedParseError, OptionError, VolumeError
from napari_biomedparse.io.formats.units import with_voxel_size
from napari_biomedparse.networks.catalogue import targets_of
from napari_biomedparse.networks.weights import config_of, may_have_gpu, pace_on_cpu
from napari_biomedparse.slicing.geometry import choose_axis
from napari_biomedparse.viewer.axes import show_position, shown_position
from napari_biomedparse.viewer.layers import (
    is_derived,
    name_axes,
    prompts_of_layer,
    volume_from_layer,
)
from napari_biomedparse.widgets.prompts.table import PromptTable
from napari_biomedparse.widgets.segment.form_state import (
    apply_setting,
    apply_settings,
    begin,
    restore,
    state_of,
)
from napari_biomedparse.widgets.segment.options import (
    CAPTIONS,
    AdvancedOptions,
    LargeVolumes,
)
from napari_biomedparse.widgets.segment.recognition import KindChoice, targets_of_kind
from napari_biomedparse.widgets.segment.request import OF_SCORES, Request
from napari_biomedparse.widgets.segment.which_slices import (
    RegionChoice,
    SliceScope,
    StackChoice,
)
from napari_biomedparse.widgets.shared.form import (
    WARNING,
    LayerChoice,
    form_layout,
    option_fields,
    show_row,
    tab_after,
)
from napari_biomedparse.widgets.shared.settings import keep_values, settings, watch
from napari_biomedparse.widgets.weights.model_choice import ModelChoice
from napari_biomedparse.widgets.weights.weights_panel import WeightsPanel

if TYPE_CHECKING:
    from collections.abc import Mapping

    from magicgui.widgets import ComboBox
    from napari import Viewer

    from napari_biomedparse.data.prompts import PromptSet
    from napari_biomedparse.data.volume import Volume

DEMO_BADGE = "demo: learnt from phantoms, 8 targets, for trying out"
OF_OBJECTS = ("separate_by", "diameter", "edge_threshold", "minimum_size")
UNUSED = (("edge_threshold", "shape"), ("diameter", "edges"))
"""Options of objects, and how they are separated without them."""
MAIN = ("modality", "kind", "instances", *OF_OBJECTS)


class SegmentForm(QWidget):
    """The form of a run; `advanced` and `large` are parts to be shown on demand."""

    changed = Signal()
    """Something that a run depends on has changed."""

    def __init__(self, viewer: Viewer) -> None:
        super().__init__()
        self._viewer = viewer
        main = option_fields(SegmentOptions, MAIN, CAPTIONS)
        self.advanced, self.large = AdvancedOptions(), LargeVolumes()
        advanced = self.advanced
        self.device, self.tiles = advanced.device, advanced.tiles
        self.consensus, self.overwrite = advanced.consensus, advanced.overwrite
        self.folder, self.scheduler = self.large.folder, self.large.scheduler
        self.options_by_name = {**main, **advanced.options}
        """The options that have a simple field each."""
        self._modality = cast("ComboBox", main["modality"])
        self._set_modality = ""
        self._borrowed: dict[str, tuple[float, float]] = {}
        """Thresholds that were set here, and those of a result in their place."""
        self.image = LayerChoice(
            viewer,
            Image,
            label="Image",
            tooltip="The volume to segment. Follows the selected layer.",
            offers=lambda layer: not is_derived(layer),
        )
        self.prompts = PromptTable()
        self.prompts.instance = lambda: bool(self.instances.value)
        self.model = ModelChoice()
        self.weights = WeightsPanel(self.model)
        self.recognition = KindChoice(main["kind"])
        self.badge = QLabel()
        self.badge.setWordWrap(True)
        self.badge.setStyleSheet(f"color: {WARNING.name()}")
        self.badge.setToolTip("\n".join(targets_of("demo")))
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
                self.prompts,
                self.model,
                self.weights,
                self.recognition,
                self.scope,
                self.region,
                self.instances,
                *(main[name] for name in OF_OBJECTS),
            ],
        )
        below_model, _ = self._layout.getWidgetPosition(self.weights)
        self._layout.insertRow(below_model, "", self.badge)
        self.weights.update_state()
        tab_after(main["modality"].native, self.prompts)
        tab_after(self.model.native, self.weights)
        for field in (main["modality"], self.model, self.device):
            field.changed.connect(self._on_kind_changed)
        self.model.changed.connect(self._on_model_changed)
        self._on_model_changed()
        self._on_kind_changed()
        self.prompts.instance_loaded.connect(partial(setattr, self.instances, "value"))
        self.prompts.slice_chosen.connect(self.show_slice)
        for field in (self.instances, main["separate_by"]):
            field.changed.connect(self._show_fields_of_objects)
        self._show_fields_of_objects()
        self.image.changed.connect(self._on_image_changed)
        for field in (self.options_by_name["axis"], advanced.voxel_size):
            field.changed.connect(self._set_depth)
        advanced.axes.native.editingFinished.connect(self._on_axes_entered)
        self._on_image_changed()
        self._defaults = state_of(self)
        self._defaults.pop("prompts")
        begin(self, has_prompts=self.prompts.of_file)
        self.prompts.take_as_filled()
        self.advanced.reset.changed.connect(self.reset)
        self._stop_watching = watch(partial(apply_setting, self))
        for field in self._fields():
            field.changed.connect(self._on_changed)

    @property
    def layer(self) -> Image | None:
        """The layer to segment."""
        return self.image.value

    def prompt_set(self) -> PromptSet:
        """Return the prompts; raises PromptError if there are none."""
        return self.prompts.model.prompt_set()

    def options(self, current: int) -> SegmentOptions:
        """Return the options, with `current` as the slice in view."""
        image = self.layer
        region = None if image is None else self.region.text(image, self.slicing_axis())
        return SegmentOptions(
            slices=self.scope.slices(current),
            region=region,
            tile=self.tiles.tile,
            pixel_size=self.tiles.pixel_size,
            voxel_size=self.voxel_size,
            **self.option_values(),
        )

    @property
    def voxel_size(self) -> str | None:
        """The voxel size of the chosen image, if it is not what its layer says."""
        return self.advanced.voxel_size.value.strip() or None

    def option_values(self) -> dict[str, Any]:
        """Return the values of `options_by_name`."""
        return {name: widget.value for name, widget in self.options_by_name.items()}

    def set_option(self, name: str, value: Any) -> None:
        """Set one of `option_values`; raises KeyError or ValueError if not possible."""
        if name == "modality" and value not in self._modality.choices:
            self._set_modality = str(value)  # of another model, which may come yet
            self._modality.reset_choices()
        self.options_by_name[name].value = value

    def use_thresholds_of_result(self, values: Mapping[str, float] | None) -> None:
        """Use thresholds of a result for now; None returns to those before them."""
        for name in OF_SCORES if values is None else values:
            option, own = self.options_by_name[name], self._own_threshold(name)
            if values is None:
                option.value = own
                self._borrowed.pop(name, None)
            elif values[name] != option.value:
                self._borrowed[name] = own, values[name]
                option.value = values[name]

    def _own_threshold(self, name: str) -> float:
        """Return the threshold that was set here, not by dragging that of a result."""
        value = float(self.options_by_name[name].value)
        own, borrowed = self._borrowed.get(name, (value, value))
        return own if value == borrowed else value

    @property
    def unusual(self) -> str:
        """The advanced options that are not at their defaults, in words."""
        fields = [self.device, self.consensus, self.overwrite]
        fields += [self.advanced.voxel_size, *self.advanced.options.values()]
        usual = {"voxel_size": "", **self._defaults, **self._defaults["options"]}
        set_here = [(f.label, f.value) for f in fields if f.value != usual[f.name]]
        if (self.tiles.tile, self.tiles.pixel_size) != (usual["tile"], None):
            set_here.append(("Tiles", self.tiles.pixel_size or self.tiles.tile))
        return ", ".join(
            name.lower() if value is True else f"{name.lower()}: {value}"
            for name, value in set_here
        )

    def request(self, *, to_run: bool = True, recognize: bool = False) -> Request:
        """Return the run that the form describes; `to_run` needs the model to be there.

        To `recognize` takes all targets of the kind of image, and the slice in view.

        Raises VolumeError, PromptError, OptionError or CheckpointError if something is
        missing or invalid.
        """
        self._name_axes()
        image = self.layer
        if image is None:
            raise VolumeError(
                "There is no image to segment. Open one, or drop a file on the viewer."
            )
        if to_run:
            self.weights.require()
        options = self.options(at := self.slice_in_view())
        prompts = targets_of_kind(options.kind) if recognize else self.prompt_set()
        request = Request(
            image=image,
            at=self.stack.position(self._viewer.dims),
            series=self.stack.whole_series,
            prompts=replace(prompts, instance=bool(options.instances)),
            options=options,
            model=self.model.value,
            device=self.device.value,
            consensus=bool(self.consensus.value),
            folder=self.large.run_folder(),
            scheduler=self.large.address,
            overwrite=bool(self.overwrite.value),
        )
        return request.recognizing(at) if recognize else request

    def volume(self) -> Volume | None:
        """Return the layer's volume, or None if it cannot be segmented."""
        try:
            return None if self.layer is None else volume_from_layer(self.layer)
        except VolumeError:  # shown when the user presses Run
            return None

    def slicing_axis(self) -> int | None:
        """Return the slicing axis of the volume, or None without a volume."""
        volume, chosen = self.volume(), self.options_by_name["axis"].value
        if volume is None:
            return None
        if chosen in volume.axes:
            return volume.axes.index(chosen)
        return 0 if volume.is_colour else choose_axis(volume.grid)

    def slice_in_view(self) -> int:
        """Return the slice in view along the slicing axis; 0 of a single image."""
        layer, axis = self.layer, self.slicing_axis()
        if layer is None or axis is None or layer.ndim == 2:
            return 0
        return int(shown_position(layer, self._viewer.dims)[layer.ndim - 3 + axis])

    def show_slice(self, index: int) -> None:
        """Move the viewer's slider to a slice along the slicing axis."""
        layer, axis = self.layer, self.slicing_axis()
        if layer is not None and axis is not None and layer.ndim > 2:
            show_position(layer, self._viewer.dims, layer.ndim - 3 + axis, index)

    def reset_choices(self, *_: Any) -> None:
        """List the current layers and keep the chosen one."""
        self.region.reset_choices()
        self.image.reset_choices()

    def remember(self) -> None:
        """Save the values for the next widget and the next session."""
        state = state_of(self)
        state["options"] |= {name: self._own_threshold(name) for name in OF_SCORES}
        keep_values(state)

    def reset(self) -> None:
        """Reset all but the prompts to napari's Preferences or the defaults."""
        restore(self, self._defaults)
        for field in (self.advanced.axes, self.advanced.voxel_size):
            field.value = ""
        apply_settings(self, settings())

    def disconnect(self) -> None:
        """Stop following napari's Preferences, and any download."""
        self.weights.abandon()
        self._stop_watching()

    def _fields(self) -> list[Any]:
        """Return the fields that a run depends on."""
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
            advanced.voxel_size,
            *self.options_by_name.values(),
        ]

    def _on_image_changed(self) -> None:
        self.advanced.axes.value = ""  # which were those of another image
        self.advanced.voxel_size.value = ""
        self._set_depth()
        self.stack.set_layer(self.layer)
        for field in (self.stack.channel, self.stack.time):
            show_row(self._layout, field, self.stack.offers(field))
        known = None if self.layer is None else prompts_of_layer(self.layer)
        if self.prompts.offer_file(known):
            self.instances.value = known is not None and known.instance

    def _on_axes_entered(self) -> None:
        with suppress(BiomedParseError):  # shown when the user presses Run
            self._name_axes()

    def _name_axes(self) -> None:
        """Have the chosen image shown with the axes that were entered, if any."""
        field, size = self.advanced.axes, self.advanced.voxel_size.value
        letters = field.value.strip()
        if letters and self.layer is not None:
            name_axes(self._viewer.layers, self.layer, letters)
            self._on_image_changed()
            field.value, self.advanced.voxel_size.value = "", size

    def _show_fields_of_objects(self, *_: Any) -> None:
        fields, objects = self.options_by_name, bool(self.instances.value)
        for name in OF_OBJECTS:
            by = fields["separate_by"].value
            unused = (name, by) in UNUSED
            show_row(self._layout, fields[name], objects and not unused)

    def _on_model_changed(self, *_: Any) -> None:
        """Offer what suits the model."""
        self._set_modality = ""
        self._modality.choices = self._modalities
        is_v1, layout = self._network == "v1", self.advanced.rows
        show_row(self._layout, self.recognition, is_v1)
        show_row(layout, self.options_by_name["existence_threshold"], not is_v1)
        for name in ("table", "p_threshold"):
            show_row(layout, self.options_by_name[name], is_v1)

    @property
    def _network(self) -> str:
        """Which network the model is."""
        return config_of(str(self.model.value)).network

    def _modalities(self, _: Any) -> list[tuple[str, str]]:
        """List what any model takes, what the chosen one learned, and what was set."""
        own = ("", self._network)
        return [
            (caption, key)
            for key, caption in CAPTIONS["modality"].items()
            if MODALITIES[key].network in own or key == self._set_modality
        ]

    def _on_kind_changed(self, *_: Any) -> None:
        """Suggest what the model knows, of the chosen modality."""
        known = targets_of(str(self.model.value))
        self.prompts.suggest(str(self.options_by_name["modality"].value), known)
        lines = [DEMO_BADGE] if known else []
        if self.device.value in ("auto", "cpu") and not may_have_gpu():
            pace = pace_on_cpu(str(self.model.value))
            lines.append(f"No GPU: about {pace:.2g} s for each slice")
        self.badge.setText("\n".join(lines))
        self.badge.setVisible(bool(lines))

    def _on_changed(self, *_: Any) -> None:
        self.changed.emit()

    def _set_depth(self) -> None:
        volume, axis = self.volume(), self.slicing_axis()
        if volume is not None and axis is not None:
            self.scope.set_depth(volume.shape[axis])
            if self.voxel_size is not None:
                with suppress(OptionError):  # shown when the user presses Run
                    volume = with_voxel_size(volume, self.voxel_size)
            self.tiles.set_volume(volume, axis)
