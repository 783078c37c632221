"""The plan of a request: all that is decided before the first slice.

A volume is one plan, a time series one per time point, a consensus one along each
axis. `run_parts` runs them in turn, and a sink keeps what is finished:
`pipeline.segment.Collector` in memory, `runs.blocks.FolderSink` in a run folder.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from napari_biomedparse.data.options import USUAL_BATCH, SegmentOptions, refuse_separate
from napari_biomedparse.data.prompts import PromptSet, parse_prompts
from napari_biomedparse.data.results import P_VALUES, READ_AS
from napari_biomedparse.data.volume import (
    Volume,
    as_volume,
    choose_channel,
    has_time_points,
    volume_of,
    with_axis,
)
from napari_biomedparse.errors import OptionError, VolumeError
from napari_biomedparse.io import open_image, open_volume
from napari_biomedparse.io.formats.units import PIXEL
from napari_biomedparse.labels.likeness import Entry, find_entries
from napari_biomedparse.networks.blocks.tokenizer import refuse_equal, tokenize
from napari_biomedparse.slicing.geometry import SliceGeometry, TileGrid
from napari_biomedparse.slicing.intensity import Intensity, choose_intensity
from napari_biomedparse.slicing.read import Seen, region_of, slice_geometry
from napari_biomedparse.version import __version__

if TYPE_CHECKING:
    from napari_biomedparse.data.prompts import PromptsLike
    from napari_biomedparse.data.results import Kind, Span
    from napari_biomedparse.data.volume import VolumeLike
    from napari_biomedparse.networks.config import BiomedParseConfig

T = TypeVar("T")

ISOTROPY = 1.5
"""Largest ratio of voxel edges at which slices along all axes look alike."""
Times = int | tuple[int, int] | None
"""One time point, a first and the one after the last, or all."""


@dataclass(frozen=True)
class RunPlan:
    """What is decided before the first slice."""

    volume: Volume
    """Three axes, and a fourth if slices are in colour; cropped to the region."""
    prompts: PromptSet
    options: SegmentOptions
    geometry: SliceGeometry
    tiles: TileGrid
    """The squares of a slice that the network sees at once."""
    intensity: Intensity
    start: int
    stop: int
    """The range of slices ends before it."""
    instances: bool
    """Whether objects are separated, which needs edges."""
    truncated: tuple[str, ...]
    """Prompts that are longer than 77 tokens and lost their end."""
    entries: tuple[Entry | None, ...] | None = None
    """What each prompt's masks are compared with for p, the score of v1; else None."""
    seen: Seen | None = None
    """Is shown what is read, slice after slice."""

    @property
    def by_shape(self) -> bool:
        """Whether objects are separated by their shape."""
        return self.instances and self.options.separate_by != "edges"

    @property
    def by_slices(self) -> bool:
        """Whether each slice has objects of its own."""
        return self.by_shape and (self.geometry.alone or self.volume.flat)

    @property
    def divide(self) -> Callable[..., int]:
        """What separates objects, like `split_blockwise`."""
        from napari_biomedparse.labels.blockwise import split_blockwise
        from napari_biomedparse.labels.shapes import split_by_shapes

        if not self.by_shape:
            return split_blockwise
        sides, units = self.volume.spacing[:3], self.volume.units[:3]
        known = set(units) != {PIXEL} or set(sides) != {1.0}
        spacing, diameter = sides if known else None, self.options.diameter
        return partial(split_by_shapes, spacing=spacing, diameter=diameter)

    @property
    def edge_threshold(self) -> float:
        """Probability that an edge has to exceed; no edge does if shapes decide."""
        alone = self.by_shape and self.options.separate_by == "shape"
        return 1.0 if alone else self.options.edge_threshold

    @property
    def axis_name(self) -> str:
        """Name of the slicing axis."""
        return self.volume.axes[self.geometry.axis]

    @property
    def label_dtype(self) -> np.dtype[Any]:
        """Smallest unsigned type that holds every label id."""
        return np.min_scalar_type(max(self.prompts.ids))

    @property
    def label_shape(self) -> tuple[int, ...]:
        """Shape of all labels: the volume's, after the prompts' if these overlap."""
        separate = self.options.overlaps == "separate"
        return ((len(self.prompts),) if separate else ()) + self.geometry.shape

    @property
    def threshold(self) -> float:
        """Threshold of the scores; p may equal it, also that of a single prompt."""
        if self.entries is None:
            return self.options.existence_threshold
        return float(np.nextafter(np.float32(self.options.p_threshold), np.float32(-1)))

    @property
    def batch_size(self) -> int:
        """Slices, or tiles of a slice, that go through the network at once."""
        size = self.options.batch_size
        return USUAL_BATCH if isinstance(size, str) else size

    @property
    def slices_at_once(self) -> int:
        """Slices that are read, predicted and yielded together."""
        return self.batch_size if self.tiles.is_single else 1

    @property
    def turned(self) -> str:
        """How slices are turned for the network, in words; empty if they are not."""
        turn, cut = self.geometry.turn, self.geometry.axis
        names = [name for i, name in enumerate(self.volume.axes[:3]) if i != cut]
        pairs = list(zip(names, turn, strict=False))[:: -1 if turn.swap else 1]
        ways = (("downwards", "upwards"), ("to the right", "to the left"))
        told = [
            f"{name} {way[up]}" for (name, up), way in zip(pairs, ways, strict=True)
        ]
        return ", ".join(told) if any(turn) else ""

    @property
    def read_as(self) -> str:
        """The mode in which slices are read, for networks that know two."""
        return "2d" if self.geometry.planar else "3d"

    def batched(self, suited: int) -> RunPlan:
        """Return the plan with the batch size `suited` if it was left to the device."""
        if self.options.batch_size != "auto":
            return self
        return replace(self, options=replace(self.options, batch_size=suited))

    def parameters(self) -> dict[str, Any]:
        """Return what the labels depend on, as plain JSON types."""
        found = {
            **asdict(self.options),
            "prompts": {str(p.id): p.text for p in self.prompts.prompts},
            "prompt_order": list(self.prompts.ranked),
            "slicing_axis": self.axis_name,
            "slices": [self.start, self.stop],
            "tiles_a_slice": len(self.tiles.corners),
            "instances": self.instances,
            "intensity": self.intensity.describe(),
            "truncated_prompts": list(self.truncated),
            **({"turned": self.turned} if self.turned else {}),
            "image_size": self.tiles.size,
            **({} if self.geometry.alone else {READ_AS: self.read_as}),
            "napari_biomedparse": __version__,
        }
        if self.entries is not None:
            known = zip(self.prompts.ids, self.entries, strict=True)
            found[P_VALUES] = {str(i): entry and entry._asdict() for i, entry in known}
        return found


def plan_run(
    volume: VolumeLike,
    prompts: PromptsLike,
    options: SegmentOptions | None = None,
    *,
    config: BiomedParseConfig,
    intensity: Intensity | None = None,
) -> RunPlan:
    """Decide what can be decided before the first slice.

    Parameters
    ----------
    volume, prompts
        See `as_volume` and `parse_prompts`.
    config : BiomedParseConfig
        Of the network that will run.
    intensity : Intensity, optional
        An earlier result of `choose_intensity` for the same region and modality. By
        default it is computed, which reads up to 2**24 voxels.

    Raises
    ------
    VolumeError, PromptError, OptionError
        If the volume, the prompts or the options cannot be used.
    """
    options = options or SegmentOptions()
    if config.network == "boltzformer":  # which takes one prompt at a time
        options = replace(options, prompts_apart=True)
    volume = region_of(as_volume(volume, axes=options.axes), options)
    prompts = parse_prompts(prompts)
    refuse_equal(prompts.texts)
    geometry = slice_geometry(
        volume, options, config.image_size, alone=config.slices_alone
    )
    start, stop = options.slices or (0, geometry.depth)
    if not 0 <= start < stop <= geometry.depth:
        raise OptionError(
            f"Slices {start} to {stop} do not lie in {volume.name}, which has "
            f"{geometry.depth} slices along axis {volume.axes[geometry.axis]}; choose "
            f"a range within 0 to {geometry.depth}, end not included."
        )
    wanted, entries = options.instances, None
    if config.slices_alone:
        entries = find_entries(prompts.texts, options.kind, options.table)
    return RunPlan(
        volume=volume,
        prompts=prompts,
        options=options,
        geometry=geometry,
        tiles=TileGrid(geometry.working_shape, config.image_size),
        intensity=intensity or choose_intensity(volume.data, options.modality),
        start=int(start),
        stop=int(stop),
        instances=prompts.instance if wanted is None else wanted,
        truncated=tuple(text for text in prompts.texts if tokenize(text).truncated),
        entries=entries,
    )


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

    def over_time(self, one: Volume, labels: Any) -> Volume:
        """Return labels [T, ...] as a volume; `one` has the grid of a time point."""
        at, kept = self.volume.axes.index("t"), one.described(range(4 - labels.ndim, 3))
        step, unit = self.volume.spacing[at], self.volume.units[at]
        start = self.volume.origin[at] + self.start * step
        kept |= {"data": labels[0], "channel_names": (), "levels": (), "flat": False}
        return with_axis(replace(one, **kept), "t", labels, step, unit, start)


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
        return self.first.parameters() | self.together

    @property
    def together(self) -> dict[str, Any]:
        """What of `parameters` the first part by itself does not have, or has not."""
        if self.series is not None:
            return {"times": [self.series.start, self.series.stop]}
        if self.kind == "consensus":
            return {"axis": None, "slicing_axis": "consensus"}
        return {}


def run_parts(
    parts: PartsPlan, run: Callable[[Part], Generator[T]]
) -> Generator[tuple[Part, T]]:
    """Run all parts in turn; yield what `run` yields of each, with its part."""
    for part in parts:
        with closing(run(part)) as results:
            for result in results:
                yield part, result


def choose_input(
    volume: VolumeLike | str | os.PathLike[str],
    options: SegmentOptions,
    *,
    channel: int | str | None = None,
    time: Times = None,
    consensus: bool = False,
    force: bool = False,
) -> Volume | Series:
    """Choose a channel (see `choose_channel`) and time points of a volume or file.

    The result is a series if there are several time points or a range of them is
    chosen, unless a consensus is wanted, which needs a single volume. `force` accepts
    voxels that are far from cubes for a consensus.

    Raises
    ------
    VolumeError
        If a choice is missing or impossible; if no consensus can be formed of it.
    OptionError
        For separate labels where results are combined; for a consensus along a chosen
        axis or over a range of slices.
    FormatError
        As for `open_volume`.
    """
    one = time if isinstance(time, int) else None
    if isinstance(volume, str | os.PathLike):
        image = open_image(volume, options.axes)
    else:
        image = volume_of(volume, options.axes)
    image = choose_channel(image, channel)
    if one is None and not consensus and (time is not None or has_time_points(image)):
        refuse_separate(options, "a series' result")
        return open_series(image, time)
    if isinstance(volume, str | os.PathLike):
        image = open_volume(volume, channel=channel, time=one, axes=options.axes)
    elif one is not None:
        image = open_series(image, one).at(one)
    image = as_volume(image)
    if consensus:
        _check_consensus(region_of(image, options), options, force=force)
    return image


def _check_consensus(volume: Volume, options: SegmentOptions, *, force: bool) -> None:
    """Refuse an axis, a range, separate labels, and slices that do not look alike."""
    by_shape = options.separate_by != "edges" and options.instances is not False
    if options.axis is not None or options.slices is not None or by_shape:
        raise OptionError(
            "A consensus runs along all axes and over all slices; leave out the "
            "slicing axis (axis), the range (slices) and objects by shape "
            "(separate_by)."
        )
    refuse_separate(options, "a consensus")
    if volume.is_colour or volume.flat or "t" in volume.axes:
        kind = "colour slices" if volume.is_colour else "a single image"
        kind = "time as an axis" if "t" in volume.axes else kind
        raise VolumeError(
            f"{volume.name} has {kind}; a consensus needs a grey volume with three "
            "axes of space."
        )
    edges = list(zip(volume.axes, volume.spacing, volume.units, strict=True))
    ratio = max(volume.spacing) / min(volume.spacing)
    if not force and (ratio > ISOTROPY or len(set(volume.units)) > 1):
        sizes = ", ".join(f"{axis} {size:g} {unit}" for axis, size, unit in edges)
        raise VolumeError(
            f"{volume.name} is not isotropic (voxel edges: {sizes}), so its slices "
            "along different axes do not look alike; segment it along one axis, or "
            "force the consensus."
        )


def open_series(volume: Volume, time: Times = None) -> Series:
    """Choose time points of a volume with an axis t; else raise a `VolumeError`."""
    if "t" not in volume.axes:
        raise VolumeError(
            f"{volume.name} has the axes {', '.join(volume.axes)} and none of time "
            "(t); segment it as one volume, or name its axes with a Volume."
        )
    count = volume.shape[volume.axes.index("t")]
    start, stop = (time, time + 1) if isinstance(time, int) else time or (0, count)
    if not 0 <= start < stop <= count:
        raise VolumeError(
            f"{volume.name} has the time points 0 to {count - 1}, and {time!r} does "
            "not lie within them; choose one, or a first and the one after the last."
        )
    return Series(volume, start, stop)


def plan_parts(
    chosen: Volume | Series,
    prompts: PromptsLike,
    options: SegmentOptions,
    *,
    config: BiomedParseConfig,
    consensus: bool = False,
) -> PartsPlan:
    """Plan what `choose_input` chose, for a network of this `config`.

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
        return single(first)
    axes = chosen.axes
    first = plan_run(chosen, prompts, replace(options, axis=axes[0]), config=config)

    def along(axis: str) -> RunPlan:
        one = replace(options, axis=axis)
        grey = first.intensity
        return plan_run(chosen, prompts, one, config=config, intensity=grey)

    plans = [first, *map(along, axes[1:])]
    return PartsPlan("consensus", axes, first, plans.__getitem__)


def single(plan: RunPlan) -> PartsPlan:
    """Return the request of which a plan is all."""
    return PartsPlan("volume", (None,), plan, lambda _: plan)


def vote(
    first: npt.NDArray[Any], second: npt.NDArray[Any], third: npt.NDArray[Any]
) -> npt.NDArray[Any]:
    """Return the labels that two of three arrays agree on, else those of `first`."""
    return np.where(second == third, second, first)


def merge_options(
    options: SegmentOptions | None, changes: Mapping[str, object]
) -> SegmentOptions:
    """Return options with some fields changed; unknown ones are an `OptionError`."""
    known = {item.name for item in fields(SegmentOptions)}
    if unknown := sorted(set(changes) - known):
        raise OptionError(
            f"There is no option {', '.join(unknown)}; choose from "
            f"{', '.join(sorted(known))}."
        )
    values: dict[str, Any] = dict(changes)
    return replace(options or SegmentOptions(), **values)


def spans(indices: Iterable[int]) -> list[Span]:
    """Merge slices, in any order, into ascending ranges as long as possible."""
    found: list[Span] = []
    for index in sorted(indices):
        if found and found[-1][1] == index:
            found[-1] = (found[-1][0], index + 1)
        else:
            found.append((index, index + 1))
    return found
