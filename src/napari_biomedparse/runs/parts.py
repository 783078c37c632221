"""Runs in a folder that are made of several: a time series, a consensus.

Each time point, and the run along each axis, is a run of its own in the folder's
``parts``, so that all that holds for one volume holds for these, too. Once all are
finished their records become part of the folder's manifest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_biomedparse.io.durable import writing
from napari_biomedparse.io.formats.ome_labels import create_labels
from napari_biomedparse.io.identity import identify
from napari_biomedparse.pipeline.parts import plan_parts, vote
from napari_biomedparse.pipeline.plan import plan_run
from napari_biomedparse.runs.blocks import (
    FilledBlock,
    grid_volume,
    object_layout,
    open_stores,
    unfinished,
    write_block,
    write_objects,
)
from napari_biomedparse.runs.folder import (
    LABELS,
    OBJECTS,
    Run,
    finish,
    layout_of,
    open_folder,
    part_folders,
    verified_blocks,
)
from napari_biomedparse.runs.volume_run import describe_run, run_to_folder

if TYPE_CHECKING:
    from napari_biomedparse.data.options import SegmentOptions
    from napari_biomedparse.data.prompts import PromptSet
    from napari_biomedparse.data.volume import Volume
    from napari_biomedparse.engine.engine import Engine
    from napari_biomedparse.io.formats.ome_labels import LabelStore, OmeVersion
    from napari_biomedparse.pipeline.parts import Series
    from napari_biomedparse.pipeline.plan import RunPlan
    from napari_biomedparse.runs.manifest import Block, Manifest
    from napari_biomedparse.runs.volume_run import DoBlocks, Progress


@dataclass(frozen=True)
class Job:
    """How a run is done and what its record says besides the plan.

    Parameters
    ----------
    engine : Engine
    chosen : mapping
        Channel and time point if chosen from a file.
    load : str or None
        By which the network can be loaded again.
    ome_zarr : {"0.5", "0.4"}
    kind : str, optional
        Of the devices that will compute, if not the engine's.
    do : callable, optional
        Runs blocks elsewhere.
    overwrite : bool
        Whether another run in the folder is replaced.
    on_progress : callable, optional
        Called with the slices that are finished and all.
    stopped : callable
        Asked again and again whether the rest is not wanted any more.
    """

    engine: Engine
    chosen: Mapping[str, Any]
    load: str | None
    ome_zarr: OmeVersion = "0.5"
    kind: str | None = None
    do: DoBlocks | None = None
    overwrite: bool = False
    on_progress: Progress | None = None
    stopped: Callable[[], bool] = lambda: False

    def describe(self, plan: RunPlan) -> Manifest:
        """Make the manifest of a run that has not begun."""
        return describe_run(
            plan, self.engine, self.chosen, self.load, self.ome_zarr, kind=self.kind
        )

    def run(
        self, plan: RunPlan, manifest: Manifest, folder: Path, **more: Any
    ) -> Manifest:
        """Do what is missing of one volume's run."""
        return run_to_folder(
            plan,
            self.engine,
            manifest,
            folder,
            do=self.do,
            stopped=self.stopped,
            **more,
        ).manifest

    def counting_from(self, before: int, total: int) -> Progress | None:
        """Return the progress of a part, of which so many slices come before."""
        tell = self.on_progress
        return None if tell is None else lambda done, _: tell(before + done, total)


def volume_to_folder(plan: RunPlan, folder: Path, job: Job) -> Run:
    """Do what is missing of a volume's run."""
    job.run(
        plan,
        job.describe(plan),
        folder,
        overwrite=job.overwrite,
        on_progress=job.on_progress,
    )
    return Run(folder)


def series_to_folder(
    series: Series, prompts: PromptSet, options: SegmentOptions, folder: Path, job: Job
) -> Run:
    """Do what is missing of a series' run, time point by time point.

    Parameters
    ----------
    series : Series
    prompts : PromptSet
    options : SegmentOptions
    folder : Path
    job : Job

    Returns
    -------
    Run
        Its labels have the axis t first.
    """
    times = range(series.start, series.stop)
    config = job.engine.model.config
    first = plan_run(series.at(series.start), prompts, options, config=config)
    one = job.describe(first)
    common = one.output | {"times": len(times)}
    manifest = replace(
        one,
        source={**identify(series.volume, one.source["voxels"]), **job.chosen},
        parameters=one.parameters | {"times": [series.start, series.stop]},
        output=common,
    )
    with open_folder(folder, manifest, overwrite=job.overwrite) as found:
        if found.finished is None:
            _create_series(series, first, found, folder)
            parts, size = [], first.stop - first.start
            for at, place in enumerate(part_folders(folder, found)):
                plan, part = first, one  # each time point is looked at once
                if at > 0:
                    volume = series.at(times[at])
                    plan = plan_run(volume, prompts, options, config=config)
                    part = job.describe(plan)
                part = replace(part, output=common | {"time": at})
                progress = job.counting_from(at * size, len(times) * size)
                parts.append(job.run(plan, part, place, on_progress=progress))
            found = replace(found, parts=tuple(parts))
            if first.instances:
                found = replace(found, objects=sum(p.objects or 0 for p in parts))
            finish(folder, found, {})
    return Run(folder)


def consensus_to_folder(
    volume: Volume, prompts: PromptSet, options: SegmentOptions, folder: Path, job: Job
) -> Run:
    """Do what is missing of three runs along the axes, and of their vote.

    Parameters
    ----------
    volume : Volume
        That `check_consensus` accepts.
    prompts : PromptSet
    options : SegmentOptions
    folder : Path
    job : Job

    Returns
    -------
    Run
    """
    request = plan_parts(
        volume, prompts, options, config=job.engine.model.config, consensus=True
    )
    plans = [part.plan for part in request]
    one = job.describe(plans[0])
    manifest = replace(
        one,
        parameters=request.parameters(),
        output=one.output | {"along": list(volume.axes)},
    )
    total = sum(plan.geometry.depth for plan in plans)
    with open_folder(folder, manifest, overwrite=job.overwrite) as found:
        if found.finished is None:
            stores = open_stores(plans[0], found, folder)  # to be looked at
            runs: list[list[LabelStore]] = []
            parts, before = [], 0
            for plan, place in zip(plans, part_folders(folder, found), strict=True):
                part = job.run(
                    plan,
                    job.describe(plan),
                    place,
                    keep_edges=True,
                    on_progress=job.counting_from(before, total),
                )
                parts.append(part)
                runs.append(open_stores(plan, part, place))
                before += plan.geometry.depth
            found = replace(found, parts=tuple(parts))
            blocks = _vote(plans[0], found, folder, stores, runs)
            if plans[0].instances:
                objects = write_objects(folder, plans[0], found, stores)
                found = replace(found, objects=objects)
            finish(folder, found, blocks)
    return Run(folder)


def _create_series(
    series: Series, plan: RunPlan, manifest: Manifest, folder: Path
) -> None:
    """Make the empty label images, with an axis of time, that the parts fill."""
    one, layout = grid_volume(plan.volume), layout_of(manifest)
    assert layout.times is not None
    at = series.volume.axes.index("t")
    step = series.volume.spacing[at]
    grid = replace(
        one,
        data=np.broadcast_to(np.uint8(0), (layout.times, *one.shape)),
        axes=("t", *one.axes),
        spacing=(step, *one.spacing),
        units=(series.volume.units[at], *one.units),
        origin=(series.volume.origin[at] + series.start * step, *one.origin),
    )
    with writing(folder):
        prompts = replace(plan.prompts, instance=False)
        create_labels(folder / LABELS, layout, grid, prompts)
        if plan.instances:
            prompts = replace(prompts, instance=True)
            create_labels(folder / OBJECTS, object_layout(layout), grid, prompts)


def _vote(
    plan: RunPlan,
    manifest: Manifest,
    folder: Path,
    stores: list[LabelStore],
    runs: Iterable[list[LabelStore]],
) -> dict[int, Block]:
    """Let three runs vote, block by block; return the blocks, by start."""
    layout, runs = stores[0].layout, list(runs)
    blocks = verified_blocks(folder, stores)
    existence = manifest.parts[0].existence
    for begin, end in unfinished(plan, manifest, blocks):
        for start in range(begin, end, layout.thickness):
            stop = layout.block(start)[1]
            votes = [
                vote(*(run[kind].read_along(0, start, stop) for run in runs))
                for kind in range(len(stores))
            ]
            block = FilledBlock(
                start,
                stop,
                start,
                votes[0],
                votes[1] if plan.instances else None,
                existence[:, start:stop],
            )
            blocks[start] = write_block(plan, folder, stores, block)
    return blocks
