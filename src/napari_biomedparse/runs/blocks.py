"""The work of a run: slices become blocks, and blocks go to the disk."""

from __future__ import annotations

import ctypes
import math
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from napari_biomedparse.io.durable import writing
from napari_biomedparse.io.formats.ome_labels import (
    LabelStore,
    Layout,
    create_labels,
    plan_thickness,
)
from napari_biomedparse.io.identity import check_unchanged
from napari_biomedparse.io.windows import chunk_thickness
from napari_biomedparse.labels.blockwise import block_shape, scratch, split_blockwise
from napari_biomedparse.pipeline.loop import run_plan
from napari_biomedparse.runs.folder import (
    COMPONENTS,
    EDGES,
    LABELS,
    OBJECTS,
    checksum,
    home_of,
    layout_of,
    record_block,
)
from napari_biomedparse.runs.manifest import Block, Manifest, read_manifest

if TYPE_CHECKING:
    from napari_biomedparse.data.results import SegmentedSlices
    from napari_biomedparse.data.volume import Volume
    from napari_biomedparse.engine.engine import Engine
    from napari_biomedparse.pipeline.plan import RunPlan

LEAST_CHUNKS = 2
"""Chunks of the volume that a task reads at least, so that none is read thrice."""


class Stopped(Exception):
    """A run was told to stop."""


class FilledBlock(NamedTuple):
    """All slices of a block, and whole chunks of labels.

    Attributes
    ----------
    start, stop : int
        Range of slices that were run.
    first : int
        Slice at which the chunks begin, `start` or before it.
    labels, edges : ndarray
        Whole chunks; 0 where not run. Edges only if they are wanted.
    existence : float32 ndarray [P, stop - start]
    """

    start: int
    stop: int
    first: int
    labels: npt.NDArray[Any]
    edges: npt.NDArray[Any] | None
    existence: npt.NDArray[np.float32]


def open_stores(plan: RunPlan, manifest: Manifest, folder: Path) -> list[LabelStore]:
    """Open the stores of labels and, if wanted, edges; make them if need be.

    The labels of a time point are in those of its series, which are there already.
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
    """Return the ranges of slices that are not finished, each as long as possible."""
    layout, ranges, start = layout_of(manifest), [], plan.start
    begun: int | None = None
    while start < plan.stop:
        stop = min(layout.block(start)[1], plan.stop)
        if start not in blocks:
            begun = start if begun is None else begun
        elif begun is not None:
            ranges.append((begun, start))
            begun = None
        start = stop
    return [*ranges, (begun, plan.stop)] if begun is not None else ranges


def run_blocks(
    plan: RunPlan,
    engine: Engine,
    folder: Path,
    stores: list[LabelStore],
    start: int,
    stop: int,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[Block]:
    """Run a range of whole blocks; each is yielded once it is safely on the disk.

    `stopped` is asked after every batch of slices; if so, `Stopped` is raised.
    """
    layout = stores[0].layout
    part = replace(plan, start=start, stop=stop)
    slices = run_plan(part, engine, align=layout.thickness)
    yield from write_behind(
        _fill(slices, part, stores, stopped),
        partial(write_block, plan, folder, stores),
    )


def write_block(
    plan: RunPlan, folder: Path, stores: list[LabelStore], block: FilledBlock
) -> Block:
    """Write a block, and record it once it is safely on the disk."""
    with writing(folder):
        for store, data in zip(stores, (block.labels, block.edges), strict=False):
            assert data is not None  # one store each
            store.write(block.first, data)
            store.sync()
        record = _record(plan, block)
        check_unchanged(plan.volume, read_manifest(folder).source)
        record_block(folder, record)
    trim_memory()
    return record


def trim_memory() -> None:
    """Give freed memory back to the system, where the C library keeps it (glibc).

    It would otherwise grow for some hundred slices, as blocks and chunks of many sizes
    leave gaps behind.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
        if trim is not None:
            trim(0)


def write_behind(
    items: Iterable[FilledBlock], write: Callable[[FilledBlock], Block]
) -> Iterator[Block]:
    """Write items in a thread while the next one is made, and yield what comes of it.

    What was made before an error is still written.
    """
    waiting: deque[Future[Block]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="napari-biomedparse writer") as pool:
        for item in items:
            waiting.append(pool.submit(write, item))
            if len(waiting) > 1:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def write_objects(
    folder: Path, plan: RunPlan, manifest: Manifest, stores: list[LabelStore]
) -> int:
    """Tell the objects of a run's labels apart, on disk; return how many there are.

    Parameters
    ----------
    folder : Path
    plan : RunPlan
    manifest : Manifest
    stores : list of two LabelStore
        Labels and edges, finished.
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
        for start in range(0, layout.shape[layout.axis], layout.thickness):
            store.write(start, store.read(*layout.block(start)), finest=1)
        store.sync()
    return count


def object_layout(layout: Layout) -> Layout:
    """Return how the objects of labels lie on the disk."""
    dtype = np.dtype(np.uint32)
    thickness = plan_thickness(layout.shape, layout.axis, dtype.itemsize)
    return replace(layout, dtype=dtype, thickness=thickness)


def grid_volume(volume: Volume) -> Volume:
    """Return a volume without voxels and colours: the scale of its labels."""
    return replace(
        volume,
        data=np.broadcast_to(np.uint8(0), volume.grid),
        axes=volume.axes[:3],
        spacing=volume.spacing[:3],
        units=volume.units[:3],
        origin=volume.origin[:3],
        channel_names=(),
        levels=(),
    )


def _fill(
    slices: Iterable[SegmentedSlices],
    plan: RunPlan,
    stores: list[LabelStore],
    stopped: Callable[[], bool],
) -> Iterator[FilledBlock]:
    """Put slices together to blocks."""
    layout, filled = stores[0].layout, None
    for part in slices:
        if stopped():
            raise Stopped
        if filled is None:
            filled = _empty(part.start, plan, stores)
        where = [slice(None)] * 3
        where[layout.axis] = slice(part.start - filled.first, part.stop - filled.first)
        filled.labels[tuple(where)] = part.labels
        if filled.edges is not None:
            filled.edges[tuple(where)] = part.edges
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
    labels, *edges = (np.zeros(shape, layout.dtype) for _ in stores)
    existence = np.full((len(plan.prompts), stop - start), np.nan, np.float32)
    return FilledBlock(
        start, stop, first, labels, edges[0] if edges else None, existence
    )


def _record(plan: RunPlan, block: FilledBlock) -> Block:
    axis = plan.geometry.axis
    where = [slice(None)] * 3
    where[axis] = slice(block.start - block.first, block.stop - block.first)
    parts = [
        array[tuple(where)]
        for array in (block.labels, block.edges)
        if array is not None
    ]
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
    )


def task_size(plan: RunPlan, thickness: int) -> int:
    """Return the slices of a task: whole blocks, and several of the volume's chunks."""
    chunk = chunk_thickness(plan.volume.data, plan.geometry.axis)
    return thickness * math.ceil(LEAST_CHUNKS * chunk / thickness)


def split_range(start: int, stop: int, size: int) -> Iterator[tuple[int, int]]:
    """Cut a range of slices into tasks."""
    while start < stop:
        end = min(stop, (start // size + 1) * size)
        yield start, end
        start = end
