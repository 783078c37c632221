"""THE main path: a volume and prompts -> slices through the network -> labels.

`iter_segment` yields the slices of the loop as they finish, `segment` collects them,
`segment_lazy` computes them when they are needed.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import numpy.typing as npt
import zarr
from dask.delayed import delayed

from napari_biomedparse.data.options import SegmentOptions
from napari_biomedparse.engine.engine import Engine
from napari_biomedparse.errors import OptionError
from napari_biomedparse.labels.instances import split_instances
from napari_biomedparse.networks.v2.biomedparse import BiomedParse
from napari_biomedparse.networks.weights import (
    default_model,
    load_model,
    model_identity,
)
from napari_biomedparse.pipeline.loop import Front, run_plan
from napari_biomedparse.pipeline.plan import RunPlan, plan_run

if TYPE_CHECKING:
    from napari_biomedparse.data.prompts import PromptSet
    from napari_biomedparse.data.results import SegmentedSlices

Model = str | os.PathLike[str] | BiomedParse | Engine
FLAT = (..., 0, slice(None), slice(None))
"""The only slice of a volume that was made of a single image."""


@dataclass(frozen=True)
class Segmentation:
    """Result of a run.

    Parameters
    ----------
    labels : array, the volume's shape without colours
        0 is background, other values are label ids. A numpy array for a volume in
        memory, else a dask array over a Zarr store on disk. Where overlapping prompts
        have separate labels, these are the first axis.
    existence : float32 ndarray [P, slices]
        Probability that a prompt's target occurs in a slice; NaN where not run.
    prompts : PromptSet
    parameters : dict
        Everything that the labels depend on, as plain JSON types.
    instances : int32 ndarray like `labels`, optional
        0 is background, every object has a number of its own.
    """

    labels: Any
    existence: npt.NDArray[np.float32]
    prompts: PromptSet
    parameters: Mapping[str, Any]
    instances: npt.NDArray[np.int32] | None = None

    @property
    def ids(self) -> tuple[int, ...]:
        """Label id of each prompt."""
        return self.prompts.ids


def iter_segment(
    volume: Any,
    prompts: Any,
    model: Model | None = None,
    options: SegmentOptions | None = None,
    *,
    device: str = "auto",
    front: Front | None = None,
    **changes: Any,
) -> Iterator[SegmentedSlices]:
    """Segment a volume and hand on slices as they finish.

    Parameters
    ----------
    volume, prompts, model, options, device, **changes
        And errors as for `segment`.
    front : callable, optional
        Called before each batch; the slices nearest to the one it returns come first,
        or the first ones left where it returns None.

    Yields
    ------
    SegmentedSlices
        A batch at a time; in order, or by `front`.
    """
    options = merge_options(options, changes)
    engine = make_engine(model, device, options)
    plan = plan_run(volume, prompts, options, config=engine.model.config)
    yield from run_plan(plan, engine, front=front)


def segment(
    volume: Any,
    prompts: Any,
    model: Model | None = None,
    options: SegmentOptions | None = None,
    *,
    device: str = "auto",
    **changes: Any,
) -> Segmentation:
    """Find what the prompts say in a volume.

    Parameters
    ----------
    volume : array or Volume
        numpy, dask or zarr array, or what `open_volume` returns: a volume of three
        axes or a single image of two, in grey or in colour (see `as_volume`). The
        three channels of the network's input are a grey slice, the one before and
        the one after it; of a colour slice they are its own red, green and blue.
    prompts : str, sequence of str, mapping or PromptSet
        What to find: one prompt, or several as a list, as lines of text, or by label
        id as in ``{3: "liver"}``.
    model : str, path, BiomedParse or Engine, optional
        Name or path for `load_model`, or a network already loaded; an engine brings
        its own device and seed. By default the best model that is at hand.
    options : SegmentOptions, optional
    device : str
        "auto", "cpu", "cuda", "cuda:1", "mps", ...
    **changes
        Single fields of `SegmentOptions`, for example ``modality="ct"``.

    Returns
    -------
    Segmentation

    Raises
    ------
    VolumeError, PromptError, OptionError
        If the volume, the prompts or the options cannot be used.
    CheckpointError, DeviceError
        If the model cannot be loaded, or not on that device.
    FormatError
        If a part of the volume cannot be read.
    """
    options = merge_options(options, changes)
    engine = make_engine(model, device, options)
    plan = plan_run(volume, prompts, options, config=engine.model.config)
    model = model_identity(engine.model)
    return collect(plan, run_plan(plan, engine), model, engine.precision)


def collect(
    plan: RunPlan,
    parts: Iterable[SegmentedSlices],
    model: str,
    precision: str,
) -> Segmentation:
    """Put the finished slices of a run together.

    Parameters
    ----------
    plan : RunPlan
    parts : iterable of SegmentedSlices
        What `run_plan` yields.
    model, precision : str
        Identity of the network and how it computed, for the parameters.

    Returns
    -------
    Segmentation
    """
    in_memory = isinstance(plan.volume.data, np.ndarray)
    new = _in_memory if in_memory else _on_disk
    labels: Any = new(plan)
    edges: Any = new(plan) if plan.instances else None
    shape = (len(plan.prompts), plan.geometry.depth)
    existence = np.full(shape, np.nan, dtype=np.float32)
    fill(parts, labels, existence, edges)
    instances = None
    if edges is not None:
        instances = split_instances(
            np.asarray(labels[...]), np.asarray(edges[...]), plan.options.minimum_size
        )
    labels = labels if in_memory else as_dask(labels)
    flat = plan.volume.flat
    return Segmentation(
        labels=labels[FLAT] if flat else labels,
        existence=existence,
        prompts=plan.prompts,
        parameters={**plan.parameters(), "model": model, "precision": precision},
        instances=instances[FLAT] if flat and instances is not None else instances,
    )


def fill(
    parts: Iterable[SegmentedSlices],
    labels: Any,
    existence: npt.NDArray[np.float32],
    edges: Any = None,
    *,
    watch: Callable[[SegmentedSlices], None] | None = None,
) -> None:
    """Put finished slices where they belong.

    Parameters
    ----------
    parts : iterable of SegmentedSlices
    labels : writable array [Z, Y, X] or, with separate labels, [P, Z, Y, X]
    existence : float32 ndarray [P, slices]
    edges : writable array like `labels`, optional
    watch : callable, optional
        Told the slices as they finish.
    """
    for done in parts:
        labels[(..., *done.where)] = done.labels
        existence[:, done.start : done.stop] = done.existence
        if edges is not None:
            edges[(..., *done.where)] = done.edges
        if watch is not None:
            watch(done)


def segment_lazy(
    volume: Any,
    prompts: Any,
    model: Model | None = None,
    options: SegmentOptions | None = None,
    *,
    device: str = "auto",
    **changes: Any,
) -> da.Array:
    """Promise a volume's labels: slices are computed when they are looked at.

    Parameters and errors as for `segment`.

    Returns
    -------
    dask.array.Array
        Labels of the volume's shape without colours (of the range of slices, if one
        is chosen), one block a batch of slices.
    """
    options = merge_options(options, changes)
    engine = make_engine(model, device, options)
    plan = plan_run(volume, prompts, options, config=engine.model.config)
    one_at_a_time, axis = threading.Lock(), plan.geometry.axis - 3

    def compute(start: int, stop: int) -> npt.NDArray[Any]:
        with one_at_a_time:
            done = list(run_plan(replace(plan, start=start, stop=stop), engine))
        return np.concatenate([d.labels for d in done], axis=axis)

    blocks = []
    for start in range(plan.start, plan.stop, plan.slices_at_once):
        stop = min(start + plan.slices_at_once, plan.stop)
        shape = list(plan.label_shape)
        shape[axis] = stop - start
        block = delayed(compute, pure=False)(start, stop)
        blocks.append(da.from_delayed(block, shape, dtype=plan.label_dtype))  # type: ignore[no-untyped-call]
    whole: da.Array = da.concatenate(blocks, axis=axis)  # type: ignore[no-untyped-call]
    return whole[FLAT] if plan.volume.flat else whole


def merge_options(
    options: SegmentOptions | None, changes: Mapping[str, Any]
) -> SegmentOptions:
    """Return options with some fields changed; an unknown one is an `OptionError`."""
    known = {item.name for item in fields(SegmentOptions)}
    if unknown := sorted(set(changes) - known):
        raise OptionError(
            f"There is no option {', '.join(unknown)}; there are "
            f"{', '.join(sorted(known))}."
        )
    return replace(options or SegmentOptions(), **changes)


def make_engine(model: Model | None, device: str, options: SegmentOptions) -> Engine:
    """Return an engine around a model, which is loaded if it is a name or a path."""
    if isinstance(model, Engine):
        return model
    if not isinstance(model, BiomedParse):
        model = load_model(default_model() if model is None else model)
    return Engine(model, device, seed=options.seed)


def _in_memory(plan: RunPlan) -> npt.NDArray[Any]:
    return np.zeros(plan.label_shape, dtype=plan.label_dtype)


def _on_disk(plan: RunPlan) -> zarr.Array[Any]:
    chunks = [*(1 for _ in plan.label_shape[:-3]), *plan.geometry.shape]
    chunks[plan.geometry.axis - 3] = plan.slices_at_once
    return temporary_array(plan.label_shape, tuple(chunks), plan.label_dtype)


def temporary_array(
    shape: tuple[int, ...], chunks: tuple[int, ...], dtype: np.dtype[Any]
) -> zarr.Array[Any]:
    """Make a Zarr array of zeros in a temporary folder that lives as long as it."""
    folder = tempfile.mkdtemp(prefix="napari-biomedparse-")
    array = zarr.create_array(
        store=folder, shape=shape, chunks=chunks, dtype=dtype, fill_value=0
    )
    weakref.finalize(array, shutil.rmtree, folder, ignore_errors=True)
    return array


def as_dask(array: zarr.Array[Any]) -> da.Array:
    """Return a Zarr array as a lazy one, which keeps it alive."""
    lazy: da.Array = da.from_array(array)  # type: ignore[no-untyped-call]
    return lazy
