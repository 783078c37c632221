"""Whole slices or tiles of them, and the scale at which the network sees them."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from magicgui.widgets import ComboBox, Container, FloatSpinBox, SpinBox

from napari_biomedparse.data.options import SMALLEST_TILE, SegmentOptions
from napari_biomedparse.io.formats.units import unit_symbol

if TYPE_CHECKING:
    from napari_biomedparse.data.volume import Volume

AUTOMATIC = "automatic"
NONE = "none"
TILE = "tile size"
PIXEL = "pixel size"
LARGEST_TILE = 2**16
_DECIMALS = 5
_HELP = {item.name: item.metadata["help"] for item in fields(SegmentOptions)}


class TileChoice(Container[ComboBox | SpinBox | FloatSpinBox]):
    """A choice and, where it needs one, a size: of tiles or of the network's pixels."""

    def __init__(self) -> None:
        tile, pixel = _HELP["tile"], _HELP["pixel_size"]
        self._choice = ComboBox(
            value=AUTOMATIC, choices=[AUTOMATIC, NONE, TILE, PIXEL], tooltip=tile
        )
        self._tile = SpinBox(
            value=512, min=SMALLEST_TILE, max=LARGEST_TILE, step=64, tooltip=tile
        )
        self._pixel_size = FloatSpinBox(
            value=1.0, min=1e-6, max=1e6, step=None, tooltip=pixel
        )
        self._pixel_size.native.setDecimals(_DECIMALS)
        super().__init__(
            widgets=[self._choice, self._tile, self._pixel_size],
            layout="horizontal",
            labels=False,
            label="Tiles",
            tooltip=f"{tile} Pixel size: {pixel[0].lower()}{pixel[1:]}",
        )
        self.margins = (0, 0, 0, 0)
        self._choice.changed.connect(self._on_choice_changed)
        self._on_choice_changed()

    @property
    def tile(self) -> str | int:
        """The option ``tile``."""
        if self._choice.value == TILE:
            return int(self._tile.value)
        return "none" if self._choice.value == NONE else "auto"

    @property
    def pixel_size(self) -> float | None:
        """The option ``pixel_size``, in the volume's own unit."""
        return float(self._pixel_size.value) if self._choice.value == PIXEL else None

    def choose(self, tile: str | int, pixel_size: float | None = None) -> None:
        """Choose by the options ``tile`` and ``pixel_size``."""
        if pixel_size is not None:
            self._pixel_size.value, self._choice.value = pixel_size, PIXEL
        elif isinstance(tile, int):
            self._tile.value, self._choice.value = tile, TILE
        else:
            self._choice.value = NONE if tile == "none" else AUTOMATIC

    def set_volume(self, volume: Volume, axis: int) -> None:
        """Learn the unit and, as what to begin with, the size of a volume's pixels.

        Parameters
        ----------
        volume : Volume
        axis : int
            The slicing axis.
        """
        row = min(i for i in range(3) if i != axis)
        self._pixel_size.native.setSuffix(f" {unit_symbol(volume.units[row])}")
        if self._choice.value != PIXEL:
            self._pixel_size.value = volume.spacing[row]

    def _on_choice_changed(self) -> None:
        self._tile.visible = self._choice.value == TILE
        self._pixel_size.visible = self._choice.value == PIXEL
