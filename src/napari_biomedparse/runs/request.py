"""Requests of runs in a folder, in a form that can be sent to a cluster."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from napari_biomedparse.data.options import OptionChanges
from napari_biomedparse.data.volume import Volume, choose_channel, has_time_points
from napari_biomedparse.engine.engine import Engine
from napari_biomedparse.errors import OptionError
from napari_biomedparse.io import open_image, open_volume
from napari_biomedparse.io.formats.ome_labels import OmeVersion
from napari_biomedparse.networks.weights import load_model
from napari_biomedparse.pipeline.parts import (
    Series,
    Times,
    check_request,
    choose_input,
    open_series,
    plan_parts,
)
from napari_biomedparse.runs.blocks import never
from napari_biomedparse.runs.sink import DoBlocks, Execution, parts_to_folder

if TYPE_CHECKING:
    from distributed import Client

    from napari_biomedparse.data.options import SegmentOptions
    from napari_biomedparse.data.prompts import PromptSet
    from napari_biomedparse.data.volume import VolumeLike
    from napari_biomedparse.networks.network import Network
    from napari_biomedparse.runs.folder import Run
    from napari_biomedparse.runs.sink import Progress


@dataclass(frozen=True)
class FolderOptions:
    """What of a volume goes to a run folder, and where and how it is computed.

    Parameters
    ----------
    device : str
        "auto", "cpu", "cuda", "cuda:1", "mps", ...
    channel : int or str, optional
        Which channel; needed where there are several.
    time : int or pair of int, optional
        One time point, or the first and the one after the last; by default all. One
        is segmented as a volume of its own.
    consensus : bool
        Whether to run along each axis and let the three runs vote.
    force : bool
        Whether to form a consensus of a volume that is not isotropic, too.
    ome_zarr : {"0.5", "0.4"}
        Version of the label images.
    overwrite : bool
        Whether another run in the folder is replaced.
    load : str or path, optional
        Name or path by which a network that is given as such can be loaded again.
    scheduler : str or distributed.Client, optional
        Address or client of a cluster that does the run. It must see the volume and
        the folder under the same paths. The run continues if this process ends, and
        the same call, also without `scheduler`, attaches to it.
    workers : int, optional
        Number of local worker processes. A script that asks for them must guard its
        main part by ``if __name__ == "__main__":``.

    Raises
    ------
    OptionError
        If there is no such version of OME-Zarr.
    """

    device: str = "auto"
    channel: int | str | None = None
    time: Times = None
    consensus: bool = False
    force: bool = False
    ome_zarr: OmeVersion = "0.5"
    overwrite: bool = False
    load: str | os.PathLike[str] | None = None
    scheduler: str | Client | None = None
    workers: int | None = None

    def __post_init__(self) -> None:
        """Refuse an unknown version."""
        if self.ome_zarr not in get_args(OmeVersion):
            raise OptionError(
                f"OME-Zarr can be written as 0.4 or 0.5, not {self.ome_zarr!r}."
            )


class FolderChanges(OptionChanges, total=False):
    """Single fields of `FolderOptions` and `SegmentOptions`, as keywords."""

    device: str
    channel: int | str | None
    time: Times
    consensus: bool
    force: bool
    ome_zarr: OmeVersion
    overwrite: bool
    load: str | os.PathLike[str] | None
    scheduler: str | Client | None
    workers: int | None


def split_changes(
    options: FolderOptions | None, changes: Mapping[str, Any]
) -> tuple[FolderOptions, dict[str, Any]]:
    """Return folder options with their changes, and the remaining changes."""
    names = {item.name for item in fields(FolderOptions)}
    ours = {name: value for name, value in changes.items() if name in names}
    others = {name: value for name, value in changes.items() if name not in names}
    return replace(options or FolderOptions(), **ours), others


@dataclass(frozen=True)
class RunRequest:
    """A run in a folder; its fields are the arguments of `segment_to_folder`."""

    volume: str | os.PathLike[str] | VolumeLike
    prompts: PromptSet
    folder: Path
    model: str | os.PathLike[str] | Network
    options: SegmentOptions
    how: FolderOptions = FolderOptions()

    @property
    def path(self) -> Path | None:
        """The volume's path, if it is given by one."""
        volume = self.volume
        return Path(volume) if isinstance(volume, str | os.PathLike) else None

    def words(self) -> dict[str, str]:
        """Return, as text, what distinguishes this run from others."""
        volume: Any = self.volume
        if self.path is not None:
            volume = self.path.absolute()
        elif isinstance(volume, Volume):
            volume = volume.source or volume.name
        else:
            volume = "an array"
        model = self.how.load or self.model
        if not isinstance(model, str | os.PathLike):
            model = type(model).__name__
        words = {
            "volume": volume,
            "prompts": {
                label: self.prompts.texts[self.prompts.ids.index(label)]
                for label in self.prompts.ranked
            },
            "model": os.fspath(model),
            "channel": self.how.channel,
            "time": self.how.time,
            "consensus": self.how.consensus,
            "ome_zarr": self.how.ome_zarr,
            **asdict(self.options),
        }
        if self.options.instances is None:
            words["instances"] = self.prompts.instance
        return {key: str(value) for key, value in words.items()}


def do_request(
    request: RunRequest,
    client: Client | None,
    on_progress: Progress | None,
    stopped: Callable[[], bool] = never,
) -> Run:
    """Do a run, its blocks on a cluster if a client of one is given."""
    how, chosen = request.how, {}
    if request.path is not None:
        times = list(how.time) if isinstance(how.time, tuple) else how.time
        chosen = {"channel": how.channel, "time": times}
    opened = open_input(request.volume, how.channel, how.time, consensus=how.consensus)
    check_request(opened, request.options, consensus=how.consensus, force=how.force)
    local, kind = how.device, None
    do: DoBlocks | None = None
    model = how.load or request.model
    if client is not None:
        with cluster_packages():
            from napari_biomedparse.runs import cluster
        local, kind = "cpu", cluster.kind_of_device(client, how.device)
        do = partial(
            cluster.blocks_on_cluster,
            client,
            model=model,
            device=how.device,
            stopped=stopped,
        )
    network: Any = request.model
    if isinstance(network, str | os.PathLike):
        network = load_model(network)
    # A run sees each slice once: remembered features would only take room.
    engine = Engine(network, local, seed=request.options.seed, cache_bytes=0)
    parts = plan_parts(
        opened,
        request.prompts,
        request.options,
        config=engine.model.config,
        consensus=how.consensus,
    )
    return parts_to_folder(
        parts,
        request.folder,
        Execution(engine, chosen, _load_name(model), how.ome_zarr, kind, do, stopped),
        overwrite=how.overwrite,
        on_progress=on_progress,
    )


def open_input(
    volume: str | os.PathLike[str] | VolumeLike,
    channel: int | str | None,
    time: Times,
    *,
    consensus: bool,
) -> Volume | Series:
    """Open a file, if it is one, and choose a channel and time points.

    Parameters
    ----------
    volume : path, array or Volume
    channel, time, consensus
        And result and errors as for `choose_input`.
    """
    if not isinstance(volume, str | os.PathLike):
        return choose_input(volume, channel=channel, time=time, consensus=consensus)
    image = choose_channel(open_image(volume), channel)
    if isinstance(time, int) or consensus or not has_time_points(image):
        one = time if isinstance(time, int) else None
        return open_volume(volume, channel=channel, time=one)
    return open_series(image, time=time)


@contextmanager
def cluster_packages() -> Iterator[None]:
    """Name what to install if an import of a cluster's packages fails."""
    try:
        yield
    except ImportError as error:
        raise OptionError(
            f"Clusters need more packages ({error}); install them with: pip install "
            "'napari-biomedparse[cluster]'"
        ) from error


def _load_name(model: str | os.PathLike[str] | Network) -> str | None:
    """Return a name by which the model can be loaded again, from any folder."""
    if not isinstance(model, str | os.PathLike):
        return None
    path = Path(model)
    return str(path.absolute()) if path.exists() else os.fspath(model)
