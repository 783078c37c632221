"""The plan of a run: what is decided before the first slice."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_biomedparse.data.options import USUAL_BATCH, SegmentOptions
from napari_biomedparse.data.prompts import PromptSet, parse_prompts
from napari_biomedparse.data.volume import Volume, as_volume
from napari_biomedparse.errors import OptionError
from napari_biomedparse.networks.blocks.tokenizer import refuse_equal, tokenize
from napari_biomedparse.slicing.geometry import SliceGeometry, TileGrid
from napari_biomedparse.slicing.intensity import Intensity, choose_intensity
from napari_biomedparse.slicing.read import Seen, region_of, slice_geometry
from napari_biomedparse.version import __version__

if TYPE_CHECKING:
    from napari_biomedparse.data.prompts import PromptsLike
    from napari_biomedparse.data.results import Span
    from napari_biomedparse.data.volume import VolumeLike
    from napari_biomedparse.networks.config import BiomedParseConfig


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
    seen: Seen | None = None
    """Is shown what is read, slice after slice."""

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
    def batch_size(self) -> int:
        """Slices, or tiles of a slice, that go through the network at once."""
        size = self.options.batch_size
        return USUAL_BATCH if isinstance(size, str) else size

    @property
    def slices_at_once(self) -> int:
        """Slices that are read, predicted and yielded together."""
        return self.batch_size if self.tiles.is_single else 1

    def batched(self, suited: int) -> RunPlan:
        """Return the plan with the batch size `suited` if it was left to the device."""
        if self.options.batch_size != "auto":
            return self
        return replace(self, options=replace(self.options, batch_size=suited))

    def parameters(self) -> dict[str, Any]:
        """Return what the labels depend on, as plain JSON types."""
        return {
            **asdict(self.options),
            "prompts": {str(p.id): p.text for p in self.prompts.prompts},
            "prompt_order": list(self.prompts.ranked),
            "slicing_axis": self.axis_name,
            "slices": [self.start, self.stop],
            "tiles_a_slice": len(self.tiles.corners),
            "instances": self.instances,
            "intensity": self.intensity.describe(),
            "truncated_prompts": list(self.truncated),
            "napari_biomedparse": __version__,
        }


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
    volume = region_of(as_volume(volume), options)
    prompts = parse_prompts(prompts)
    refuse_equal(prompts.texts)
    geometry = slice_geometry(volume, options, config.image_size)
    start, stop = options.slices or (0, geometry.depth)
    if not 0 <= start < stop <= geometry.depth:
        raise OptionError(
            f"Slices {start} to {stop} do not lie in {volume.name}, which has "
            f"{geometry.depth} slices along axis {volume.axes[geometry.axis]}; choose "
            f"a range within 0 to {geometry.depth}, end not included."
        )
    wanted = options.instances
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
    )


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
