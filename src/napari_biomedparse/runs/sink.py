"""A request in a run folder: its record, its parts, and how their results combine.

A single volume lies in the folder itself. Each time point of a series, and the run
along each axis of a consensus, is a run of its own in the folder's ``parts``, so that
what holds for one volume holds for these, too. Once all are finished, their records
become part of the folder's manifest.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from napari_biomedparse.io.durable import writing
from napari_biomedparse.io.formats.ome_labels import (
    LabelStore,
    OmeVersion,
    create_labels,
    plan_thickness,
)
from napari_biomedparse.io.identity import identify
from napari_biomedparse.networks.weights import model_identity
from napari_biomedparse.pipeline.parts import Part, PartsPlan, Series, run_parts, vote
from napari_biomedparse.runs.blocks import (
    FilledBlock,
    grid_volume,
    never,
    object_layout,
    open_stores,
    run_blocks,
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
from napari_biomedparse.runs.manifest import Block, Manifest

if TYPE_CHECKING:
    from napari_biomedparse.engine.engine import Engine
    from napari_biomedparse.pipeline.plan import RunPlan

Progress = Callable[[int, int], None]
"""Called with the number of finished slices, and of all."""
DoBlocks = Callable[
    ["RunPlan", Path, Manifest, Iterable[tuple[int, int]]], Iterator[Block]
]
"""Runs ranges of slices; see `blocks_on_cluster`."""


@dataclass(frozen=True)
class Execution:
    """How a request is run, and what its record says besides its plans."""

    engine: Engine
    chosen: Mapping[str, Any]
    """Channel and time point if chosen from a file."""
    load: str | None
    """Name or path by which the network can be loaded again."""
    ome_zarr: OmeVersion = "0.5"
    kind: str | None = None
    """Of the devices that compute, if not the engine's."""
    do: DoBlocks | None = None
    """Runs blocks elsewhere; without it the engine runs them here."""
    stopped: Callable[[], bool] = never
    """Polled: whether the rest is no longer wanted."""

    def describe(self, plan: RunPlan) -> Manifest:
        """Make the manifest of a plan's run before it begins."""
        return describe_run(
            plan, self.engine, self.chosen, self.load, self.ome_zarr, kind=self.kind
        )


def describe_run(
    plan: RunPlan,
    engine: Engine,
    chosen: Mapping[str, Any],
    load: str | None,
    ome_zarr: OmeVersion,
    *,
    kind: str | None = None,
) -> Manifest:
    """Make the manifest of a run before it begins; `Execution` explains the rest."""
    device = str(engine.device) if kind is None else kind
    shape, axis = plan.geometry.shape, plan.geometry.axis
    itemsize = plan.label_dtype.itemsize * (2 if plan.instances else 1)
    # A cluster's GPUs choose by what they can do: see `find_precision`.
    precision = "half" if kind == "cuda" else engine.precision
    return Manifest(
        source={**identify(plan.volume, plan.intensity.sampled), **chosen},
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
            "precision": precision,
            "torch": str(torch.__version__),  # a class of its own
            "numpy": np.__version__,
            "python": platform.python_version(),
            "platform": platform.platform(),
        },
    )


def parts_to_folder(
    parts: PartsPlan,
    folder: Path,
    execution: Execution,
    *,
    overwrite: bool = False,
    on_progress: Progress | None = None,
) -> Run:
    """Run what is missing of a request in a folder, new or begun."""
    first = execution.describe(parts.first)
    whole = replace(first, parameters=parts.parameters())
    if parts.series is not None:
        source = identify(parts.series.volume, first.source["voxels"])
        output = first.output | {"times": len(parts.keys)}
        source |= execution.chosen
        whole = replace(whole, source=source, output=output)
    if parts.kind == "consensus":
        whole = replace(whole, output=first.output | {"along": list(parts.keys)})
    with open_folder(folder, whole, overwrite=overwrite) as found:
        if found.finished is None:
            sink = FolderSink(parts, folder, found, execution, first)
            with closing(run_parts(parts, sink)) as blocks:
                for _ in blocks:
                    if on_progress is not None:
                        on_progress(sink.done, parts.total)
            sink.combine()
    return Run(folder)


class FolderSink:
    """Writes the parts of a request to an open run folder; a `Sink`.

    `manifest` is the folder's, `first` that of the first part's run. The attribute
    `done` is the number of finished slices.
    """

    def __init__(
        self,
        parts: PartsPlan,
        folder: Path,
        manifest: Manifest,
        execution: Execution,
        first: Manifest,
    ) -> None:
        self._parts, self._folder, self._manifest = parts, folder, manifest
        self._execution, self._first = execution, first
        self._finished: list[Manifest] = []
        self._runs: list[list[LabelStore]] = []
        self.done = 0
        if parts.series is not None:
            _create_series(parts.series, parts.first, manifest, folder)
        if parts.kind == "consensus":  # can be looked at before the vote
            self._stores = open_stores(parts.first, manifest, folder)

    def run(self, part: Part) -> Generator[Block]:
        """Run what is missing of a part; yield each block once it is on the disk."""
        plan = part.plan
        if self._parts.kind == "volume":
            yield from self._run(plan, self._folder, self._manifest)
            return
        first = part.number == 0
        one = self._first if first else self._execution.describe(plan)
        if self._parts.kind == "series":
            output = self._manifest.output | {"time": part.number}
            one = replace(one, output=output)
        place = part_folders(self._folder, self._manifest)[part.number]
        before = self.done
        with open_folder(place, one, overwrite=False) as found:
            if found.finished is None:
                yield from self._run(plan, place, found)
        self.done = before + plan.stop - plan.start
        self._finished.append(Run(place).manifest)
        if self._parts.kind == "consensus":
            self._runs.append(open_stores(plan, self._finished[-1], place))

    def _run(self, plan: RunPlan, folder: Path, manifest: Manifest) -> Generator[Block]:
        execution, before = self._execution, self.done
        keep_edges = self._parts.kind == "consensus"
        stores = open_stores(plan, manifest, folder)
        blocks = verified_blocks(folder, stores)
        ranges = unfinished(plan, manifest, blocks)
        if execution.do is not None:
            new = execution.do(plan, folder, manifest, ranges)
        else:
            new = chain.from_iterable(
                run_blocks(
                    plan, execution.engine, folder, stores, *span, execution.stopped
                )
                for span in ranges
            )
        for block in new:
            blocks[block.start] = block
            self.done = before + sum(b.stop - b.start for b in blocks.values())
            yield block
        if plan.instances and not keep_edges:
            count = write_objects(folder, plan, manifest, stores)
            manifest = replace(manifest, objects=count)
        with writing(folder):
            for store in stores:
                store.sync()  # they are still there
        finish(folder, manifest, blocks, keep_edges=keep_edges)

    def combine(self) -> None:
        """Finish the whole from its finished parts."""
        parts, first = self._parts, self._parts.first
        if parts.kind == "volume":
            return
        found = replace(self._manifest, parts=tuple(self._finished))
        blocks: dict[int, Block] = {}
        if parts.kind == "consensus":
            blocks = self._vote()
        if first.instances:
            count = sum(one.objects or 0 for one in self._finished)
            if parts.kind == "consensus":
                count = write_objects(self._folder, first, found, self._stores)
            found = replace(found, objects=count)
        finish(self._folder, found, blocks)

    def _vote(self) -> dict[int, Block]:
        """Let three runs vote, block by block; return the blocks, by start."""
        plan, stores = self._parts.first, self._stores
        layout, existence = stores[0].layout, self._finished[0].existence
        blocks = verified_blocks(self._folder, stores)
        for begin, end in unfinished(plan, self._manifest, blocks):
            for start in range(begin, end, layout.thickness):
                stop = layout.block(start)[1]
                labels, *edges = (
                    vote(*(run[kind].read_along(0, start, stop) for run in self._runs))
                    for kind in range(len(stores))
                )
                block = FilledBlock(
                    start,
                    stop,
                    start,
                    labels,
                    edges[0] if edges else None,
                    existence[:, start:stop],
                )
                blocks[start] = write_block(plan, self._folder, stores, block)
        return blocks


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
