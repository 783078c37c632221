"""Estimates of a run's time, memory and disk, from the pace of a few slices."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Unpack

import numpy as np
import torch

from napari_biomedparse.io.lazy import chunk_thickness, plan_thickness
from napari_biomedparse.pipeline.loop import READ_AHEAD, plan_batches, run_plan
from napari_biomedparse.pipeline.plan import choose_input, merge_options, plan_parts
from napari_biomedparse.pipeline.segment import make_engine
from napari_biomedparse.slicing.read import SLAB_BYTES

if TYPE_CHECKING:
    from napari_biomedparse.data.options import OptionChanges, SegmentOptions
    from napari_biomedparse.data.prompts import PromptsLike
    from napari_biomedparse.data.volume import VolumeLike
    from napari_biomedparse.engine.engine import Engine
    from napari_biomedparse.pipeline.plan import RunPlan, Times
    from napari_biomedparse.pipeline.segment import Model

_GB = 1e9
_PYRAMID = 4 / 3
"""Size of a label image with its coarser levels, relative to the finest."""
_OBJECT_BYTES = np.dtype(np.uint32).itemsize
_SPLIT_BYTES = 11
"""Memory per voxel to separate objects, besides labels and edges: measured on 42
million voxels."""
_BLOCKS_AT_ONCE = 3
"""Blocks of labels in memory: one is filled, one waits, one is written."""


@dataclass(frozen=True)
class Estimate:
    """Expected duration and size of a run."""

    seconds: float
    """From the pace of the slices that were tried."""
    memory: int | None
    """Peak of this process in bytes; None if the system does not report it."""
    device_memory: int | None
    """Peak on a CUDA device in bytes; None on others."""
    disk: int
    """Peak on disk in bytes, before compression."""
    made_by: str = ""
    """Device and precision, such as "cpu in bfloat16"."""

    def describe(self) -> str:
        """Describe it in one line."""
        parts = [f"about {_duration(self.seconds)} on {self.made_by}"]
        if self.memory is not None:
            parts.append(f"{self.memory / _GB:.1f} GB of memory")
        if self.device_memory is not None:
            parts.append(f"{self.device_memory / _GB:.1f} GB on the device")
        parts.append(f"at most {self.disk / _GB:.2f} GB on disk")
        return ", ".join(parts)


def estimate_run(
    volume: str | os.PathLike[str] | VolumeLike,
    prompts: PromptsLike,
    model: Model | None = None,
    options: SegmentOptions | None = None,
    *,
    device: str = "auto",
    channel: int | str | None = None,
    time: Times = None,
    consensus: bool = False,
    force: bool = False,
    to_folder: bool = True,
    **changes: Unpack[OptionChanges],
) -> Estimate:
    """Try a few slices of a request and estimate all of it.

    Parameters and errors are those of `segment_to_folder`, but that the model may also
    be an engine. Labels are written to a run folder as they come, or collected. The
    estimate is for all time points of a series, or the three runs of a consensus.
    """
    options = merge_options(options, changes)
    chosen = choose_input(
        volume, options, channel=channel, time=time, consensus=consensus, force=force
    )
    engine = make_engine(model, device, options)
    parts = plan_parts(
        chosen, prompts, options, config=engine.model.config, consensus=consensus
    )
    first = estimate(parts.first, engine, to_folder=to_folder)
    if not consensus:  # all time points are alike
        return combine([first] * len(parts.keys))
    plans = [part.plan for part in parts][1:]
    others = [estimate(plan, engine, to_folder=to_folder) for plan in plans]
    three = combine([first, *others])  # they stay until they have voted
    return replace(three, disk=three.disk + first.disk)


def combine(runs: Sequence[Estimate]) -> Estimate:
    """Estimate runs that are done in turn, with all their results kept."""

    def most(values: Iterable[int | None]) -> int | None:
        return max((value for value in values if value is not None), default=None)

    return Estimate(
        seconds=sum(one.seconds for one in runs),
        memory=most(one.memory for one in runs),
        device_memory=most(one.device_memory for one in runs),
        disk=sum(one.disk for one in runs),
        made_by=runs[0].made_by,
    )


def estimate(plan: RunPlan, engine: Engine, *, to_folder: bool = False) -> Estimate:
    """Try a few slices in the middle and estimate all of a plan's.

    A run reads while the network computes, so the slower of the two sets the pace.
    """
    plan = plan.batched(engine.suited_batch(len(plan.prompts)))
    count = plan.stop - plan.start
    pace, device_memory = _try_network(plan, engine)
    memory = _peak_memory()
    if memory is not None:
        at_once = min(plan.slices_at_once, count)
        # Of a slice: three channels, and three maps for each prompt's mask and edges.
        channel = 4 * math.prod(plan.geometry.working_shape)
        maps = 3 * len(plan.prompts) * (2 if plan.instances else 1)
        memory += (at_once - 1) * (3 + maps) * channel
        memory += READ_AHEAD * at_once * 3 * channel
        memory += _output_bytes(plan, to_folder=to_folder)
    return Estimate(
        max(pace, _reading_pace(plan)) * count,
        memory,
        device_memory,
        _disk(plan, to_folder=to_folder),
        f"{engine.device} in {engine.precision}",
    )


def _try_network(plan: RunPlan, engine: Engine) -> tuple[float, int | None]:
    """Return seconds per slice, and the peak on a CUDA device in bytes."""
    on_cuda = engine.device.type == "cuda"
    # A GPU computes a batch at once, a CPU slice by slice.
    number = min(plan.slices_at_once, plan.stop - plan.start) if on_cuda else 1
    middle = max(plan.start, min((plan.start + plan.stop) // 2, plan.stop - number))
    part = replace(plan, start=middle, stop=middle + number)
    # The first batch also pays for the prompts and, on a GPU, for all kernels.
    engine.encode_prompts(plan.prompts.texts)
    if on_cuda:
        list(run_plan(part, engine))
        torch.cuda.reset_peak_memory_stats(engine.device)
    began = time.perf_counter()
    list(plan_batches(part))
    read = time.perf_counter()
    list(run_plan(part, engine))
    done = time.perf_counter()
    pace = max(0.0, (done - read) - (read - began)) / number
    if not on_cuda:
        return pace, None
    return pace, torch.cuda.max_memory_allocated(engine.device)


def _reading_pace(plan: RunPlan) -> float:
    """Return the seconds to read and resize a slice, measured on one chunk."""
    chunk = chunk_thickness(plan.volume.data, plan.geometry.axis)
    plane = math.prod(plan.volume.shape) // plan.geometry.depth
    most = max(3, SLAB_BYTES // (plane * plan.volume.dtype.itemsize))
    size = min(max(3, chunk), most)  # a slice and its neighbours
    middle = (plan.start + plan.stop) // 2
    first = max(0, min(middle // chunk * chunk, plan.geometry.depth - size))
    last = min(first + size, plan.geometry.depth)
    inner = replace(plan, start=min(first + 1, last - 1), stop=max(last - 1, first + 1))
    began = time.perf_counter()
    list(plan_batches(inner))
    return (time.perf_counter() - began) / (last - first)


def _disk(plan: RunPlan, *, to_folder: bool) -> int:
    """Return the peak on disk in bytes, before compression."""
    voxels = math.prod(plan.label_shape)
    labels = voxels * plan.label_dtype.itemsize
    total = labels * _PYRAMID
    if plan.instances:
        objects = voxels * _OBJECT_BYTES
        if to_folder:  # edges with levels, components, objects with levels
            total += labels * _PYRAMID + objects * (1 + _PYRAMID)
        else:
            total = objects * _PYRAMID  # saved in place of the labels
    return round(total)


def _output_bytes(plan: RunPlan, *, to_folder: bool) -> int:
    """Return the bytes of labels and objects that are in memory at once."""
    shape, itemsize = plan.label_shape, plan.label_dtype.itemsize
    itemsize *= 2 if plan.instances else 1
    voxels, grid = math.prod(shape), math.prod(plan.geometry.shape)
    if to_folder:
        axis = plan.geometry.axis
        block = plan_thickness(shape, axis, itemsize) * voxels // shape[axis]
        return _BLOCKS_AT_ONCE * block * itemsize
    if plan.instances:  # label volumes of several prompts are split one by one
        return voxels * itemsize + grid * _SPLIT_BYTES + (voxels - grid) * _OBJECT_BYTES
    return voxels * itemsize if isinstance(plan.volume.data, np.ndarray) else 0


def _peak_memory() -> int | None:
    """Return the peak of this process so far in bytes."""
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
