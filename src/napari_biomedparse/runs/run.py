"""A run that writes to a folder as it goes, and goes on after any interruption."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from napari_biomedparse.errors import OptionError
from napari_biomedparse.io import open_volume
from napari_biomedparse.plan import RunPlan, plan_run
from napari_biomedparse.runs.blocks import (
    open_stores,
    run_blocks,
    unfinished,
    write_objects,
)
from napari_biomedparse.runs.folder import Run, finish, open_folder, verified_blocks
from napari_biomedparse.runs.identity import identify
from napari_biomedparse.runs.manifest import Block, Manifest, read_manifest
from napari_biomedparse.runs.store import OmeVersion, plan_thickness
from napari_biomedparse.segment import make_engine, merge_options
from napari_biomedparse.weights import default_model, model_identity

if TYPE_CHECKING:
    from distributed import Client

    from napari_biomedparse.engine import Engine
    from napari_biomedparse.model.biomedparse import BiomedParse
    from napari_biomedparse.options import SegmentOptions

Progress = Callable[[int, int], None]
"""Called with the slices that are finished, and all."""
DoBlocks = Callable[
    ["RunPlan", Path, "Manifest", Iterable[tuple[int, int]]], Iterator["Block"]
]
"""Runs ranges of slices; see `blocks_on_cluster`."""
OME_VERSIONS = ("0.4", "0.5")


def segment_to_folder(
    volume: Any,
    prompts: Any,
    out: str | os.PathLike[str],
    model: str | os.PathLike[str] | BiomedParse | None = None,
    options: SegmentOptions | None = None,
    *,
    device: str = "auto",
    channel: int | str | None = None,
    time: int | None = None,
    ome_zarr: OmeVersion = "0.5",
    overwrite: bool = False,
    load: str | os.PathLike[str] | None = None,
    scheduler: str | Client | None = None,
    workers: int | None = None,
    on_progress: Progress | None = None,
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
        A path is what `reproduce` needs.
    prompts, model, options, device, **changes
        As for `segment`.
    out : path
        The run's folder, new or begun by the same call.
    channel, time
        As for `open_volume`, if a path is given.
    ome_zarr : {"0.5", "0.4"}
        Version of the label images.
    overwrite : bool
        Whether another run in the folder is replaced.
    load : str or path, optional
        By which a network that is given as such can be loaded again.
    scheduler : str or distributed.Client, optional
        Have the blocks run on a cluster, which must see `volume` and `out` under the
        same paths; its address or a client.
    workers : int, optional
        Have them run in so many processes here. A script that asks for this must
        guard its main part by ``if __name__ == "__main__":``.
    on_progress : callable, optional
        Called with the slices that are finished and all, after each block.

    Returns
    -------
    Run

    Raises
    ------
    OutputError
        If the folder is in use, holds something else or a run that differs, or
        cannot be written.
    VolumeError, PromptError, OptionError, CheckpointError, DeviceError, FormatError
        As for `segment`.
    """
    options = merge_options(options, changes)
    if ome_zarr not in OME_VERSIONS:
        raise OptionError(f"OME-Zarr can be written as 0.4 or 0.5, not {ome_zarr!r}.")
    chosen: dict[str, Any] = {}
    if isinstance(volume, str | os.PathLike):
        volume = open_volume(volume, channel=channel, time=time)
        chosen = {"channel": channel, "time": time}
    model = default_model() if model is None else model
    do: DoBlocks | None = None
    with ExitStack() as stack:
        local, kind = device, None
        if scheduler is not None or workers is not None:
            cluster = _import_cluster()
            client = stack.enter_context(cluster.connect(scheduler, workers))
            local, kind = "cpu", cluster.kind_of_device(client, device)
            do = partial(
                cluster.blocks_on_cluster, client, model=load or model, device=device
            )
        engine = make_engine(model, local, options)
        plan = plan_run(volume, prompts, options, config=engine.model.config)
        manifest = describe_run(
            plan, engine, chosen, _load_name(load or model), ome_zarr, kind=kind
        )
        return run_to_folder(
            plan,
            engine,
            manifest,
            Path(out),
            overwrite=overwrite,
            do=do,
            on_progress=on_progress,
        )


def reproduce(
    record: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    volume: Any = None,
    model: str | os.PathLike[str] | BiomedParse | None = None,
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
    run = segment_to_folder(
        volume,
        old.prompts,
        out,
        model,
        old.options,
        device=device or old.environment["device"].partition(":")[0],
        channel=old.source.get("channel"),
        time=old.source.get("time"),
        ome_zarr=old.output["ome_zarr"],
        on_progress=on_progress,
    )
    new = run.manifest
    found = old.differences(new)
    found += [
        f"slices {a.start} to {a.stop - 1} have other labels"
        for a, b in zip(old.blocks, new.blocks, strict=False)
        if a != b
    ]
    if old.finished is None:
        found.append("the recorded run was not finished")
    return run, found


def describe_run(
    plan: RunPlan,
    engine: Engine,
    chosen: Mapping[str, Any],
    load: str | None,
    ome_zarr: OmeVersion,
    *,
    kind: str | None = None,
) -> Manifest:
    """Make the manifest of a run that has not begun.

    `kind` is that of the devices that will compute, if not the engine's.
    """
    device = str(engine.device) if kind is None else kind
    shape, axis = plan.geometry.shape, plan.geometry.axis
    itemsize = plan.label_dtype.itemsize * (2 if plan.instances else 1)
    return Manifest(
        source={**identify(plan.volume), **chosen},
        model=model_identity(engine.model),
        parameters=plan.parameters(),
        output={
            "shape": list(shape),
            "dtype": str(plan.label_dtype),
            "axis": axis,
            "thickness": plan_thickness(shape, axis, itemsize),
            "ome_zarr": ome_zarr,
            "device": device.partition(":")[0],
        },
        load=load,
        environment={
            "device": device,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
            "platform": platform.platform(),
        },
    )


def run_to_folder(
    plan: RunPlan,
    engine: Engine,
    manifest: Manifest,
    folder: Path,
    *,
    overwrite: bool = False,
    do: DoBlocks | None = None,
    on_progress: Progress | None = None,
) -> Run:
    """Do what is missing of a run; see `segment_to_folder`.

    `do` runs ranges of blocks elsewhere; by default `engine` runs them here.
    """
    with open_folder(folder, manifest, overwrite=overwrite) as found:
        if found.finished is None:
            stores = open_stores(plan, found, folder)
            blocks = verified_blocks(folder, stores)
            total = plan.stop - plan.start
            ranges = unfinished(plan, found, blocks)
            if do is not None:
                new = do(plan, folder, found, ranges)
            else:
                new = chain.from_iterable(
                    run_blocks(plan, engine, folder, stores, start, stop)
                    for start, stop in ranges
                )
            for block in new:
                blocks[block.start] = block
                if on_progress:
                    on_progress(_count(blocks), total)
            if plan.instances:
                found = replace(found, objects=write_objects(folder, plan, stores))
            finish(folder, found, blocks)
    return Run(folder)


def _import_cluster() -> Any:
    try:
        return import_module("napari_biomedparse.runs.cluster")
    except ImportError as error:
        raise OptionError(
            f"Clusters need more packages ({error}); install them with: pip install "
            "'napari-biomedparse[cluster]'"
        ) from error


def _count(blocks: Mapping[int, Block]) -> int:
    return sum(block.stop - block.start for block in blocks.values())


def _load_name(model: str | os.PathLike[str] | BiomedParse) -> str | None:
    """Return a name by which the model can be loaded again, from any folder."""
    if not isinstance(model, str | os.PathLike):
        return None
    path = Path(model)
    return str(path.absolute()) if path.exists() else os.fspath(model)
