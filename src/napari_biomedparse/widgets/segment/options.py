"""The collapsed parts of the form: advanced options and large volumes."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magicgui.widgets import (
    CheckBox,
    ComboBox,
    Container,
    FloatSpinBox,
    LineEdit,
    PushButton,
    SpinBox,
)
from qtpy.QtWidgets import QWidget

from napari_biomedparse.data.options import (
    LARGEST_TILE,
    MODALITIES,
    PRECISIONS,
    SMALLEST_TILE,
    SegmentOptions,
)
from napari_biomedparse.errors import OptionError
from napari_biomedparse.io.formats.units import unit_symbol
from napari_biomedparse.pipeline.recognize import TARGETS
from napari_biomedparse.widgets.shared.form import (
    chosen_folder,
    device_field,
    folder_field,
    form_layout,
    option_fields,
)
from napari_biomedparse.widgets.shared.settings import AUTOMATIC

if TYPE_CHECKING:
    from napari_biomedparse.data.volume import Volume

NONE = "none"
TILE = "tile size"
PIXEL = "pixel size"
_DECIMALS = 5
_HELP = {item.name: item.metadata["help"] for item in fields(SegmentOptions)}


class TileChoice(Container[ComboBox | SpinBox | FloatSpinBox]):
    """A choice and, if it needs one, the size of tiles or of the network's pixels."""

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
        """Set the unit and, as an initial value, the size of a volume's pixels."""
        row = min(i for i in range(3) if i != axis)
        self._pixel_size.native.setSuffix(f" {unit_symbol(volume.units[row])}")
        if self._choice.value != PIXEL:
            self._pixel_size.value = volume.spacing[row]

    def _on_choice_changed(self) -> None:
        self._tile.visible = self._choice.value == TILE
        self._pixel_size.visible = self._choice.value == PIXEL


ADVANCED = (
    "axis",
    "orientation",
    "existence_threshold",
    "table",
    "p_threshold",
    "overlaps",
    "overlap_threshold",
    "mode",
    "prompts_apart",
    "batch_size",
    "precision",
    "seed",
)
CAPTIONS: dict[str, dict[Any, str]] = {
    "modality": {key: kind.label for key, kind in MODALITIES.items()}
    | {"auto": AUTOMATIC},
    "kind": {"auto": "as the prompt says", **{kind: kind for kind in TARGETS}},
    "batch_size": {"auto": AUTOMATIC, **{n: str(n) for n in (1, 2, 4, 8, 16, 32)}},
    "precision": {"auto": AUTOMATIC, **{name: name for name in PRECISIONS}},
    "overlaps": {
        "score": "best score",
        "order": "order of the table",
        "separate": "one layer per prompt",
        "confident": "most votes, then best score",
    },
    "mode": {
        "auto": AUTOMATIC,
        "3d": "slices with their neighbors",
        "2d": "images by themselves",
    },
    "separate_by": {
        "edges": "boundaries (v2)",
        "shape": "shape",
        "both": "boundaries and shape",
    },
}


class AdvancedOptions(QWidget):
    """Options that most runs leave at their defaults."""

    def __init__(self) -> None:
        super().__init__()
        self.options = option_fields(SegmentOptions, ADVANCED, CAPTIONS)
        self.options["table"].native.setPlaceholderText("the authors'")
        self.device = device_field("Where the network runs.")
        self.tiles = TileChoice()
        self.voxel_size = LineEdit(
            name="voxel_size",
            label="Voxel size",
            tooltip=f"{_HELP['voxel_size']} For the runs on this image; the layer "
            "keeps its own. Empty: as the layer says.",
        )
        self.voxel_size.native.setPlaceholderText("as the layer says")
        self.axes = LineEdit(
            name="axes",
            label="Axes",
            tooltip=f"{_HELP['axes']} Press Enter to have the image shown so.",
        )
        self.axes.native.setPlaceholderText("as the layer says")
        self.consensus = CheckBox(
            name="consensus",
            label="Consensus of three axes",
            tooltip="Segment along z, y and x and give each voxel the label that two "
            "of the three agree on, otherwise that of z. For isotropic volumes; takes "
            "three times as long.",
        )
        self.overwrite = CheckBox(
            name="overwrite",
            label="Overwrite previous labels",
            tooltip="On: a run fills the Labels layer of the previous run on the same "
            "image. Off: each run adds a layer, so that runs can be compared.",
        )
        self.reset = PushButton(
            text="Reset to defaults",
            tooltip="Reset all options to napari's Preferences for this plugin, or to "
            "their defaults. The prompts are kept.",
        )
        axis, *others = self.options.values()
        self.rows = form_layout(
            self,
            [
                self.device,
                axis,
                self.consensus,
                self.axes,
                self.voxel_size,
                self.tiles,
                *others,
                self.overwrite,
            ],
        )
        self.rows.addRow("", self.reset.native)


class LargeVolumes(QWidget):
    """Where labels go that do not fit into memory, and where they are computed."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = folder_field(
            "Run folder",
            "For volumes of any size. Labels are written to an OME-Zarr in this "
            "folder, which the layer shows. After Cancel, a crash or closing the "
            "window, choose the same folder and press Run to resume. If empty, labels "
            "stay in memory.",
            name="folder",
        )
        self.scheduler = LineEdit(
            name="scheduler",
            label="Scheduler",
            tooltip="Address of a dask.distributed scheduler, for example "
            "tcp://server:8786. Its workers continue when napari is closed; choose the "
            "run folder and press Run to attach again, or Cancel to stop. Image and "
            "run folder must be on a disk that all machines share.",
        )
        self.scheduler.native.setPlaceholderText("none: use this computer")
        form_layout(self, [self.folder, self.scheduler])

    @property
    def address(self) -> str | None:
        """Address of the scheduler, or None."""
        return self.scheduler.value.strip() or None

    def run_folder(self) -> Path | None:
        """Return the run folder, or None if labels stay in memory.

        Raises OptionError if there is a scheduler and no folder.
        """
        folder = chosen_folder(self.folder)
        if folder is None and self.address is not None:
            raise OptionError(
                "A cluster writes labels to a run folder. Choose one under Large "
                "volumes, on a disk that all machines share."
            )
        return folder
