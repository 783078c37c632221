"""A run that writes to a folder as it goes, and goes on after any interruption."""

from __future__ import annotations

import os
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_biomedparse.data.options import refuse_separate
from napari_biomedparse.data.prompts import parse_prompts
from napari_biomedparse.data.volume import (
    Volume,
    choose_channel,
    has_time_points,
)
from napari_biomedparse.engine.engine import Engine
from napari_biomedparse.errors import OptionError
from napari_biomedparse.io import open_image, open_volume
from napari_biomedparse.networks.weights import default_model, load_model
from napari_biomedparse.pipeline.parts import (
    Series,
    check_consensus,
    choose_input,
    open_series,
)
from napari_biomedparse.pipeline.plan import plan_run
from napari_biomedparse.pipeline.segment import merge_options
from napari_biomedparse.runs.folder import JOB, Run
from napari_biomedparse.runs.manifest import Manifest, read_manifest
from napari_biomedparse.runs.parts import (
    Job,
    consensus_to_folder,
    series_to_folder,
    volume_to_folder,
)
from napari_biomedparse.runs.request import Asked

if TYPE_CHECKING:
    from collections.abc import Callable

    from distributed import Client

    from napari_biomedparse.data.options import SegmentOptions
    from napari_biomedparse.io.formats.ome_labels import OmeVersion
    from napari_biomedparse.networks.network import Network
    from napari_biomedparse.pipeline.parts import Times
    from napari_biomedparse.runs.volume_run import DoBlocks, Progress

OME_VERSIONS = ("0.4", "0.5")


def segment_to_folder(
    volume: Any,
    prompts: Any,
    out: str | os.PathLike[str],
    model: str | os.PathLike[str] | Network | None = None,
    options: SegmentOptions | None = None,
    *,
    device: str = "auto",
    channel: int | str | None = None,
    time: Times = None,
    consensus: bool = False,
    force: bool = False,
    ome_zarr: OmeVersion = "0.5",
    overwrite: bool = False,
    load: str | os.PathLike[str] | None = None,
    scheduler: str | Client | None = None,
    workers: int | None = None,
    on_progress: Progress | None = None,
    stopped: Callable[[], bool] = lambda: False,
    **changes: Any,
) -> Run:
    """Segment a volume of any size, straight to an OME-Zarr label image on disk.

    The folder holds ``labels.ome.zarr`` (which can be looked at while it grows),
    ``instances.ome.zarr`` if objects are told apart, and ``manifest.json``, the
    record of the run. After a crash, a full disk or a lost mount the same call goes
    on after the last finished block and ends with the labels of a run that was never
    interrupted. A finished run is not done again.

    Parameters
    ----------
    volume : path, array or Volume
        A path is what `reproduce` needs. Of volumes over time (t, z, y, x) all time
        points, or some, are segmented one after the other, as by `segment_series`.
    prompts, model, options, device, **changes
        As for `segment`.
    out : path
        The run's folder, new or begun by the same call.
    channel : int or str, optional
        Which channel; needed where there are several.
    time : int or pair of int, optional
        One time point, or the first and the one after the last; by default all. One
        is segmented as a volume of its own.
    consensus : bool
        Whether to run along each axis and let the three runs vote, as
        `segment_consensus` does.
    force : bool
        Whether to form a consensus of a volume that is not isotropic, too.
    ome_zarr : {"0.5", "0.4"}
        Version of the label images.
    overwrite : bool
        Whether another run in the folder is replaced.
    load : str or path, optional
        By which a network that is given as such can be loaded again.
    scheduler : str or distributed.Client, optional
        Have a cluster do it, which must see `volume` and `out` under the same paths;
        its address or a client. The run goes on if this process ends, and the same
        call, also without `scheduler`, attaches to it.
    workers : int, optional
        Have them run in so many processes here. A script that asks for this must
        guard its main part by ``if __name__ == "__main__":``.
    on_progress : callable, optional
        Called with the slices that are finished and all, after each block.
    stopped : callable, optional
        Asked again and again whether the rest is not wanted any more. A cluster is
        then told to stop, too.

    Returns
    -------
    Run

    Raises
    ------
    Stopped
        If `stopped` said so; what is finished is kept.
    OutputError
        If the folder is in use, holds something else or a run that differs, or
        cannot be written.
    VolumeError, PromptError, OptionError, CheckpointError, DeviceError, FormatError
        As for `segment`.
    """
    if ome_zarr not in OME_VERSIONS:
        raise OptionError(f"OME-Zarr can be written as 0.4 or 0.5, not {ome_zarr!r}.")
    options = merge_options(options, changes)
    refuse_separate(options, "a run's folder")
    asked = Asked(
        volume,
        parse_prompts(prompts),
        Path(out),
        default_model() if model is None else model,
        options,
        device=device,
        channel=channel,
        time=time,
        consensus=consensus,
        force=force,
        ome_zarr=ome_zarr,
        overwrite=overwrite,
        load=load,
    )
    if workers is None and (scheduler is not None or (asked.folder / JOB).is_file()):
        jobs = _import_extra("jobs")
        with jobs.job_client(scheduler, asked.folder) as client:
            if client is not None:
                jobs.follow_job(client, asked, on_progress, stopped)
                return Run(asked.folder)
        (asked.folder / JOB).unlink(
            missing_ok=True
        )  # the cluster may just have done so
    if scheduler is None and workers is None:
        return do_asked(asked, None, on_progress, stopped)
    with _import_extra("cluster").connect(scheduler, workers) as client:
        return do_asked(asked, client, on_progress, stopped)


def do_asked(
    asked: Asked,
    client: Client | None,
    on_progress: Progress | None,
    stopped: Callable[[], bool] = lambda: False,
) -> Run:
    """Do a run, its blocks on a cluster if there is a client of one.

    `stopped` is asked again and again whether the rest is not wanted any more.
    """
    chosen = {}
    if asked.is_path:
        times = list(asked.time) if isinstance(asked.time, tuple) else asked.time
        chosen = {"channel": asked.channel, "time": times}
    opened = open_input(
        asked.volume, asked.channel, asked.time, consensus=asked.consensus
    )
    if asked.consensus and isinstance(opened, Volume):
        check_consensus(opened, asked.options, force=asked.force)
    local, kind = asked.device, None
    do: DoBlocks | None = None
    model = asked.load or asked.model
    if client is not None:
        cluster = _import_extra("cluster")
        local, kind = "cpu", cluster.kind_of_device(client, asked.device)
        do = partial(
            cluster.blocks_on_cluster,
            client,
            model=model,
            device=asked.device,
            stopped=stopped,
        )
    network: Any = asked.model
    if isinstance(network, str | os.PathLike):
        network = load_model(network)
    job = Job(
        # A run sees each slice once: remembered features would only take room.
        Engine(network, local, seed=asked.options.seed, cache_bytes=0),
        chosen,
        _load_name(model),
        asked.ome_zarr,
        kind=kind,
        do=do,
        overwrite=asked.overwrite,
        on_progress=on_progress,
        stopped=stopped,
    )
    given = (asked.prompts, asked.options, asked.folder, job)
    if isinstance(opened, Series):
        return series_to_folder(opened, *given)
    if asked.consensus:
        return consensus_to_folder(opened, *given)
    plan = plan_run(
        opened, asked.prompts, asked.options, config=job.engine.model.config
    )
    return volume_to_folder(plan, asked.folder, job)


def reproduce(
    record: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    volume: Any = None,
    model: str | os.PathLike[str] | Network | None = None,
    device: str | None = None,
    on_progress: Progress | None = None,
) -> tuple[Run, list[str]]:
    """Do a recorded run again, and compare.

    Parameters
    ----------
    record : path
        A run's ``manifest.json``, or its folder.
    out : path
        Folder for the new run.
    volume, model : optional
        In place of the recorded path and model; needed if the run was given an array
        or a network.
    device : str, optional
        By default the kind of device of the recorded run.
    on_progress : callable, optional
        As for `segment_to_folder`.

    Returns
    -------
    run : Run
    differences : list of str
        What differs from the record in words; empty if all labels are equal to the
        bit.

    Raises
    ------
    FormatError, OptionError
        If there is no such record, or it does not say from what to run.
    """
    old = read_manifest(Path(record))
    volume = old.source["path"] if volume is None else volume
    model = old.load if model is None else model
    for what, value in (("volume", volume), ("model", model)):
        if value is None:
            raise OptionError(
                f"{os.fspath(record)} was run on a {what} from memory; give the {what}."
            )
    time = old.source.get("time")
    run = segment_to_folder(
        volume,
        old.prompts,
        out,
        model,
        old.options,
        device=device or old.environment["device"].partition(":")[0],
        channel=old.source.get("channel"),
        time=tuple(time) if isinstance(time, list) else time,
        consensus=old.kind == "consensus",
        force=True,
        ome_zarr=old.output["ome_zarr"],
        on_progress=on_progress,
    )
    new = run.manifest
    found = old.differences(new)
    found += _other_labels(old, new)
    for at, (a, b) in enumerate(zip(old.parts, new.parts, strict=False)):
        where = f"time point {at}" if old.kind == "series" else f"run {at + 1} of 3"
        found += [f"{where}: {other}" for other in _other_labels(a, b)]
    if old.finished is None:
        found.append("the recorded run was not finished")
    return run, found


def open_input(
    volume: Any, channel: int | str | None, time: Times, *, consensus: bool
) -> Volume | Series:
    """Open a file, if it is one, and choose a channel and time points."""
    if isinstance(volume, str | os.PathLike):
        image = choose_channel(open_image(volume), channel)
        if isinstance(time, int) or consensus or not has_time_points(image):
            one = time if isinstance(time, int) else None
            return open_volume(volume, channel=channel, time=one)
        return open_series(image, time=time)
    return choose_input(volume, channel=channel, time=time, consensus=consensus)


def _other_labels(old: Manifest, new: Manifest) -> list[str]:
    return [
        f"slices {a.start} to {a.stop - 1} have other labels"
        for a, b in zip(old.blocks, new.blocks, strict=False)
        if a != b
    ]


def _import_extra(name: str) -> Any:
    try:
        return import_module(f"napari_biomedparse.runs.{name}")
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
