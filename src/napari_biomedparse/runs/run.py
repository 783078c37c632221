"""Segmentation straight to a folder, resumed after any interruption."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from napari_biomedparse.data.options import refuse_separate
from napari_biomedparse.data.prompts import parse_prompts
from napari_biomedparse.errors import OptionError
from napari_biomedparse.networks.weights import model_or_default
from napari_biomedparse.pipeline.plan import merge_options
from napari_biomedparse.runs.blocks import never
from napari_biomedparse.runs.folder import JOB, Run
from napari_biomedparse.runs.manifest import Manifest, read_manifest
from napari_biomedparse.runs.request import (
    FolderChanges,
    FolderOptions,
    RunRequest,
    cluster_packages,
    do_request,
    split_changes,
)

if TYPE_CHECKING:
    from napari_biomedparse.data.options import SegmentOptions
    from napari_biomedparse.data.prompts import PromptsLike
    from napari_biomedparse.data.volume import VolumeLike
    from napari_biomedparse.networks.network import Network
    from napari_biomedparse.runs.request import Progress

logger = logging.getLogger(__name__)


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
    how, others = split_changes(folder_options, changes)
    options = merge_options(options, others)
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
                jobs.follow_job(client, request, on_progress, stopped)
                return Run(request.folder)
        job.unlink(missing_ok=True)  # the cluster may just have done so
    if scheduler is None and workers is None:
        return do_request(request, None, on_progress, stopped)
    with cluster_packages():
        from napari_biomedparse.runs.cluster import connect
    with connect(scheduler, workers) as client:
        return do_request(request, client, on_progress, stopped)


def reproduce(
    record: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    volume: str | os.PathLike[str] | VolumeLike | None = None,
    model: str | os.PathLike[str] | Network | None = None,
    device: str | None = None,
    on_progress: Progress | None = None,
) -> tuple[Run, list[str]]:
    """Repeat a recorded run, and compare.

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
        If there is no such record, or the volume or the model must be given.
    VolumeError, CheckpointError, DeviceError, OutputError
        As for `segment_to_folder`.
    """
    old = read_manifest(Path(record))
    if Path(out).resolve() in (place := Path(record).resolve(), place.parent):
        raise OptionError(
            f"{out} is the recorded run itself; choose a new folder, in which to "
            "repeat it."
        )
    volume = old.source.get("path") if volume is None else volume
    model = old.load if model is None else model
    for what, value in (("volume", volume), ("model", model)):
        if value is None:
            raise OptionError(
                f"{os.fspath(record)} used a {what} from memory; give the {what}."
            )
    assert volume is not None
    time = old.source.get("time")
    how = FolderOptions(
        device=device or str(old.environment.get("device", "auto")).partition(":")[0],
        channel=old.source.get("channel"),
        time=tuple(time) if isinstance(time, list) else time,
        consensus=old.kind == "consensus",
        force=True,
        ome_zarr=old.output["ome_zarr"],
    )
    run = segment_to_folder(
        volume, old.prompts, out, model, old.options, how, on_progress=on_progress
    )
    new = run.manifest
    place = Path(record)
    if count := Run(place if place.is_dir() else place.parent).edited:
        logger.warning(
            "%s: %d voxels were edited by hand, and are compared as the network gave "
            "them.",
            place,
            count,
        )
    found = old.differences(new)
    found += _other_labels(old, new)
    for at, (a, b) in enumerate(zip(old.parts, new.parts, strict=False)):
        where = f"time point {at}" if old.kind == "series" else f"run {at + 1} of 3"
        found += [f"{where}: {other}" for other in _other_labels(a, b)]
    if old.finished is None:
        found.append("the recorded run was not finished")
    return run, found


def _other_labels(old: Manifest, new: Manifest) -> list[str]:
    return [
        f"slices {a.start} to {a.stop - 1} have other labels"
        for a, b in zip(old.blocks, new.blocks, strict=False)
        if a != b
    ]
