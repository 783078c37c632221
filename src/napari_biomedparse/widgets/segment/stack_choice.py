"""Which channel and which time points of a layer to segment."""

from __future__ import annotations

from typing import TYPE_CHECKING

from magicgui.widgets import ComboBox

from napari_biomedparse.viewer.axes import is_series, shown_position, stacked_axes

if TYPE_CHECKING:
    from napari.components import Dims
    from napari.layers import Image

IN_VIEW = "the one in view"
ALL = "all, one after the other"


class StackChoice:
    """Two fields, for layers that have channels or time as axes.

    Attributes
    ----------
    channel, time : ComboBox
        Each to be shown where `offers` says so.
    """

    def __init__(self) -> None:
        self._layer: Image | None = None
        self.channel = ComboBox(
            name="channel",
            label="Channel",
            choices=[IN_VIEW],
            tooltip="Channel (axis c) to segment. Files opened by this plugin have a "
            "layer for each channel instead: choose it under Image.",
        )
        self.time = ComboBox(
            name="time",
            label="Time",
            choices=[IN_VIEW],
            tooltip="Time point (axis t) to segment: the one that the viewer shows, or "
            "all of them, into one Labels layer that has the time axis, too.",
        )

    def set_layer(self, layer: Image | None) -> None:
        """Learn which layer it is about."""
        self._layer = layer
        self.channel.choices = [IN_VIEW]
        self.time.choices = [IN_VIEW]
        if layer is None:
            return
        at = stacked_axes(layer).get("c")
        data = layer.data[0] if layer.multiscale else layer.data
        if at is not None:
            names = [(f"channel {i}", i) for i in range(data.shape[at])]
            self.channel.choices = [(IN_VIEW, IN_VIEW), *names]
        if is_series(layer):
            self.time.choices = [IN_VIEW, ALL]

    def offers(self, field: ComboBox) -> bool:
        """Say whether there is a choice."""
        return len(field.choices) > 1

    def choose_all_times(self) -> None:
        """Choose the whole time series.

        Raises
        ------
        ValueError
            If the layer is none.
        """
        self.time.value = ALL

    @property
    def whole_series(self) -> bool:
        """Whether all time points are wanted."""
        return bool(self.time.value == ALL)

    def position(self, dims: Dims) -> dict[str, int]:
        """Return where to take the volume, by name of the axis: t and c, if any.

        Parameters
        ----------
        dims : napari.components.Dims
            The viewer's, for what is in view.
        """
        if self._layer is None:
            return {}
        shown = shown_position(self._layer, dims)
        found = {name: shown[at] for name, at in stacked_axes(self._layer).items()}
        if self.channel.value != IN_VIEW and "c" in found:
            found["c"] = int(self.channel.value)
        return found
