"""What a run is asked for, in a form that travels to a cluster."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_biomedparse.data.volume import Volume

if TYPE_CHECKING:
    from napari_biomedparse.data.options import SegmentOptions
    from napari_biomedparse.data.prompts import PromptSet
    from napari_biomedparse.io.formats.ome_labels import OmeVersion
    from napari_biomedparse.networks.network import Network
    from napari_biomedparse.pipeline.parts import Times


@dataclass(frozen=True)
class Asked:
    """A run; see `segment_to_folder` for what its parts mean.

    Parameters
    ----------
    volume : Path, array or Volume
    prompts : PromptSet
    folder : Path
    model : str, path or Network
    options : SegmentOptions
    device, channel, time, consensus, force, ome_zarr, overwrite, load
    """

    volume: Any
    prompts: PromptSet
    folder: Path
    model: str | os.PathLike[str] | Network
    options: SegmentOptions
    device: str = "auto"
    channel: int | str | None = None
    time: Times = None
    consensus: bool = False
    force: bool = False
    ome_zarr: OmeVersion = "0.5"
    overwrite: bool = False
    load: str | os.PathLike[str] | None = None

    @property
    def is_path(self) -> bool:
        """Whether the volume is given by its path."""
        return isinstance(self.volume, str | os.PathLike)

    def words(self) -> dict[str, str]:
        """Return, in words, what makes it this run and not another one."""
        volume: Any = self.volume
        if self.is_path:
            volume = Path(volume).absolute()
        elif isinstance(volume, Volume):
            volume = volume.source or volume.name
        else:
            volume = "an array"
        model = self.load or self.model
        if not isinstance(model, str | os.PathLike):
            model = type(model).__name__
        told = {
            "volume": volume,
            "prompts": {
                label: self.prompts.texts[self.prompts.ids.index(label)]
                for label in self.prompts.ranked
            },
            "model": os.fspath(model),
            "channel": self.channel,
            "time": self.time,
            "consensus": self.consensus,
            "ome_zarr": self.ome_zarr,
            **asdict(self.options),
        }
        if self.options.instances is None:
            told["instances"] = self.prompts.instance
        return {key: str(value) for key, value in told.items()}
