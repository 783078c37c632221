"""A request as one or several plans, and the rule that combines their results.

A volume is one plan, a time series one per time point, a consensus one along each
axis. `run_parts` runs them in turn for a sink, which keeps what is finished:
`pipeline.segment.Collector` in memory, `runs.request.FolderSink` in a run folder.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from napari_biomedparse.data.options import refuse_separate
from napari_biomedparse.data.volume import (
    Volume,
    as_volume,
    choose_channel,
    has_time_points,
    stacked,
    volume_of,
)
from napari_biomedparse.errors import OptionError, VolumeError
from napari_biomedparse.pipeline.plan import RunPlan, plan_run
from napari_biomedparse.slicing.read import region_of

if TYPE_CHECKING:
    from napari_biomedparse.data.options import SegmentOptions
    from napari_biomedparse.data.prompts import PromptsLike
    from napari_biomedparse.data.results import Kind
    from napari_biomedparse.data.volume import VolumeLike
    from napari_biomedparse.networks.config import BiomedParseConfig

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

ISOTROPY = 1.5
"""Largest ratio of voxel edges at which slices along all axes look alike."""
Times = int | tuple[int, int] | None
"""One time point, a first and the one after the last, or all."""


@dataclass(frozen=True)
class Series:
    """One channel of a volume over time, from time point `start` to `stop`."""

    volume: Volume
    """With the axis t and without channels, unless these are colours at the end."""
    start: int
    stop: int

    def at(self, time: int) -> Volume:
        """Return one time point as a volume fit to be segmented, still lazy."""
        return as_volume(self.volume.select(t=time))

    def holding(self, labels: Any) -> Volume:
        """Return labels [T, ...] as a volume, with axes, sizes and units."""
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
            matrix=None
            if one.matrix is None
            else stacked(
                tuple(row[kept] for row in one.matrix[kept]), self.volume.spacing[at]
            ),
        )


@dataclass(frozen=True)
class Part:
    """One plan of a request."""

    number: int
    """Counted from 0."""
    key: int | str | None
    """The time point of a series, the name of the slicing axis of a consensus."""
    plan: RunPlan


@dataclass(frozen=True)
class PartsPlan:
    """The plans of a request, and the rule that combines their results.

    Iterating yields one `Part` after the other; a time point is not looked at before
    its turn.
    """

    kind: Kind
    """The rule: a single result, results along time, or the vote of three."""
    keys: tuple[int | str | None, ...]
    first: RunPlan
    make: Callable[[int], RunPlan]
    """Makes the plan of a part by its number."""
    series: Series | None = None

    def __iter__(self) -> Iterator[Part]:
        """Plan the parts in turn."""
        for number, key in enumerate(self.keys):
            yield Part(number, key, self.make(number) if number else self.first)

    @property
    def total(self) -> int:
        """Number of slices of all parts."""
        if self.kind == "consensus":
            return sum(self.first.geometry.shape)
        return len(self.keys) * (self.first.stop - self.first.start)

    def parameters(self) -> dict[str, Any]:
        """Return what the combined labels depend on, as plain JSON types."""
        found = self.first.parameters()
        if self.series is not None:
            found["times"] = [self.series.start, self.series.stop]
        if self.kind == "consensus":
            found |= {"axis": None, "slicing_axis": "consensus"}
        return found


class Sink(Protocol[T_co]):
    """Keeps the results of parts."""

    def run(self, part: Part) -> Generator[T_co]:
        """Run a part; yield its results as they are finished and kept."""


def run_parts(parts: PartsPlan, sink: Sink[T]) -> Generator[tuple[Part, T]]:
    """Have a sink run all parts in turn; yield its results with their part."""
    for part in parts:
        with closing(sink.run(part)) as results:
            for result in results:
                yield part, result


def choose_input(
    volume: VolumeLike,
    *,
    channel: int | str | None = None,
    time: Times = None,
    consensus: bool = False,
) -> Volume | Series:
    """Choose a channel (see `choose_channel`) and time points of a volume.

    The result is a series if there are several time points or a range of them is
    chosen, unless a consensus is wanted, which needs a single volume. If a choice is
    missing or impossible, a `VolumeError` is raised.
    """
    image = volume if isinstance(volume, Volume) else volume_of(volume)
    image = choose_channel(image, channel)
    if isinstance(time, int):
        image = open_series(image, time=time).at(time)
    elif not consensus and (time is not None or has_time_points(image)):
        return open_series(image, time=time)
    return as_volume(image)


def open_series(
    source: VolumeLike, *, channel: int | str | None = None, time: Times = None
) -> Series:
    """Choose a channel and time points of a volume with an axis t.

    Parameters and errors as for `choose_input`. Two or three axes of space are needed
    besides; a bare array of five axes is taken as t, c, z, y, x.
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
            "not lie within them; choose one, or a first and the one after the last."
        )
    return Series(volume, start, stop)


def check_request(
    chosen: Volume | Series,
    options: SegmentOptions,
    *,
    consensus: bool = False,
    force: bool = False,
) -> None:
    """Refuse options that do not fit a request, before a network is loaded.

    `chosen` is from `choose_input`; `force` accepts voxels that are far from cubes for
    a consensus.

    Raises
    ------
    OptionError
        For separate labels where results are combined; for a consensus along a chosen
        axis or over a range of slices.
    VolumeError
        If no consensus can be formed of the volume.
    """
    if isinstance(chosen, Series):
        refuse_separate(options, "a series' result")
    elif consensus:
        check_consensus(region_of(chosen, options), options, force=force)


def plan_parts(
    chosen: Volume | Series,
    prompts: PromptsLike,
    options: SegmentOptions,
    *,
    config: BiomedParseConfig,
    consensus: bool = False,
) -> PartsPlan:
    """Plan a request that `check_request` accepts, for a network of this `config`.

    Errors are those of `plan_run`; those of later time points are raised while
    iterating.
    """
    if isinstance(chosen, Series):

        def at(number: int) -> RunPlan:
            volume = chosen.at(chosen.start + number)
            return plan_run(volume, prompts, options, config=config)

        times = tuple(range(chosen.start, chosen.stop))
        return PartsPlan("series", times, at(0), at, chosen)
    if not consensus:
        first = plan_run(chosen, prompts, options, config=config)
        return PartsPlan("volume", (None,), first, lambda _: first)
    axes = chosen.axes
    first = plan_run(chosen, prompts, replace(options, axis=axes[0]), config=config)

    def along(axis: str) -> RunPlan:
        one = replace(options, axis=axis)
        grey = first.intensity
        return plan_run(chosen, prompts, one, config=config, intensity=grey)

    plans = [first, *map(along, axes[1:])]
    return PartsPlan("consensus", axes, first, plans.__getitem__)


def check_consensus(
    volume: Volume, options: SegmentOptions, *, force: bool = False
) -> None:
    """Refuse an axis, a range, separate labels, and slices that do not look alike."""
    if options.axis is not None or options.slices is not None:
        raise OptionError(
            "A consensus runs along all axes and over all slices; leave out the "
            "slicing axis (axis) and the range (slices)."
        )
    refuse_separate(options, "a consensus")
    if volume.is_colour or volume.flat or "t" in volume.axes:
        kind = "colour slices" if volume.is_colour else "a single image"
        kind = "time as an axis" if "t" in volume.axes else kind
        raise VolumeError(
            f"{volume.name} has {kind}; a consensus needs a grey volume with three "
            "axes of space."
        )
    ratio = max(volume.spacing) / min(volume.spacing)
    if not force and (ratio > ISOTROPY or len(set(volume.units)) > 1):
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


def vote(
    first: npt.NDArray[Any], second: npt.NDArray[Any], third: npt.NDArray[Any]
) -> npt.NDArray[Any]:
    """Return the labels that two of three arrays agree on, else those of `first`."""
    return np.where(second == third, second, first)
