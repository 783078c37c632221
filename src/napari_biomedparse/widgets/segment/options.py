"""The parts of the form that are folded away: how exactly, and for large volumes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from magicgui.types import FileDialogMode
from magicgui.widgets import CheckBox, ComboBox, FileEdit, LineEdit, PushButton
from qtpy.QtWidgets import QWidget

from napari_biomedparse.data.options import SegmentOptions
from napari_biomedparse.errors import OptionError
from napari_biomedparse.widgets.segment.tiles import TileChoice
from napari_biomedparse.widgets.shared.form import AUTOMATIC, form_layout, option_fields

DEVICES = ("auto", "cpu", "cuda", "mps")
ADVANCED = (
    "axis",
    "existence_threshold",
    "overlaps",
    "overlap_threshold",
    "batch_size",
    "seed",
)
CAPTIONS: dict[str, dict[Any, str]] = {
    "batch_size": {"auto": AUTOMATIC, **{n: str(n) for n in (1, 2, 4, 8, 16, 32)}},
    "overlaps": {
        "score": "best score",
        "order": "order of the table",
        "separate": "one layer a prompt",
    },
}


class AdvancedOptions(QWidget):
    """What most runs leave as it is.

    Attributes
    ----------
    options : dict
        A field for each of the simple options, by name.
    device, consensus, tiles, overwrite, reset : magicgui widgets
    """

    def __init__(self) -> None:
        super().__init__()
        self.options = option_fields(SegmentOptions, ADVANCED, CAPTIONS)
        self.device = ComboBox(
            name="device",
            label="Device",
            choices=DEVICES,
            tooltip="Where the network runs; auto takes the fastest there is.",
        )
        self.tiles = TileChoice()
        self.consensus = CheckBox(
            name="consensus",
            label="Consensus of three axes",
            tooltip="Run along z, y and x and let each voxel have the label that two "
            "of the three runs agree on, else that of z. For isotropic volumes; takes "
            "three times as long.",
        )
        self.overwrite = CheckBox(
            name="overwrite",
            label="Overwrite the last labels of this image",
            tooltip="On: a run fills the Labels layer of the run before. Off: each run "
            "makes a new layer, so that runs can be compared.",
        )
        self.reset = PushButton(
            text="Back to the defaults",
            tooltip="All options as napari's Settings for this plugin say, or as they "
            "are when installed; prompts stay.",
        )
        axis, *others = self.options.values()
        layout = form_layout(
            self,
            [
                self.device,
                axis,
                self.consensus,
                self.tiles,
                *others,
                self.overwrite,
            ],
        )
        layout.addRow("", self.reset.native)


class LargeVolumes(QWidget):
    """Where labels go that do not fit into memory, and who computes them."""

    def __init__(self) -> None:
        super().__init__()
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
        self.folder.line_edit.tooltip = self.folder.tooltip
        self.folder.choose_btn.tooltip = "Choose or make the run's folder."
        self.scheduler = LineEdit(
            name="scheduler",
            label="Scheduler",
            tooltip="Address of a dask.distributed scheduler, for example "
            "tcp://server:8786: its workers compute, and go on when napari is closed. "
            "The run folder and Run attach to it again; Cancel stops it. Both image "
            "and run folder must be on a disk that all machines share.",
        )
        self.scheduler.native.setPlaceholderText("none: compute on this machine")
        form_layout(self, [self.folder, self.scheduler])

    @property
    def address(self) -> str | None:
        """Address of the scheduler, or None."""
        return self.scheduler.value.strip() or None

    def run_folder(self) -> Path | None:
        """Return the run's folder, or None if labels are to stay in memory.

        Raises
        ------
        OptionError
            If there is a scheduler and no folder.
        """
        folder = self.folder.value
        if isinstance(folder, Path) and folder != Path():
            return folder
        if self.address is not None:
            raise OptionError(
                "A cluster writes its labels to a run folder: choose one under Large "
                "volumes, on a disk that all machines share."
            )
        return None
