"""From a volume and prompts to labels, in memory.

`segment` collects the slices of all parts of a request, `iter_segment` yields those of
one volume as they finish, `segment_lazy` computes them when they are needed.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Any, Unpack
from uuid import uuid4

import dask.array as da
import numpy as np
import numpy.typing as npt
import zarr

from napari_biomedparse.data.results import Owners, Segmentation
from napari_biomedparse.engine.devices import check_not_forked
from napari_biomedparse.engine.engine import Engine
from napari_biomedparse.io import open_volume
from napari_biomedparse.io.durable import scratching, temporary_array
from napari_biomedparse.labels.blockwise import Inner, block_shape
from napari_biomedparse.labels.instances import OwnerTally, split_instances
from napari_biomedparse.labels.watershed import split_slices
from napari_biomedparse.networks.network import Network
from napari_biomedparse.networks.weights import (
    load_model,
    model_identity,
    model_or_default,
)
from napari_biomedparse.pipeline.loop import Front, run_plan
from napari_biomedparse.pipeline.plan import (
    Part,
    PartsPlan,
    RunPlan,
    Times,
    choose_input,
    merge_options,
    plan_parts,
    plan_run,
    run_parts,
    single,
    vote,
)

if TYPE_CHECKING:
    from napari_biomedparse.data.options import OptionChanges, SegmentOptions
    from napari_biomedparse.data.prompts import PromptsLike
    from napari_biomedparse.data.results import SegmentedSlices
    from napari_biomedparse.data.volume import VolumeLike

Model = str | os.PathLike[str] | Network | Engine
Watch = Callable[[int | str | None, "SegmentedSlices"], None]
"""Called with a part's time point or the name of its axis, and finished slices."""
FLAT = (..., 0, slice(None), slice(None))
"""The only slice of a volume that was made of a single image."""
_BLOCK = 128
"""Edge of the blocks on disk that suit all axes of a consensus."""


def segment(
    volume: VolumeLike | str | os.PathLike[str],
    prompts: PromptsLike,
    model: Model | None = None,
    options: SegmentOptions | None = None,
    *,
    channel: int | str | None = None,
    time: Times = None,
    consensus: bool = False,
    force: bool = False,
    device: str = "auto",
    watch: Watch | None = None,
    **changes: Unpack[OptionChanges],
) -> Segmentation:
    """Find what the prompts describe in a volume.

    Parameters
    ----------
    volume : array, Volume or path
        A file, a numpy, dask or zarr array, or the result of `open_volume`: a volume of
        three axes or a single image of two, in grey or in colour (see `as_volume`), or
        volumes over time. The network's three input channels are a grey slice, the
        one before and the one after it, or the red, green and blue of a colour slice.
    prompts : str, sequence of str, mapping or PromptSet
        What to find: one prompt, or several as a list, as lines of text, or by label
        id as in ``{3: "liver"}``.
    model : str, path, Network or Engine, optional
        Name or path for `load_model`, or a network already loaded; an engine brings
        its own device and seed. By default the best model available.
    options : SegmentOptions, optional
    channel : int or str, optional
        Number or name of the channel, or "rgb"; needed where there are several.
    time : int or pair of int, optional
        One time point, segmented as a single volume, or the first and the one after
        the last. By default all, one after the other.
    consensus : bool
        Whether to run along each axis and give each voxel the label that two of the
        three runs agree on, else that of the first. For isotropic volumes; a volume
        without voxel sizes is taken as isotropic.
    force : bool
        Whether to form a consensus of a volume that is not isotropic, too.
    device : str
        "auto", "cpu", "cuda", "cuda:1", "mps", ...
    watch : callable, optional
        Called with slices as they finish, after their time point or, of a consensus,
        the name of their slicing axis, else None.
    **changes
        Single fields of `SegmentOptions`, for example ``modality="ct"``.

    Returns
    -------
    Segmentation
        Of a series, labels have the axis t first.

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
    chosen = choose_input(
        volume, options, channel=channel, time=time, consensus=consensus, force=force
    )
    engine = make_engine(model, device, options)
    config = engine.model.config
    parts = plan_parts(chosen, prompts, options, config=config, consensus=consensus)
    sink = Collector(parts, engine)
    with closing(run_parts(parts, sink.run)) as finished:
        for part, done in finished:
            if watch is not None:
                watch(part.key, done)
    return sink.result(model_identity(engine.model), engine.precision)


def iter_segment(
    volume: VolumeLike | str | os.PathLike[str],
    prompts: PromptsLike,
    model: Model | None = None,
    options: SegmentOptions | None = None,
    *,
    device: str = "auto",
    front: Front | None = None,
    **changes: Unpack[OptionChanges],
) -> Iterator[SegmentedSlices]:
    """Segment a volume and yield slices as they finish.

    Parameters
    ----------
    volume, prompts, model, options, device, **changes
        And errors as for `segment`, for a single volume.
    front : callable, optional
        Called before each batch; the slices nearest to the one it returns come first,
        or the first ones left where it returns None.

    Yields
    ------
    SegmentedSlices
        A batch at a time.
    """
    plan, engine = single_plan(volume, prompts, model, options, device, changes)
    yield from run_plan(plan, engine, front=front)


def segment_lazy(
    volume: VolumeLike | str | os.PathLike[str],
    prompts: PromptsLike,
    model: Model | None = None,
    options: SegmentOptions | None = None,
    *,
    device: str = "auto",
    **changes: Unpack[OptionChanges],
) -> da.Array:
    """Return a volume's labels as a lazy array: slices are computed when needed.

    Parameters and errors as for `segment`, for a single volume.

    Returns
    -------
    dask.array.Array
        Labels of the volume's shape without colours (of the range of slices, if one
        is chosen), one block a batch of slices.
    """
    plan, engine = single_plan(volume, prompts, model, options, device, changes)
    one_at_a_time, axis = threading.Lock(), plan.geometry.axis - 3
    shape = list(plan.label_shape)
    shape[axis] = plan.stop - plan.start
    chunks = [*shape]
    chunks[axis] = plan.slices_at_once

    def compute(block_info: Any = None) -> npt.NDArray[Any]:
        start, stop = block_info[None]["array-location"][axis]
        part = replace(plan, start=plan.start + start, stop=plan.start + stop)
        with one_at_a_time:
            done = list(run_plan(part, engine))
        return np.concatenate([d.labels for d in done], axis=axis)

    whole: da.Array = da.map_blocks(  # type: ignore[no-untyped-call]
        compute,
        chunks=da.core.normalize_chunks(chunks, shape),  # type: ignore[no-untyped-call]
        name=f"labels-{uuid4().hex}",
        meta=np.empty((0,) * len(shape), plan.label_dtype),
    )
    return whole[FLAT] if plan.volume.flat else whole


def single_plan(
    volume: VolumeLike | str | os.PathLike[str],
    prompts: PromptsLike,
    model: Model | None,
    options: SegmentOptions | None,
    device: str,
    changes: OptionChanges,
) -> tuple[RunPlan, Engine]:
    """Plan the run of a single volume, and load the network."""
    options = merge_options(options, changes)
    if isinstance(volume, str | os.PathLike):
        volume = open_volume(volume, axes=options.axes)
    engine = make_engine(model, device, options)
    return plan_run(volume, prompts, options, config=engine.model.config), engine


def make_engine(model: Model | None, device: str, options: SegmentOptions) -> Engine:
    """Return an engine around a model, which is loaded if it is a name or a path."""
    if isinstance(model, Engine):
        return model
    check_not_forked()
    if not isinstance(model, Network):
        model = load_model(model_or_default(model))
    return Engine(model, device, seed=options.seed, precision=options.precision)


class Collector:
    """Collects the results of parts; a `Sink`.

    Arrays are in memory if the volume is, else in temporary Zarr stores. Without an
    engine, slices are given to `add`, between `begin` and `end` of their part.
    """

    def __init__(
        self,
        parts: PartsPlan,
        engine: Engine | None = None,
        *,
        in_memory: bool | None = None,
    ) -> None:
        self._parts, self._engine = parts, engine
        self._plan = first = parts.first
        if in_memory is None:
            in_memory = isinstance(first.volume.data, np.ndarray)
        self._in_memory = in_memory
        self._series = parts.kind == "series"
        self._consensus = parts.kind == "consensus"
        depth = first.geometry.depth
        longest = max(first.geometry.shape) if self._consensus else depth
        size = (len(first.prompts), len(parts.keys), longest)
        self._existence = np.full(size, np.nan, np.float32)
        self._labels: list[Any] = []
        self._edges: list[Any] = []
        self.instances: Any = None
        self.owners: list[Owners] = []
        if self._series:
            self._labels.append(self._new(first, over_time=True))
            if first.instances:
                self.instances = self._new(first, np.int32, over_time=True)

    def run(self, part: Part) -> Generator[SegmentedSlices]:
        """Run a part; yield its slices once they are kept."""
        assert self._engine is not None
        self.begin(part)
        for done in run_plan(part.plan, self._engine):
            self.add(part, done)
            yield done
        self.end(part)

    def begin(self, part: Part) -> None:
        """Make room for the slices of a part."""
        if not self._series:
            self._labels.append(self._new(part.plan))
        if part.plan.instances:
            self._edges.append(self._new(part.plan))

    def add(self, part: Part, done: SegmentedSlices) -> None:
        """Keep finished slices, also in place of earlier ones."""
        here = (part.number,) if self._series else ()
        self._existence[:, part.number, done.start : done.stop] = done.existence
        with scratching():
            self._labels[-1][(*here, ..., *done.where)] = done.labels
            if part.plan.instances:
                self._edges[-1][(..., *done.where)] = done.edges

    def end(self, part: Part) -> None:
        """Separate the objects of a part unless runs are still to vote."""
        if self._consensus or not part.plan.instances:
            return
        if not self._series:
            self.instances = self._new(part.plan, np.int32)
        here = (part.number,) if self._series else ()
        size = part.plan.options.minimum_size
        self._split(self._labels[-1], self._edges.pop(), self.instances, size, here)

    def result(self, model: str, precision: str) -> Segmentation:
        """Combine what was kept; `model` and `precision` are for the parameters."""
        labels, instances = self._labels[0], self.instances
        existence = self._existence
        if self._consensus:
            labels = self._vote(self._labels)
            if self._edges:
                instances = self._new(self._plan, np.int32)
                size = self._plan.options.minimum_size
                self._split(labels, self._vote(self._edges), instances, size)
        elif not self._series:
            existence = existence[:, 0]
        labels, instances = _lazy(labels), _lazy(instances)
        if self._plan.volume.flat:
            labels = labels[FLAT]
            instances = None if instances is None else instances[FLAT]
        return Segmentation(
            labels=labels,
            existence=existence,
            prompts=self._plan.prompts,
            parameters={
                **self._parts.parameters(),
                "model": model,
                "precision": precision,
            },
            instances=instances,
            owners=Owners.common(self.owners),
        )

    def _split(
        self,
        labels: Any,
        edges: Any,
        instances: Any,
        size: int,
        at: tuple[int, ...] = (),
    ) -> None:
        """Split labels into instances, at a time point; part by part on disk."""
        axis, shape, count = self._plan.geometry.axis, edges.shape[-3:], 0
        thickness = shape[axis] if self._in_memory else edges.chunks[axis - 3]
        by_shape = self._plan.by_shape
        if self._plan.by_slices:
            with scratching():
                for prompt in np.ndindex(edges.shape[:-3]):
                    both = Inner(labels, at + prompt), Inner(instances, at + prompt)
                    count = split_slices(*both, axis, thickness, size, after=count)
        elif self._in_memory and not by_shape:
            instances[at] = split_instances(labels[at], edges, size)
            count = int(instances[at].max(initial=0))
        else:
            block = chunks = shape
            components: Any = None
            if self._in_memory:
                components = np.zeros(shape, np.uint32)
            else:
                chunks = edges.chunks[-3:]
                block = block_shape(chunks, shape)
                components = temporary_array(shape, chunks, np.dtype(np.uint32))
            with scratching():
                for prompt in np.ndindex(edges.shape[:-3]):  # of separate labels
                    parts = Inner(labels, at + prompt), Inner(edges, prompt), components
                    target = Inner(instances, at + prompt)
                    count = self._plan.divide(*parts, target, block, size, after=count)
        scores = self._existence[:, at[0] if at else 0]
        tally = OwnerTally(count, self._plan.prompts.ids, scores, axis)
        for start in range(0, shape[axis], thickness):
            where = [slice(None)] * 3
            where[axis] = slice(start, start + thickness)
            here = (*at, ..., *where)
            outside = edges[(..., *where)]
            outside = outside * 0 if by_shape else outside  # objects do not grow
            tally.add(instances[here], labels[here], outside, start)
        self.owners.append(tally.owners)

    def _new(self, plan: RunPlan, dtype: Any = None, *, over_time: bool = False) -> Any:
        """Make an array of zeros for labels, on disk in chunks that suit its writer."""
        grid, axis = plan.geometry.shape, plan.geometry.axis
        shape = ((len(self._parts.keys),) if over_time else ()) + plan.label_shape
        dtype = np.dtype(dtype or plan.label_dtype)
        if self._in_memory:
            return np.zeros(shape, dtype)
        chunks = [min(n, _BLOCK) if self._consensus else n for n in grid]
        chunks[axis] = min(plan.slices_at_once, grid[axis])
        return temporary_array(shape, (*(1 for _ in shape[:-3]), *chunks), dtype)

    def _vote(self, runs: list[Any]) -> Any:
        """Let three label arrays vote, block by block unless they are in memory."""
        if self._in_memory:
            return vote(*runs)
        shape = self._plan.geometry.shape
        blocks = tuple(min(size, _BLOCK) for size in shape)
        labels = temporary_array(shape, blocks, self._plan.label_dtype)
        for corner in product(*(range(0, size, _BLOCK) for size in shape)):
            where = tuple(slice(start, start + _BLOCK) for start in corner)
            labels[where] = vote(*(np.asarray(run[where]) for run in runs))
        return labels


def collect(
    plan: RunPlan, slices: Iterable[SegmentedSlices], model: str, precision: str
) -> Segmentation:
    """Combine the slices of one plan, from `run_plan` or `resolve_again`.

    `model` and `precision`, identity of the network and how it computed, are for the
    parameters.
    """
    part, sink = Part(0, None, plan), Collector(single(plan))
    sink.begin(part)
    for done in slices:
        sink.add(part, done)
    sink.end(part)
    return sink.result(model, precision)


def _lazy(array: Any) -> Any:
    """Return a Zarr array as a dask array, which keeps it alive; others as they are."""
    if not isinstance(array, zarr.Array):
        return array
    return da.from_array(array)  # type: ignore[no-untyped-call]
