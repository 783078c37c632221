"""The work of a run: slices become blocks, blocks become parts, parts a whole.

A single volume lies in the folder itself. Each time point of a series, and the run
along each axis of a consensus, is a run of its own in the folder's ``parts``, so that
what holds for one volume holds for these, too. Once all are finished, their records
become part of the folder's manifest.
"""

from __future__ import annotations

import ctypes
import sys
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from napari_biomedparse.errors import Cancelled
from napari_biomedparse.io.durable import refuse_links, writing
from napari_biomedparse.io.formats.ome_labels import LabelStore, create_labels
from napari_biomedparse.io.inputs import check_unchanged, identify
from napari_biomedparse.pipeline.loop import one_behind, run_plan
from napari_biomedparse.pipeline.plan import Part, PartsPlan, run_parts, spans, vote
from napari_biomedparse.runs.folder import (
    EDGES,
    LABELS,
    OBJECTS,
    Run,
    checksum,
    finish,
    grid_volume,
    home_of,
    layout_of,
    mended,
    object_layout,
    open_folder,
    part_folders,
    record_block,
    verified_blocks,
)
from napari_biomedparse.runs.manifest import Block, Manifest, read_manifest
from napari_biomedparse.runs.objects import name_objects, write_objects
from napari_biomedparse.runs.sources import SeenSlices, check_same, refuse_changed

if TYPE_CHECKING:
    from napari_biomedparse.data.results import SegmentedSlices, Span
    from napari_biomedparse.engine.engine import Engine
    from napari_biomedparse.pipeline.plan import RunPlan

Progress = Callable[[int, int], None]
"""Called with the number of finished slices, and of all."""
DoBlocks = Callable[["RunPlan", Path, Manifest, Iterable["Span"]], Iterator[Block]]
"""Runs ranges of slices; see `blocks_here` and `blocks_on_cluster`."""


def never() -> bool:
    """Return False: a run that cannot be cancelled."""
    return False


class FilledBlock(NamedTuple):
    """Slices `start` to `stop` of a run."""

    start: int
    stop: int
    parts: list[npt.NDArray[Any]]
    """Labels and, to separate objects, edges."""
    existence: npt.NDArray[np.float32]
    """[P, stop - start]"""
    read: str = ""
    """Checksum of the voxels that it was made of."""


def parts_to_folder(
    parts: PartsPlan,
    folder: Path,
    describe: Callable[[RunPlan], Manifest],
    do: DoBlocks,
    *,
    overwrite: bool = False,
    on_progress: Progress | None = None,
) -> Run:
    """Run what is missing of a request in a folder, new or begun.

    `describe` makes the manifest of a plan's run before it begins, `do` its blocks.
    """
    first = describe(parts.first)
    whole = replace(first, parameters=first.parameters | parts.together)
    if parts.series is not None:
        source = first.source | identify(parts.series.volume, first.source["voxels"])
        output = first.output | {"times": len(parts.keys)}
        whole = replace(whole, source=source, output=output)
    if parts.kind == "consensus":
        whole = replace(whole, output=first.output | {"along": list(parts.keys)})

    def verify(found: Manifest) -> None:
        record = Run(folder).manifest
        for part, one in zip(parts, record.parts or (record,), strict=False):
            if one.blocks:
                refuse_changed(folder, part.plan, found, whole, one.blocks)

    with open_folder(folder, whole, overwrite=overwrite, verify=verify) as found:
        if found.finished is not None:
            found = mended(folder, found)
        if found.finished is None:
            sink = FolderSink(parts, folder, found, describe, do)
            with closing(run_parts(parts, sink.run)) as steps:
                for _, done in steps:
                    if on_progress is not None:
                        on_progress(done, parts.total)
            sink.combine()
    return Run(folder)


class FolderSink:
    """Writes the parts of a request to an open run folder, whose manifest is given."""

    def __init__(
        self,
        parts: PartsPlan,
        folder: Path,
        manifest: Manifest,
        describe: Callable[[RunPlan], Manifest],
        do: DoBlocks,
    ) -> None:
        self._parts, self._folder, self._manifest = parts, folder, manifest
        self._describe, self._do = describe, do
        self._finished: list[Manifest] = []
        self._runs: list[list[LabelStore]] = []
        self._done = 0
        if parts.kind == "series":
            self._create_series()
        if parts.kind == "consensus":  # can be looked at before the vote
            self._stores = open_stores(parts.first, manifest, folder)

    def run(self, part: Part) -> Generator[int]:
        """Run what is missing of a part; yield the number of finished slices of all.

        It is yielded whenever a block is on the disk.
        """
        plan = part.plan
        if self._parts.kind == "volume":
            yield from self._run(plan, self._folder, self._manifest)
            return
        one = self._describe(plan)
        if self._parts.kind == "series":
            output = self._manifest.output | {"time": part.number}
            one = replace(one, output=output)
        place = part_folders(self._folder, self._manifest)[part.number]
        before = self._done
        refuse_links(place.parent, place)
        with open_folder(
            place, one, overwrite=False, verify=lambda _: None
        ) as found:  # which was compared with all others
            if found.finished is None:
                found = yield from self._run(plan, place, found)
        self._done = before + plan.stop - plan.start
        self._finished.append(found)
        if self._parts.kind == "consensus":
            self._runs.append(open_stores(plan, found, place))

    def _run(
        self, plan: RunPlan, folder: Path, manifest: Manifest
    ) -> Generator[int, None, Manifest]:
        keep_edges, before = self._parts.kind == "consensus", self._done
        stores = open_stores(plan, manifest, folder)
        blocks = verified_blocks(folder, stores)
        ranges = unfinished(plan, manifest, blocks)
        for block in self._do(plan, folder, manifest, ranges):
            blocks[block.start] = block
            self._done = before + sum(b.stop - b.start for b in blocks.values())
            yield self._done
        if plan.instances and not keep_edges:
            manifest = write_objects(folder, plan, manifest, stores, blocks)
        if self._parts.kind == "volume":
            check_same(plan.volume, manifest, [(plan, blocks.values())])
        with writing(folder):
            for store in stores:
                store.sync()  # they are still there
        return finish(folder, manifest, blocks, keep_edges=keep_edges)

    def combine(self) -> None:
        """Finish the whole from its finished parts."""
        parts, first = self._parts, self._parts.first
        if parts.kind == "volume":
            return
        source = first.volume if parts.series is None else parts.series.volume
        plans = (part.plan for part in parts)
        blocks_of = (one.blocks for one in self._finished)
        check_same(source, self._manifest, zip(plans, blocks_of, strict=True))
        found = replace(self._manifest, parts=tuple(self._finished))
        blocks: dict[int, Block] = {}
        if parts.kind == "consensus":
            blocks = self._vote()
        if first.instances:
            count = sum(one.objects or 0 for one in self._finished)
            found = replace(found, objects=count)
            if parts.kind == "consensus":
                found = write_objects(self._folder, first, found, self._stores, blocks)
            else:
                found = name_objects(self._folder, found)
        finish(self._folder, found, blocks)

    def _create_series(self) -> None:
        """Make the empty label images, with an axis of time, that the parts fill."""
        parts, plan, layout = self._parts, self._parts.first, layout_of(self._manifest)
        assert parts.series is not None
        one = grid_volume(plan.volume)
        nothing = np.broadcast_to(np.uint8(0), (len(parts.keys), *one.shape))
        grid = parts.series.over_time(one, nothing)
        with writing(self._folder):
            prompts = replace(plan.prompts, instance=False)
            create_labels(self._folder / LABELS, layout, grid, prompts)
            if plan.instances:
                layout, prompts = object_layout(layout), replace(prompts, instance=True)
                create_labels(self._folder / OBJECTS, layout, grid, prompts)

    def _vote(self) -> dict[int, Block]:
        """Let three runs vote, block by block; return the blocks, by start."""
        plan, stores = self._parts.first, self._stores
        layout, existence = stores[0].layout, self._finished[0].existence
        blocks = verified_blocks(self._folder, stores)
        for begin, end in unfinished(plan, self._manifest, blocks):
            for start in range(begin, end, layout.thickness):
                stop = layout.block(start)[1]
                found = [
                    vote(*(run[kind][(slice(start, stop),)] for run in self._runs))
                    for kind in range(len(stores))
                ]
                block = FilledBlock(start, stop, found, existence[:, start:stop])
                blocks[start] = write_block(plan, self._folder, stores, block)
        return blocks


def open_stores(plan: RunPlan, manifest: Manifest, folder: Path) -> list[LabelStore]:
    """Open the stores of labels and, to separate objects, edges; create missing ones.

    The labels of a time point are in those of its series, which exist already.
    """
    layout, grid = layout_of(manifest), grid_volume(plan.volume)
    single = replace(layout, times=None)
    prompts = replace(plan.prompts, instance=False)
    home = home_of(folder, manifest)
    if home == folder:
        create_labels(folder / LABELS, layout, grid, prompts)
    stores = [LabelStore(home / LABELS, layout, manifest.output.get("time", 0))]
    if plan.instances:
        create_labels(folder / EDGES, single, grid, prompts)
        stores.append(LabelStore(folder / EDGES, single))
    return stores


def unfinished(
    plan: RunPlan, manifest: Manifest, blocks: Mapping[int, Block]
) -> list[Span]:
    """Return the ranges of slices without a finished block, as long as possible."""
    layout = layout_of(manifest)
    done = {i for start in blocks for i in range(start, layout.block(start)[1])}
    return spans(set(range(plan.start, plan.stop)) - done)


def blocks_here(
    plan: RunPlan,
    folder: Path,
    manifest: Manifest,
    ranges: Iterable[Span],
    *,
    engine: Engine,
    stopped: Callable[[], bool] = never,
) -> Iterator[Block]:
    """Run ranges of whole blocks; each is yielded once it is safely on the disk.

    `stopped` is polled after every batch of slices; once true, `Cancelled` is raised.
    """
    stores = open_stores(plan, manifest, folder)
    for start, stop in ranges:
        seen = SeenSlices(plan)
        part = replace(plan, start=start, stop=stop, seen=seen)
        slices = run_plan(part, engine, align=stores[0].layout.thickness)
        filled = _fill(slices, part, stores, stopped)
        yield from write_behind(
            (one._replace(read=seen.of(one.start, one.stop)) for one in filled),
            partial(write_block, plan, folder, stores),
        )


def _fill(
    slices: Iterable[SegmentedSlices],
    plan: RunPlan,
    stores: list[LabelStore],
    stopped: Callable[[], bool],
) -> Iterator[FilledBlock]:
    """Combine slices to blocks."""
    layout, block = stores[0].layout, None
    for part in slices:
        if stopped():
            raise Cancelled("The run was cancelled; finished blocks are kept.")
        if block is None:
            stop = min(layout.block(part.start)[1], plan.stop)
            shape, count = [*layout.shape], stop - part.start
            shape[layout.axis] = count
            parts = [np.empty(shape, layout.dtype) for _ in stores]
            existence = np.empty((len(plan.prompts), count), np.float32)
            block = FilledBlock(part.start, stop, parts, existence)
        here = slice(part.start - block.start, part.stop - block.start)
        where = (*(slice(None),) * layout.axis, here)
        for whole, new in zip(block.parts, (part.labels, part.edges), strict=False):
            whole[where] = new
        block.existence[:, here] = part.existence
        if part.stop == block.stop:
            yield block
            block = None


def write_block(
    plan: RunPlan, folder: Path, stores: list[LabelStore], block: FilledBlock
) -> Block:
    """Write a block, and record it once it is safely on the disk."""
    layout, ids = stores[0].layout, list(plan.prompts.ids)
    first, last = layout.block(block.start)
    before, after = block.start - first, last - block.stop
    around = [(before, after) if i == layout.axis else (0, 0) for i in range(3)]
    own = (*(slice(None),) * layout.axis, slice(before, block.stop - first))
    with writing(folder):
        counts = [
            np.bincount(plane.ravel(), minlength=ids[-1] + 1)[ids].tolist()
            for plane in np.moveaxis(block.parts[0], layout.axis, 0)
        ]
        written = []
        for store, part in zip(stores, block.parts, strict=True):
            chunks = np.pad(part, around) if before or after else part
            on_disk = store.write(first, chunks)
            store.sync()
            written.append(checksum([on_disk[own]]))
        record = Block(
            start=block.start,
            stop=block.stop,
            existence=[
                [None if p != p else p for p in row] for row in block.existence.tolist()
            ],
            voxels=[list(row) for row in zip(*counts, strict=True)],
            checksum=checksum(block.parts),
            written=written,
            read=block.read,
            edits=stores[0].journal.end,
        )
        check_unchanged(plan.volume, read_manifest(folder).source)
        record_block(folder, record)
    trim_memory()
    return record


def trim_memory() -> None:
    """Return freed memory to the system, where the C library keeps it (glibc).

    It would otherwise grow for some hundred slices, as blocks and chunks of many sizes
    leave gaps.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
        if trim is not None:
            trim(0)


def write_behind(
    items: Iterable[FilledBlock], write: Callable[[FilledBlock], Block]
) -> Iterator[Block]:
    """Write items in a thread while the next one is made; yield the results.

    What was made before an error is still written.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="napari-biomedparse writer") as pool:
        yield from one_behind(pool.submit(write, item).result for item in items)


def __getattr__(name: str) -> object:
    """Return `Cancelled` by its earlier name, for one release."""
    if name != "Stopped":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn("Stopped is now Cancelled", DeprecationWarning, stacklevel=2)
    return Cancelled
