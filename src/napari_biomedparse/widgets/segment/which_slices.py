"""What to segment of a layer: channel, time points, slices and region."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from magicgui.widgets import ComboBox, Container, Label, SpinBox
from napari.layers import Shapes

from napari_biomedparse.data.options import region_text
from napari_biomedparse.errors import OptionError
from napari_biomedparse.viewer.axes import is_series, shown_position, stacked_axes
from napari_biomedparse.viewer.region import (
    Corners,
    box_between,
    corners_in_view,
    corners_of_shape,
)

if TYPE_CHECKING:
    from napari import Viewer
    from napari.components import Dims
    from napari.layers import Image

ALL = "all slices"
CURRENT = "the slice in view"
RANGE = "from … to"
POSITION_IN_VIEW = "in view"
ALL_TIMES = "all"
WHOLE = "whole slices"
IN_VIEW = "what is in view"


class SliceScope(Container[ComboBox | SpinBox | Label]):
    """All slices, the one in view, or a range.

    Slices are counted from 0, as on napari's slider, and the last one is included.
    """

    def __init__(self) -> None:
        self._depth = 1
        self.kind = ComboBox(
            choices=[ALL, CURRENT, RANGE],
            tooltip="Slices to segment. Try one slice first.",
        )
        self._first = SpinBox(min=0, max=0, tooltip="First slice, counted from 0.")
        self._to = Label(value="to")
        self._last = SpinBox(min=0, max=0, tooltip="Last slice (included).")
        super().__init__(
            widgets=[self.kind, self._first, self._to, self._last],
            layout="horizontal",
            labels=False,
            label="Slices",
        )
        self.margins = (0, 0, 0, 0)
        self.kind.changed.connect(self._on_scope_changed)
        self._on_scope_changed()

    def set_depth(self, depth: int) -> None:
        """Set the number of slices; a range that is too long is cut."""
        whole = self._last.value == self._depth - 1
        self._depth = depth
        self._first.max = self._last.max = depth - 1
        if whole:
            self._last.value = depth - 1

    def slices(self, current: int) -> tuple[int, int] | None:
        """Return the chosen range without its end, or None for all slices."""
        if self.kind.value == ALL:
            return None
        if self.kind.value == CURRENT:
            return current, current + 1
        ends = int(self._first.value), int(self._last.value)
        return min(ends), max(ends) + 1

    def choose(self, first: int, last: int) -> None:
        """Choose the range from `first` to `last`, both included."""
        self.kind.value = RANGE
        self._first.value, self._last.value = first, last

    def _on_scope_changed(self) -> None:
        for widget in (self._first, self._to, self._last):
            widget.visible = self.kind.value == RANGE


class StackChoice:
    """Two fields, each shown if `offers` says so, for layers with axes c or t."""

    def __init__(self) -> None:
        self._layer: Image | None = None
        self.channel = ComboBox(
            name="channel",
            label="Channel",
            choices=[POSITION_IN_VIEW],
            tooltip="Channel (axis c) to segment. Files opened by this plugin have one "
            "layer per channel instead; choose it under Image.",
        )
        self.time = ComboBox(
            name="time",
            label="Time",
            choices=[POSITION_IN_VIEW],
            tooltip="Time point (axis t) to segment: the one in view, or all of them "
            "in one Labels layer.",
        )

    def set_layer(self, layer: Image | None) -> None:
        """Set the layer."""
        self._layer = layer
        self.channel.choices = [POSITION_IN_VIEW]
        self.time.choices = [POSITION_IN_VIEW]
        if layer is None:
            return
        at = stacked_axes(layer).get("c")
        data = layer.data[0] if layer.multiscale else layer.data
        if at is not None:
            names = [(f"channel {i}", i) for i in range(data.shape[at])]
            self.channel.choices = [(POSITION_IN_VIEW, POSITION_IN_VIEW), *names]
        if is_series(layer):
            self.time.choices = [POSITION_IN_VIEW, ALL_TIMES]

    def offers(self, field: ComboBox) -> bool:
        """Return whether there is a choice."""
        return len(field.choices) > 1

    @property
    def whole_series(self) -> bool:
        """Whether all time points are to be segmented."""
        return bool(self.time.value == ALL_TIMES)

    def position(self, dims: Dims) -> dict[str, int]:
        """Return the chosen positions along the axes t and c, if the layer has them."""
        if self._layer is None:
            return {}
        shown = shown_position(self._layer, dims)
        found = {name: shown[at] for name, at in stacked_axes(self._layer).items()}
        if self.channel.value != POSITION_IN_VIEW and "c" in found:
            found["c"] = int(self.channel.value)
        return found


class RegionChoice(ComboBox):
    """A choice that includes the viewer's Shapes layers."""

    def __init__(self, viewer: Viewer) -> None:
        self._viewer = viewer
        super().__init__(
            name="region",
            label="Region",
            choices=self._list,
            value=WHOLE,
            tooltip="Part of each slice to segment: what is in view, or a rectangle in "
            "a Shapes layer. Of several shapes, the selected or else the last one is "
            "used.",
        )

    def text(self, image: Image, axis: int | None) -> str | None:
        """Return the region as an option, or None for whole slices.

        Raises OptionError if nothing of the image lies in it.
        """
        if self.value == WHOLE or axis is None:
            return None
        box = box_between(image, self._corners(image), axis)
        if box is None:
            raise OptionError(
                f"No part of {image.name} lies in the region ({self.value}). Move it "
                "onto the image, or choose whole slices."
            )
        return region_text(box) if box else None

    def _list(self, _: Any) -> list[Any]:
        layers = [x for x in self._viewer.layers if isinstance(x, Shapes)]
        drawn = [(f"rectangle in {layer.name}", layer) for layer in layers]
        return [(WHOLE, WHOLE), (IN_VIEW, IN_VIEW), *drawn]

    def _corners(self, image: Image) -> Corners:
        if self.value == IN_VIEW:
            return corners_in_view(image)
        if not self.value.nshapes:
            raise OptionError(
                f"{self.value.name} has no rectangle. Draw one, or choose whole slices."
            )
        return corners_of_shape(self.value, image, self._viewer.dims)
