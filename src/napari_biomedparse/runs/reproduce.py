"""A recorded run once more, and what differs from the record."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from napari_biomedparse.errors import OptionError
from napari_biomedparse.runs.folder import Run
from napari_biomedparse.runs.manifest import Manifest, read_manifest
from napari_biomedparse.runs.run import FolderOptions, segment_to_folder

if TYPE_CHECKING:
    from napari_biomedparse.data.volume import VolumeLike
    from napari_biomedparse.networks.network import Network
    from napari_biomedparse.runs.blocks import Progress

logger = logging.getLogger(__name__)


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
