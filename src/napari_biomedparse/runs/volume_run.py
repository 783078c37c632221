"""The run of one volume in a folder: its manifest, and the blocks that are missing."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from napari_biomedparse.io.durable import writing
from napari_biomedparse.io.formats.ome_labels import OmeVersion, plan_thickness
from napari_biomedparse.io.identity import identify
from napari_biomedparse.networks.weights import model_identity
from napari_biomedparse.runs.blocks import (
    open_stores,
    run_blocks,
    unfinished,
    write_objects,
)
from napari_biomedparse.runs.folder import Run, finish, open_folder, verified_blocks
from napari_biomedparse.runs.manifest import Block, Manifest

if TYPE_CHECKING:
    from napari_biomedparse.engine.engine import Engine
    from napari_biomedparse.pipeline.plan import RunPlan

Progress = Callable[[int, int], None]
"""Called with the slices that are finished, and all."""
DoBlocks = Callable[
    ["RunPlan", Path, Manifest, Iterable[tuple[int, int]]], Iterator[Block]
]
"""Runs ranges of slices; see `blocks_on_cluster`."""


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


def run_to_folder(
    plan: RunPlan,
    engine: Engine,
    manifest: Manifest,
    folder: Path,
    *,
    overwrite: bool = False,
    do: DoBlocks | None = None,
    on_progress: Progress | None = None,
    stopped: Callable[[], bool] = lambda: False,
    keep_edges: bool = False,
) -> Run:
    """Do what is missing of a run; see `segment_to_folder`.

    `do` runs ranges of blocks elsewhere; by default `engine` runs them here. With
    `keep_edges` these stay for the caller, and objects are not told apart.
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
                    run_blocks(plan, engine, folder, stores, start, stop, stopped)
                    for start, stop in ranges
                )
            for block in new:
                blocks[block.start] = block
                if on_progress:
                    on_progress(_count(blocks), total)
            if plan.instances and not keep_edges:
                objects = write_objects(folder, plan, found, stores)
                found = replace(found, objects=objects)
            with writing(folder):
                for store in stores:
                    store.sync()  # they are still there
            finish(folder, found, blocks, keep_edges=keep_edges)
    return Run(folder)


def _count(blocks: Mapping[int, Block]) -> int:
    return sum(block.stop - block.start for block in blocks.values())
