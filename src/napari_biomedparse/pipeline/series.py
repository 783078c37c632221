"""Time series and channels: one run a time point, one after the other.

Each time point is a volume of its own: its labels are those of a run on it alone.
Objects are not followed over time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_biomedparse.data.options import refuse_separate
from napari_biomedparse.data.prompts import parse_prompts
from napari_biomedparse.data.volume import Volume, as_volume, choose_channel, volume_of
from napari_biomedparse.errors import VolumeError
from napari_biomedparse.labels.instances import split_instances
from napari_biomedparse.networks.weights import model_identity
from napari_biomedparse.pipeline.loop import run_plan
from napari_biomedparse.pipeline.plan import plan_run
from napari_biomedparse.pipeline.segment import (
    Model,
    Segmentation,
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
    from napari_biomedparse.pipeline.plan import RunPlan

Times = int | tuple[int, int] | None
"""One time point, a first and the one after the last, or all."""
Watch = Callable[[int, "SegmentedSlices"], None]
"""Told the time point and the slices as they finish."""


@dataclass(frozen=True)
class Series:
    """What is to be segmented: one channel, at some time points.

    Parameters
    ----------
    volume : Volume
        With the axis t and without channels, unless these are colours at the end.
    start, stop : int
        Range of time points.
    """

    volume: Volume
    start: int
    stop: int

    def at(self, time: int) -> Volume:
        """Return one time point as a volume fit to be segmented, still lazy."""
        return as_volume(self.volume.select(t=time))

    def holding(self, labels: Any) -> Volume:
        """Return labels of `segment_series` as a volume, with axes, sizes and units."""
        one, at = self.at(self.start), self.volume.axes.index("t")
        kept = slice(1, 3) if one.flat else slice(0, 3)
        return Volume(
            labels,
            ("t", *one.axes[kept]),
            (self.volume.spacing[at], *one.spacing[kept]),
            (self.volume.units[at], *one.units[kept]),
            (self.volume.origin[at], *one.origin[kept]),
            one.name,
            one.source,
            header=one.header,
        )


def open_series(
    source: Any, *, channel: int | str | None = None, time: Times = None
) -> Series:
    """Choose a channel and time points of a volume.

    Parameters
    ----------
    source : array or Volume
        With the axis t, and two or three of space. A bare array of five axes is taken
        as t, c, z, y, x.
    channel : int, str, optional
        Number, name, or "rgb"; see `choose_channel`.
    time : int or pair of int, optional
        One time point, or the first and the one after the last; by default all.

    Returns
    -------
    Series

    Raises
    ------
    VolumeError
        If there is no axis t, or a choice is missing or impossible.
    """
    volume = source if isinstance(source, Volume) else volume_of(source)
    volume = choose_channel(volume, channel)
    if "t" not in volume.axes:
        raise VolumeError(
            f"{volume.name} has the axes {', '.join(volume.axes)} and none of time "
            "(t); segment it as one volume, or name its axes with a Volume."
        )
    count = volume.shape[volume.axes.index("t")]
    if time is None:
        start, stop = 0, count
    else:
        start, stop = (time, time + 1) if isinstance(time, int) else time
    if not 0 <= start < stop <= count:
        raise VolumeError(
            f"{volume.name} has the time points 0 to {count - 1}, and {time!r} does "
            "not lie in them; choose one, or a first and the one after the last."
        )
    return Series(volume, start, stop)


def segment_series(
    volume: Any,
    prompts: Any,
    model: Model | None = None,
    options: SegmentOptions | None = None,
    *,
    channel: int | str | None = None,
    time: Times = None,
    device: str = "auto",
    **changes: Any,
) -> Segmentation:
    """Segment a channel of a volume at all, or some, of its time points.

    One time point is read and computed after the other, slice by slice; a series that
    is not in memory gets its labels on disk.

    Parameters
    ----------
    volume : array or Volume
        With the axis t, see `open_series`.
    prompts, model, options, device, **changes
        As for `segment`.
    channel : int or str, optional
        Which channel; needed where there are several.
    time : int or pair of int, optional
        One time point, or the first and the one after the last; by default all.

    Returns
    -------
    Segmentation
        Labels have the axis t first, also for a single time point; so have instances,
        which are numbered anew at each time point. Existence is [P, T, slices].

    Raises
    ------
    VolumeError
        If there is no axis t, or a choice is missing or impossible.
    PromptError, OptionError, CheckpointError, DeviceError, FormatError
        As for `segment`.
    """
    options = merge_options(options, changes)
    series = open_series(volume, channel=channel, time=time)
    engine = make_engine(model, device, options)
    return run_series(series, parse_prompts(prompts), engine, options)


def run_series(
    series: Series,
    prompts: PromptSet,
    engine: Engine,
    options: SegmentOptions,
    watch: Watch | None = None,
) -> Segmentation:
    """Segment time point by time point.

    Parameters
    ----------
    series : Series
    prompts : PromptSet
    engine : Engine
    options : SegmentOptions
    watch : callable, optional
        For progress.

    Returns
    -------
    Segmentation
        As `segment_series` returns it.
    """
    refuse_separate(options, "a series' result")
    count = series.stop - series.start
    first = plan_run(
        series.at(series.start), prompts, options, config=engine.model.config
    )
    in_memory = isinstance(series.volume.data, np.ndarray)
    labels: Any = _array(first, count, first.label_dtype, in_memory)
    instances: Any = None
    if first.instances:
        instances = _array(first, count, np.dtype(np.int32), in_memory)
    existence = np.full((len(prompts), count, first.geometry.depth), np.nan, np.float32)
    for at, time in enumerate(range(series.start, series.stop)):
        plan = plan_run(series.at(time), prompts, options, config=engine.model.config)
        edges = np.zeros(labels.shape[1:], plan.label_dtype) if plan.instances else None
        told = None if watch is None else partial(watch, time)
        fill(
            run_plan(plan, engine), _At(labels, at), existence[:, at], edges, watch=told
        )
        if edges is not None:
            instances[at] = split_instances(
                np.asarray(labels[at]), edges, options.minimum_size
            )
    parameters = first.parameters() | {
        "model": model_identity(engine.model),
        "precision": engine.precision,
        "times": [series.start, series.stop],
    }
    if not in_memory:
        labels = as_dask(labels)
        instances = None if instances is None else as_dask(instances)
    if first.volume.flat:
        labels = labels[:, 0]
        instances = None if instances is None else instances[:, 0]
    return Segmentation(labels, existence, prompts, parameters, instances)


class _At:
    """One time point of an array, which Zarr has no view of."""

    def __init__(self, array: Any, time: int) -> None:
        self._array, self._time = array, time

    def __setitem__(self, where: tuple[slice, ...], values: Any) -> None:
        self._array[(self._time, *where)] = values


def _array(plan: RunPlan, count: int, dtype: np.dtype[Any], in_memory: bool) -> Any:
    """Make an array for one time point after the other, in memory or on disk."""
    shape = (count, *plan.geometry.shape)
    if in_memory:
        return np.zeros(shape, dtype)
    chunks = [1, *plan.geometry.shape]
    chunks[1 + plan.geometry.axis] = plan.slices_at_once
    return temporary_array(shape, tuple(chunks), dtype)
