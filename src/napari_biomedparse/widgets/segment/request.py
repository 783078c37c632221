"""All that the form says at one moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from napari_biomedparse.data.options import parse_region
from napari_biomedparse.data.volume import as_volume
from napari_biomedparse.runs.recipe import Recipe
from napari_biomedparse.viewer.layers import volume_from_layer
from napari_biomedparse.viewer.source import find_file

if TYPE_CHECKING:
    from pathlib import Path

    from napari.layers import Image

    from napari_biomedparse.data.options import SegmentOptions
    from napari_biomedparse.data.prompts import PromptSet
    from napari_biomedparse.data.volume import Volume

THRESHOLDS = (
    "existence_threshold",
    "overlap_threshold",
    "minimum_size",
    "edge_threshold",
    "instances",
)
"""Options that count after the network, so that they can be changed without it."""


@dataclass(frozen=True)
class Request:
    """A run that is asked for.

    Parameters
    ----------
    image : napari.layers.Image
    at : mapping of str to int
        Positions along the layer's further axes, t and c.
    series : bool
        Whether all time points are wanted.
    prompts : PromptSet
    options : SegmentOptions
    model, device : str
    consensus : bool
        Whether to run along all axes and vote.
    folder : Path, optional
        The run's folder, if labels are to be written as they come.
    scheduler : str, optional
        Address of the cluster that is to compute.
    overwrite : bool
        Whether the labels go into the layer of the last run of the same image.
    """

    image: Image
    at: Mapping[str, int]
    series: bool
    prompts: PromptSet
    options: SegmentOptions
    model: str
    device: str
    consensus: bool
    folder: Path | None = None
    scheduler: str | None = None
    overwrite: bool = False

    @cached_property
    def volume(self) -> Volume:
        """The volume; of a series one with the axis t.

        Raises
        ------
        VolumeError
            If it cannot be segmented.
        """
        return volume_from_layer(self.image, at=self.at, series=self.series)

    @cached_property
    def volumes(self) -> list[Volume]:
        """The volume at each time point that is wanted."""
        if not self.series:
            return [self.volume]
        count = self.volume.shape[0]
        return [as_volume(self.volume.select(t=time)) for time in range(count)]

    @property
    def separate(self) -> bool:
        """Whether every prompt has labels of its own."""
        return self.options.overlaps == "separate"

    @property
    def why_fixed(self) -> str:
        """Why other thresholds need a run from the start; empty if they do not."""
        if self.folder is not None:
            return "A run folder keeps its thresholds: run into another one."
        if self.consensus:
            return "Three runs vote on the labels: other thresholds need another Run."
        return ""

    @property
    def where(self) -> tuple[slice, ...]:
        """What the region takes of the volume's three axes."""
        region = self.options.region
        box = {} if region is None else parse_region(region)
        axes = self.volumes[0].axes[:3]
        return tuple(slice(*box.get(name, (None, None))) for name in axes)

    @property
    def prompts_by_label(self) -> PromptSet:
        """The prompts, for labels that are their ids, not objects."""
        return replace(self.prompts, instance=False)

    def with_thresholds_of(self, other: Request) -> Request | None:
        """Return this request with the other's thresholds, if only they differ.

        Parameters
        ----------
        other : Request
            It may also be for another part of the same volume.

        Returns
        -------
        Request or None
            None if something else differs, or nothing does.
        """
        theirs = {name: getattr(other.options, name) for name in THRESHOLDS}
        changed = replace(
            self,
            options=replace(self.options, **theirs),
            prompts=replace(self.prompts, instance=other.prompts.instance),
        )
        scope = replace(
            changed.options, slices=other.options.slices, region=other.options.region
        )
        same = replace(changed, options=scope, overwrite=other.overwrite)
        return changed if same == other and changed != self else None

    def hold(self) -> None:
        """Take hold of the voxels: the layer may be gone when the run's turn comes.

        Raises
        ------
        VolumeError
            If they cannot be segmented.
        """
        _ = self.volumes

    @property
    def channel_of_series(self) -> int | None:
        """Which channel a series is of, 0 without channels; None if it is no series."""
        return self.at.get("c", 0) if self.series else None

    def recipe(self) -> Recipe:
        """Return the run in a form that can be told to others.

        Raises
        ------
        VolumeError
            If the volume is not the content of a file.
        """
        file = find_file(self.image, self.volume, self.at, series=self.series)
        return Recipe(
            source=file.path,
            prompts=self.prompts,
            options=self.options,
            model=self.model,
            device=self.device,
            channel=file.channel,
            time=file.time,
            series=self.series,
            consensus=self.consensus,
            folder=self.folder,
            scheduler=self.scheduler,
        )
