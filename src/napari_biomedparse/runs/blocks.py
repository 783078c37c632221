"""The work of a run: slices become blocks, and blocks are written to disk."""

from __future__ import annotations

import ctypes
import math
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from napari_biomedparse.errors import Cancelled
from napari_biomedparse.io.durable import writing
from napari_biomedparse.io.formats.ome_labels import LabelStore, create_labels
from napari_biomedparse.io.identity import check_unchanged
from napari_biomedparse.io.lazy import chunk_thickness
from napari_biomedparse.labels.blockwise import block_shape, scratch, split_blockwise
from napari_biomedparse.labels.instances import OwnerTally
from napari_biomedparse.pipeline.loop import one_behind, run_plan
from napari_biomedparse.pipeline.plan import spans
from napari_biomedparse.runs.folder import (
    COMPONENTS,
    EDGES,
    LABELS,
    OBJECTS,
    checksum,
    home_of,
    layout_of,
    object_layout,
    record_block,
)
from napari_biomedparse.runs.manifest import Block, Manifest, read_manifest
from napari_biomedparse.runs.sources import SeenSlices

if TYPE_CHECKING:
    from napari_biomedparse.data.results import SegmentedSlices
    from napari_biomedparse.data.volume import Volume
    from napari_biomedparse.engine.engine import Engine
    from napari_biomedparse.pipeline.plan import RunPlan

LEAST_CHUNKS = 2
"""Minimum of the volume's chunks per task, so that none is read three times."""


def never() -> bool:
    """Return False: a run that cannot be cancelled."""
    return False


class FilledBlock(NamedTuple):
    """Slices `start` to `stop` of a block, in whole chunks of labels and edges."""

    start: int
    stop: int
    first: int
    """Slice at which the chunks begin, `start` or before it."""
    parts: list[npt.NDArray[Any]]
    """Labels and, to separate objects, edges; 0 where not run."""
    existence: npt.NDArray[np.float32]
    """[P, stop - start]"""
    read: str = ""
    """Checksum of the voxels that it was made of."""


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
) -> list[tuple[int, int]]:
    """Return the ranges of slices without a finished block, as long as possible."""
    layout, left, start = layout_of(manifest), set[int](), plan.start
    while start < plan.stop:
        stop = min(layout.block(start)[1], plan.stop)
        if start not in blocks:
            left |= set(range(start, stop))
        start = stop
    return spans(left)


def run_blocks(
    plan: RunPlan,
    engine: Engine,
    folder: Path,
    stores: list[LabelStore],
    start: int,
    stop: int,
    stopped: Callable[[], bool] = never,
) -> Iterator[Block]:
    """Run a range of whole blocks; each is yielded once it is safely on the disk.

    `stopped` is polled after every batch of slices; once true, `Cancelled` is raised.
    """
    layout = stores[0].layout
    seen = SeenSlices(plan)
    part = replace(plan, start=start, stop=stop, seen=seen)
    slices = run_plan(part, engine, align=layout.thickness)
    filled = _fill(slices, part, stores, stopped)
    yield from write_behind(
        (one._replace(read=seen.of(one.start, one.stop)) for one in filled),
        partial(write_block, plan, folder, stores),
    )


def write_block(
    plan: RunPlan, folder: Path, stores: list[LabelStore], block: FilledBlock
) -> Block:
    """Write a block, and record it once it is safely on the disk."""
    with writing(folder):
        record = _record(plan, block)
        for store, data in zip(stores, block.parts, strict=True):
            written = store.write(block.first, data)
            store.sync()
            own = written[_own_slices(plan, block)]
            record.written.append(checksum(own))
        record = replace(record, edits=stores[0].journal.end)
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


def write_objects(
    folder: Path,
    plan: RunPlan,
    manifest: Manifest,
    stores: list[LabelStore],
    blocks: Mapping[int, Block],
) -> Manifest:
    """Separate objects on disk, from finished blocks of labels and edges.

    Returns the manifest with their number and owners.
    """
    labels, edges = stores
    layout, home = object_layout(labels.layout), home_of(folder, manifest)
    prompts = replace(plan.prompts, instance=True)
    with writing(folder):
        if home == folder:
            create_labels(folder / OBJECTS, layout, grid_volume(plan.volume), prompts)
        store = LabelStore(home / OBJECTS, layout, manifest.output.get("time", 0))
        chunks = layout.chunks(0)
        components = scratch(folder / COMPONENTS, layout.shape, chunks)
        block = block_shape(chunks, layout.shape)
        count = split_blockwise(
            labels, edges, components, store, block, plan.options.minimum_size
        )
        finest = 0 if store.journal.end else 1  # what a person changed goes on top
        scores = manifest.with_blocks(blocks).existence
        scores = scores[:, 0] if scores.ndim == 3 else scores  # of a consensus
        tally = OwnerTally(count, prompts.ids, scores, layout.axis)
        for start in range(0, layout.shape[layout.axis], layout.thickness):
            span = layout.block(start)
            instances = store.read(*span)
            tally.add(instances, labels.read(*span), edges.read(*span), start)
            store.write(start, instances, finest=finest)
        store.sync()
        if home == folder:
            store.name_objects(tally.owners)
            store.sync()
    return replace(manifest, objects=count, owners=tally.owners.describe())


def grid_volume(volume: Volume) -> Volume:
    """Return a volume with the grid of its labels, without voxels and colours."""
    return replace(
        volume,
        data=np.broadcast_to(np.uint8(0), volume.grid),
        axes=volume.axes[:3],
        spacing=volume.spacing[:3],
        units=volume.units[:3],
        origin=volume.origin[:3],
        matrix=volume.matrix and tuple(row[:3] for row in volume.matrix[:3]),
        channel_names=(),
        levels=(),
    )


def _fill(
    slices: Iterable[SegmentedSlices],
    plan: RunPlan,
    stores: list[LabelStore],
    stopped: Callable[[], bool],
) -> Iterator[FilledBlock]:
    """Combine slices to blocks."""
    layout, filled = stores[0].layout, None
    for part in slices:
        if stopped():
            raise Cancelled("The run was cancelled; finished blocks are kept.")
        if filled is None:
            filled = _empty(part.start, plan, stores)
        where = [slice(None)] * 3
        where[layout.axis] = slice(part.start - filled.first, part.stop - filled.first)
        for whole, new in zip(filled.parts, (part.labels, part.edges), strict=False):
            whole[tuple(where)] = new
        at = slice(part.start - filled.start, part.stop - filled.start)
        filled.existence[:, at] = part.existence
        if part.stop == filled.stop:
            yield filled
            filled = None


def _empty(start: int, plan: RunPlan, stores: list[LabelStore]) -> FilledBlock:
    layout = stores[0].layout
    first, last = layout.block(start)
    stop = min(last, plan.stop)
    shape = list(layout.shape)
    shape[layout.axis] = last - first
    parts = [np.zeros(shape, layout.dtype) for _ in stores]
    existence = np.full((len(plan.prompts), stop - start), np.nan, np.float32)
    return FilledBlock(start, stop, first, parts, existence)


def _record(plan: RunPlan, block: FilledBlock) -> Block:
    axis = plan.geometry.axis
    parts = [array[_own_slices(plan, block)] for array in block.parts]
    ids = list(plan.prompts.ids)
    counts = [
        np.bincount(plane.ravel(), minlength=ids[-1] + 1)[ids].tolist()
        for plane in np.moveaxis(parts[0], axis, 0)
    ]
    return Block(
        start=block.start,
        stop=block.stop,
        existence=block.existence.astype(float).tolist(),
        voxels=[list(row) for row in zip(*counts, strict=True)],
        checksum=checksum(*parts),
        read=block.read,
    )


def _own_slices(plan: RunPlan, block: FilledBlock) -> tuple[slice, ...]:
    """Return where the block's slices are in its chunks."""
    where = [slice(None)] * 3
    where[plan.geometry.axis] = slice(
        block.start - block.first, block.stop - block.first
    )
    return tuple(where)


def task_size(plan: RunPlan, thickness: int) -> int:
    """Return the number of slices per task: whole blocks, and several chunks."""
    chunk = chunk_thickness(plan.volume.data, plan.geometry.axis)
    return thickness * math.ceil(LEAST_CHUNKS * chunk / thickness)


def split_range(start: int, stop: int, size: int) -> Iterator[tuple[int, int]]:
    """Cut a range of slices into tasks."""
    while start < stop:
        end = min(stop, (start // size + 1) * size)
        yield start, end
        start = end


def __getattr__(name: str) -> object:
    """Return `Cancelled` by its earlier name, for one release."""
    if name != "Stopped":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn("Stopped is now Cancelled", DeprecationWarning, stacklevel=2)
    return Cancelled
