"""Consensus of three runs over an isotropic volume: along z, along y and along x.

Each voxel gets the label that at least two of the runs agree on; where all three
differ, that of the run along the first axis.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_biomedparse.data.options import refuse_separate
from napari_biomedparse.data.prompts import parse_prompts
from napari_biomedparse.data.volume import Volume, as_volume
from napari_biomedparse.errors import OptionError, VolumeError
from napari_biomedparse.labels.instances import split_instances
from napari_biomedparse.networks.weights import model_identity
from napari_biomedparse.pipeline.loop import run_plan
from napari_biomedparse.pipeline.plan import RunPlan, plan_run
from napari_biomedparse.pipeline.segment import (
    Model,
    as_dask,
    fill,
    make_engine,
    merge_options,
    temporary_array,
)

if TYPE_CHECKING:
    from napari_biomedparse.data.options import SegmentOptions
    from napari_biomedparse.data.prompts import PromptSet
    from napari_biomedparse.data.results import SegmentedSlices
    from napari_biomedparse.engine.engine import Engine
    from napari_biomedparse.networks.config import BiomedParseConfig

ISOTROPY = 1.5
"""Largest ratio of voxel edges at which slices along all axes look alike."""
_BLOCK = 128
Watch = Callable[[str, "SegmentedSlices"], None]
"""Told the slicing axis and the slices as they finish."""


@dataclass(frozen=True)
class Consensus:
    """Result of three runs.

    Parameters
    ----------
    labels : array, the volume's shape
        What at least two runs say, else what the run along the first axis says. numpy
        for a volume in memory, else a dask array over a Zarr store on disk.
    existence : mapping of str to float32 ndarray [P, slices]
        By the name of the slicing axis.
    prompts : PromptSet
    parameters : dict
        Everything that the labels depend on, as plain JSON types.
    instances : int32 ndarray, optional
        0 is background, every object has a number of its own.
    """

    labels: Any
    existence: Mapping[str, npt.NDArray[np.float32]]
    prompts: PromptSet
    parameters: Mapping[str, Any]
    instances: npt.NDArray[np.int32] | None = None


def segment_consensus(
    volume: Any,
    prompts: Any,
    model: Model | None = None,
    options: SegmentOptions | None = None,
    *,
    force: bool = False,
    watch: Watch | None = None,
    device: str = "auto",
    **changes: Any,
) -> Consensus:
    """Segment a volume along each of its axes and let the three runs vote.

    Parameters
    ----------
    volume : array or Volume
        Three axes of space, isotropic or nearly so; of one without voxel sizes this
        is taken for granted.
    prompts, model, options, device, **changes
        As for `segment`, but for the options axis and slices.
    force : bool
        Whether to go on with voxels that are far from cubes.
    watch : callable, optional
        For progress: told the slicing axis and the slices as they finish.

    Returns
    -------
    Consensus

    Raises
    ------
    VolumeError
        If the volume is not isotropic, or has axes other than of space.
    OptionError
        If an axis or a range of slices is chosen.
    PromptError, CheckpointError, DeviceError, FormatError
        As for `segment`.
    """
    options = merge_options(options, changes)
    volume = as_volume(volume)
    check_consensus(volume, options, force=force)
    engine = make_engine(model, device, options)
    return run_consensus(volume, parse_prompts(prompts), engine, options, watch)


def check_consensus(
    volume: Volume, options: SegmentOptions, *, force: bool = False
) -> None:
    """Refuse what no consensus can be formed of.

    Parameters
    ----------
    volume : Volume
        Of `as_volume`.
    options : SegmentOptions
    force : bool
        Whether voxels far from cubes will do, too.

    Raises
    ------
    OptionError
        If an axis or a range of slices is chosen, or separate labels.
    VolumeError
        If slices along different axes do not look alike.
    """
    if options.axis is not None or options.slices is not None:
        raise OptionError(
            "A consensus runs along all axes and over all slices: leave the slicing "
            "axis (axis) and the range (slices) out."
        )
    refuse_separate(options, "a consensus")
    check_isotropy(volume, force=force)


def check_isotropy(volume: Volume, *, force: bool = False) -> None:
    """Refuse a volume whose slices along different axes do not look alike.

    Parameters
    ----------
    volume : Volume
        Of `as_volume`.
    force : bool
        Whether voxels far from cubes will do.

    Raises
    ------
    VolumeError
    """
    if volume.is_colour or volume.flat or "t" in volume.axes:
        kind = "colour slices" if volume.is_colour else "a single image"
        kind = "time as an axis" if "t" in volume.axes else kind
        raise VolumeError(
            f"{volume.name} has {kind}; a consensus needs a grey volume with three "
            "axes of space."
        )
    if force:
        return
    ratio = max(volume.spacing) / min(volume.spacing)
    if ratio > ISOTROPY or len(set(volume.units)) > 1:
        sizes = ", ".join(
            f"{axis} {size:g} {unit}"
            for axis, size, unit in zip(
                volume.axes, volume.spacing, volume.units, strict=True
            )
        )
        raise VolumeError(
            f"{volume.name} is not isotropic (voxel edges: {sizes}), so its slices "
            "along different axes do not look alike; segment it along one axis, or "
            "force the consensus."
        )


def run_consensus(
    volume: Volume,
    prompts: PromptSet,
    engine: Engine,
    options: SegmentOptions,
    watch: Watch | None = None,
) -> Consensus:
    """Run along each axis and vote.

    Parameters
    ----------
    volume : Volume
        That `check_consensus` accepts.
    prompts : PromptSet
    engine : Engine
    options : SegmentOptions
    watch : callable, optional
        For progress.

    Returns
    -------
    Consensus
    """
    existence, runs, edges = {}, [], []
    plans = plan_consensus(volume, prompts, options, engine.model.config)
    for plan in plans:
        axis = plan.axis_name
        found = _array(plan)
        borders = _array(plan) if plan.instances else None
        scores = np.full((len(prompts), plan.geometry.depth), np.nan, np.float32)
        told = None if watch is None else partial(watch, axis)
        fill(run_plan(plan, engine), found, scores, borders, watch=told)
        runs.append(found)
        edges += [] if borders is None else [borders]
        existence[axis] = scores
    labels = _vote_by_block(plan, runs)
    instances = None
    if edges:
        voted = np.asarray(_vote_by_block(plan, edges)[...])
        instances = split_instances(
            np.asarray(labels[...]), voted, options.minimum_size
        )
    return Consensus(
        labels=labels if isinstance(labels, np.ndarray) else as_dask(labels),
        existence=existence,
        prompts=prompts,
        parameters={
            **voted_parameters(plans[0]),
            "model": model_identity(engine.model),
            "precision": engine.precision,
        },
        instances=instances,
    )


def plan_consensus(
    volume: Volume,
    prompts: PromptSet,
    options: SegmentOptions,
    config: BiomedParseConfig,
) -> list[RunPlan]:
    """Plan the run along each axis, in the volume's order."""
    return [
        plan_run(volume, prompts, replace(options, axis=axis), config=config)
        for axis in volume.axes
    ]


def voted_parameters(first: RunPlan) -> dict[str, Any]:
    """Return what a consensus should remember, from the plan along the first axis."""
    return first.parameters() | {"axis": None, "slicing_axis": "consensus"}


def vote(
    first: npt.NDArray[Any], second: npt.NDArray[Any], third: npt.NDArray[Any]
) -> npt.NDArray[Any]:
    """Return what at least two of three label arrays say, else what `first` says.

    Parameters
    ----------
    first, second, third : ndarray
        Labels of one shape.

    Returns
    -------
    ndarray
    """
    return np.where(second == third, second, first)


def _array(plan: RunPlan) -> Any:
    """Make an array of labels, in memory or on disk in blocks that suit all axes."""
    shape = plan.geometry.shape
    if isinstance(plan.volume.data, np.ndarray):
        return np.zeros(shape, plan.label_dtype)
    chunks = [min(size, _BLOCK) for size in shape]
    chunks[plan.geometry.axis] = min(plan.slices_at_once, shape[plan.geometry.axis])
    return temporary_array(shape, tuple(chunks), plan.label_dtype)


def _vote_by_block(plan: RunPlan, runs: list[Any]) -> Any:
    """Vote, a block at a time unless all is in memory."""
    if isinstance(runs[0], np.ndarray):
        return vote(*runs)
    shape = plan.geometry.shape
    chunks = tuple(min(size, _BLOCK) for size in shape)
    labels = temporary_array(shape, chunks, plan.label_dtype)
    for where in _blocks(shape):
        labels[where] = vote(*(np.asarray(run[where]) for run in runs))
    return labels


def _blocks(shape: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    starts = product(*(range(0, size, _BLOCK) for size in shape))
    for corner in starts:
        yield tuple(slice(start, start + _BLOCK) for start in corner)
