"""Segmentation straight to a folder, resumed after any interruption."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, get_args

import numpy as np

from napari_biomedparse.data.options import OptionChanges, refuse_separate
from napari_biomedparse.data.prompts import parse_prompts
from napari_biomedparse.data.volume import Volume
from napari_biomedparse.engine.devices import check_not_forked
from napari_biomedparse.engine.engine import Engine
from napari_biomedparse.errors import OptionError, needs_extra
from napari_biomedparse.io.durable import check_folder, refuse_inputs
from napari_biomedparse.io.formats.ome_labels import OmeVersion
from napari_biomedparse.io.inputs import chunk_states
from napari_biomedparse.networks.weights import load_model, model_or_default
from napari_biomedparse.pipeline.plan import (
    Times,
    choose_input,
    merge_options,
    plan_parts,
)
from napari_biomedparse.runs.blocks import (
    DoBlocks,
    Progress,
    blocks_here,
    never,
    parts_to_folder,
)
from napari_biomedparse.runs.folder import JOB, Run
from napari_biomedparse.runs.manifest import describe_run

if TYPE_CHECKING:
    from distributed import Client

    from napari_biomedparse.data.options import SegmentOptions
    from napari_biomedparse.data.prompts import PromptSet, PromptsLike
    from napari_biomedparse.data.volume import VolumeLike
    from napari_biomedparse.networks.network import Network


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


def merge_changes(
    folder_options: FolderOptions | None,
    options: SegmentOptions | None,
    changes: Mapping[str, Any],
) -> tuple[FolderOptions, SegmentOptions]:
    """Return options with some fields of either changed."""
    ours = {item.name for item in fields(FolderOptions)} & changes.keys()
    how = {name: changes[name] for name in ours}
    others = {name: changes[name] for name in changes if name not in ours}
    changed = replace(folder_options or FolderOptions(), **how)
    return changed, merge_options(options, others)


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

    def to_send(self) -> RunRequest:
        """Return the request as a worker understands it; refuse arrays in memory."""
        volume = self.volume
        data = volume.data if isinstance(volume, Volume) else volume
        if isinstance(data, np.ndarray):
            raise OptionError(
                "The volume is in memory, where the workers of a cluster cannot read "
                "it; give a path, or save it as Zarr first."
            )
        how = replace(self.how, scheduler=None, workers=None)  # which need not travel
        folder, path = self.folder.absolute(), self.path
        volume = volume if path is None else path.absolute()
        return replace(self, volume=volume, folder=folder, how=how)

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


def segment_to_folder(
    volume: str | os.PathLike[str] | VolumeLike,
    prompts: PromptsLike,
    out: str | os.PathLike[str],
    model: str | os.PathLike[str] | Network | None = None,
    options: SegmentOptions | None = None,
    folder_options: FolderOptions | None = None,
    *,
    on_progress: Progress | None = None,
    stopped: Callable[[], bool] = never,
    **changes: Unpack[FolderChanges],
) -> Run:
    """Segment a volume of any size, straight to an OME-Zarr label image on disk.

    The folder holds ``labels.ome.zarr`` (which can be viewed while it grows),
    ``instances.ome.zarr`` if objects are separated, and ``manifest.json``, the record
    of the run. After a crash, a full disk or a lost mount the same call resumes after
    the last finished block and ends with the labels of a run that was never
    interrupted. A finished run is not done again.

    Parameters
    ----------
    volume : path, array or Volume
        A path is what `reproduce` needs. Of volumes over time (t, z, y, x) all time
        points, or some, are segmented one after the other.
    prompts, model, options
        As for `segment`.
    out : path
        The run folder, new or begun by the same call.
    folder_options : FolderOptions, optional
        What of the volume is segmented, and where and how.
    on_progress : callable, optional
        Called with the numbers of finished slices and of all, after each block.
    stopped : callable, optional
        Polled: whether the rest is no longer wanted. A cluster is then told to stop,
        too.
    **changes
        Single fields of `SegmentOptions` and of `FolderOptions`, for example
        ``modality="ct", channel=1``.

    Returns
    -------
    Run

    Raises
    ------
    Cancelled
        If `stopped` returned True; finished blocks are kept.
    OutputError
        If the folder is in use, holds something else or a run that differs, or
        cannot be written.
    WorkerError
        If a cluster cannot be reached, or its workers die again and again.
    VolumeError, PromptError, OptionError, CheckpointError, DeviceError, FormatError
        As for `segment`.
    """
    how, options = merge_changes(folder_options, options, changes)
    refuse_separate(options, "a run folder")
    scheduler, workers = how.scheduler, how.workers
    request = RunRequest(
        volume,
        parse_prompts(prompts),
        Path(out),
        model_or_default(model),
        options,
        how,
    )
    job = request.folder / JOB
    if workers is None and (scheduler is not None or job.is_file()):
        with cluster_packages():
            from napari_biomedparse.runs import jobs
        with jobs.job_client(scheduler, request.folder) as client:
            if client is not None:
                work = partial(do_request, request.to_send())
                words = request.words()
                jobs.follow_job(
                    client, request.folder, words, work, on_progress, stopped
                )
                return Run(request.folder)
        job.unlink(missing_ok=True)  # the cluster may just have done so
    if scheduler is None and workers is None:
        return do_request(request, None, on_progress, stopped)
    with cluster_packages():
        from napari_biomedparse.runs.cluster import connect
    with connect(scheduler, workers) as client:
        return do_request(request, client, on_progress, stopped)


def do_request(
    request: RunRequest,
    client: Client | None,
    on_progress: Progress | None,
    stopped: Callable[[], bool] = never,
) -> Run:
    """Do a run, its blocks on a cluster if a client of one is given."""
    check_folder(request.folder)
    how = request.how
    chosen: dict[str, Any] = {}
    if request.path is not None:
        times = list(how.time) if isinstance(how.time, tuple) else how.time
        chosen = {"channel": how.channel, "time": times}
        if how.overwrite:
            refuse_inputs(request.folder, [request.path])
    opened = choose_input(
        request.volume,
        request.options,
        channel=how.channel,
        time=how.time,
        consensus=how.consensus,
        force=how.force,
    )
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
        check_not_forked()
        network = load_model(network)
    # A run sees each slice once: remembered features would only take room.
    seed, precision = request.options.seed, request.options.precision
    engine = Engine(network, local, seed=seed, precision=precision, cache_bytes=0)
    parts = plan_parts(
        opened,
        request.prompts,
        request.options,
        config=engine.model.config,
        consensus=how.consensus,
    )
    describe = partial(
        describe_run,
        engine=engine,
        chosen=chosen | chunk_states(parts.first.volume),
        load=_load_name(model),
        ome_zarr=how.ome_zarr,
        kind=kind,
    )
    return parts_to_folder(
        parts,
        request.folder,
        describe,
        do or partial(blocks_here, engine=engine, stopped=stopped),
        overwrite=how.overwrite,
        on_progress=on_progress,
    )


def cluster_packages() -> AbstractContextManager[None]:
    """Name what to install if an import of a cluster's packages fails."""
    return needs_extra("cluster", "Clusters")


def _load_name(model: str | os.PathLike[str] | Network) -> str | None:
    """Return a name by which the model can be loaded again, from any folder."""
    if not isinstance(model, str | os.PathLike):
        return None
    path = Path(model)
    return str(path.absolute()) if path.exists() else os.fspath(model)
