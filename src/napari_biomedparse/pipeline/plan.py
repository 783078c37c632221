"""All that is decided before the first slice, and how it follows from the options."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_biomedparse.data.options import USUAL_BATCH, SegmentOptions
from napari_biomedparse.data.prompts import PromptSet, parse_prompts
from napari_biomedparse.data.volume import Volume, as_volume
from napari_biomedparse.errors import OptionError
from napari_biomedparse.networks.blocks.tokenizer import tokenize
from napari_biomedparse.pipeline.tiles import TileGrid
from napari_biomedparse.slicing.intensity import Intensity, choose_intensity
from napari_biomedparse.slicing.read import region_of, slice_geometry
from napari_biomedparse.version import __version__

if TYPE_CHECKING:
    from napari_biomedparse.networks.config import BiomedParseConfig
    from napari_biomedparse.slicing.geometry import SliceGeometry


@dataclass(frozen=True)
class RunPlan:
    """All that is decided before the first slice.

    Parameters
    ----------
    volume : Volume
        Three axes, and a fourth where slices are in colour; cut to the region.
    prompts : PromptSet
    options : SegmentOptions
    geometry : SliceGeometry
        Slicing axis, padding and resize.
    tiles : TileGrid
        What the network sees of a slice at once.
    intensity : Intensity
        How values become 0 to 255.
    start, stop : int
        Range of slices along the slicing axis.
    instances : bool
        Whether edges are wanted, to separate objects.
    truncated : tuple of str
        Prompts that lost their end because they are longer than 77 tokens.
    """

    volume: Volume
    prompts: PromptSet
    options: SegmentOptions
    geometry: SliceGeometry
    tiles: TileGrid
    intensity: Intensity
    start: int
    stop: int
    instances: bool
    truncated: tuple[str, ...]

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
        asked = self.options.batch_size
        return USUAL_BATCH if isinstance(asked, str) else asked

    @property
    def slices_at_once(self) -> int:
        """Slices that are read, predicted and handed on together."""
        return self.batch_size if self.tiles.is_single else 1

    def batched(self, suited: int) -> RunPlan:
        """Return the plan with a batch size, if that was left to the device.

        Parameters
        ----------
        suited : int
            Slices that suit the device, from `Engine.suited_batch`.

        Returns
        -------
        RunPlan
        """
        if self.options.batch_size != "auto":
            return self
        return replace(self, options=replace(self.options, batch_size=suited))

    def parameters(self) -> dict[str, Any]:
        """Return what a result should remember, as plain JSON types."""
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
    volume: Any,
    prompts: Any,
    options: SegmentOptions | None = None,
    *,
    config: BiomedParseConfig,
    intensity: Intensity | None = None,
) -> RunPlan:
    """Decide all that can be decided before the first slice.

    Parameters
    ----------
    volume : array or Volume
        numpy, dask or zarr array; see `as_volume` for what it may be.
    prompts : see `parse_prompts`
    options : SegmentOptions, optional
    config : BiomedParseConfig
        Of the network that will run.
    intensity : Intensity, optional
        What `choose_intensity` said of the same region and modality before; by default
        it is asked, which reads up to 2**24 voxels.

    Returns
    -------
    RunPlan

    Raises
    ------
    VolumeError, PromptError, OptionError
        If the volume, the prompts or the options cannot be used.
    """
    options = options or SegmentOptions()
    volume = region_of(as_volume(volume), options)
    prompts = parse_prompts(prompts)
    geometry = slice_geometry(volume, options, config.image_size)
    start, stop = options.slices or (0, geometry.depth)
    if not 0 <= start < stop <= geometry.depth:
        raise OptionError(
            f"Slices {start} to {stop} do not lie in {volume.name}, which has "
            f"{geometry.depth} slices along axis {volume.axes[geometry.axis]}; choose "
            f"a range within 0 to {geometry.depth}, the end not included."
        )
    wanted = options.instances
    return RunPlan(
        volume=volume,
        prompts=prompts,
        options=options,
        geometry=geometry,
        tiles=TileGrid(geometry.working_shape, config.image_size),
        intensity=intensity
        or choose_intensity(volume.data, options.modality, colour=volume.is_colour),
        start=int(start),
        stop=int(stop),
        instances=prompts.instance if wanted is None else wanted,
        truncated=tuple(text for text in prompts.texts if tokenize(text).truncated),
    )
