"""The run that the form describes at one moment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import count
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from napari_biomedparse.data.options import parse_region
from napari_biomedparse.data.volume import as_volume
from napari_biomedparse.runs.recipe import Recipe
from napari_biomedparse.viewer.layers import volume_from_layer
from napari_biomedparse.viewer.source import find_file

if TYPE_CHECKING:
    from pathlib import Path

    from napari.layers import Image, Layer

    from napari_biomedparse.data.options import SegmentOptions
    from napari_biomedparse.data.prompts import PromptSet
    from napari_biomedparse.data.volume import Volume

OF_SCORES = ("existence_threshold", "p_threshold")
THRESHOLDS = (
    *OF_SCORES,
    "overlap_threshold",
    "minimum_size",
    "separate_by",
    "diameter",
    "edge_threshold",
    "instances",
)
"""Options that are applied after the network and can be changed without it."""


@dataclass(frozen=True)
class Request:
    """A requested run.

    `at` holds positions along the layer's axes t and c; a `series` takes all time
    points. With a `folder`, labels are written to it. With a `kind` of image, its one
    slice is recognized, and the prompts are all targets of that kind.
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
    kind: str = ""

    @cached_property
    def volume(self) -> Volume:
        """The volume, with the axis t if it is a series; may raise VolumeError."""
        return volume_from_layer(self.image, at=self.at, series=self.series)

    @cached_property
    def volumes(self) -> list[Volume]:
        """The volume at each requested time point."""
        if not self.series:
            return [self.volume]
        count = self.volume.shape[0]
        return [as_volume(self.volume.select(t=time)) for time in range(count)]

    @property
    def separate(self) -> bool:
        """Whether each prompt has its own labels."""
        return self.options.overlaps == "separate"

    @property
    def subject(self) -> str:
        """The kind of image, or the first prompt, and how many others there are."""
        first, *others = (self.kind,) if self.kind else self.prompts.texts
        return f"{first} and {len(others)} more" if others else first

    def title(self, subject: str, layers: Iterable[Layer] = ()) -> str:
        """Name a layer, which lists elide: prompt, image and model.

        If one of the `layers` has that name, it gets a number, and the options that are
        not at their defaults.
        """
        image, model = self.image.name, PurePath(self.model).name
        taken = [layer.name for layer in layers]
        if (plain := f"{subject}, {image} ({model})") not in taken:
            return plain
        given = {
            item: getattr(self.options, item.name) for item in fields(self.options)
        }
        given = {item: n for item, n in given.items() if n not in (item.default, False)}
        others = "".join(
            f", {item.metadata['label'].lower()} "
            + (f"{n[0]} to {n[1] - 1}" if isinstance(n, tuple) else str(n))
            for item, n in given.items()
        )
        starts = (f"{subject} #{number}, {image} (" for number in count(2))
        start = next(s for s in starts if not any(n.startswith(s) for n in taken))
        return f"{start}{model}{others})"

    @property
    def why_fixed(self) -> str:
        """Why other thresholds need a new run; empty if they do not."""
        if self.folder is not None:
            return "A run folder keeps its thresholds. Choose another one to run again."
        if self.consensus:
            return "A consensus keeps its thresholds. Run again to change them."
        return ""

    @property
    def where(self) -> tuple[slice, ...]:
        """The slices that the region selects of the volume's three axes."""
        region = self.options.region
        box = {} if region is None else parse_region(region)
        axes = self.volumes[0].axes[:3]
        return tuple(slice(*box.get(name, (None, None))) for name in axes)

    @property
    def prompts_by_label(self) -> PromptSet:
        """The prompts, for labels that are label ids instead of objects."""
        return replace(self.prompts, instance=False)

    def with_thresholds_of(self, other: Request) -> Request | None:
        """Return this request with the other's thresholds, if only these differ.

        The other may have other slices or another region. None if anything else
        differs, or nothing.
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

    def recognizing(self, at: int) -> Request:
        """Return the request to recognize a slice, whose targets are the prompts."""
        kind, prompts = self.options.kind, self.prompts_by_label
        one: dict[str, Any] = {"slices": (at, at + 1), "overlaps": "score"}
        options = replace(self.options, prompts_apart=True, instances=False, **one)
        here: dict[str, Any] = {"consensus": False, "folder": None, "scheduler": None}
        return replace(
            self, kind=kind, prompts=prompts, options=options, series=False, **here
        )

    def hold(self) -> None:
        """Keep the voxels: the layer may be gone when the run starts.

        Raises VolumeError if they cannot be segmented.
        """
        _ = self.volumes

    @property
    def channel_of_series(self) -> int | None:
        """The channel of a series, 0 without channels; None if it is not a series."""
        return self.at.get("c", 0) if self.series else None

    def recipe(self) -> Recipe:
        """Return the run as a command or script can repeat it.

        Raises VolumeError if the volume is not the content of a file.
        """
        file = find_file(self.image, self.volume, self.at, series=self.series)
        return Recipe(
            source=file.path,
            prompts=self.prompts,
            options=replace(
                self.options,
                axes=file.axes,
                voxel_size=self.options.voxel_size or file.voxel_size,
            ),
            model=self.model,
            device=self.device,
            channel=file.channel,
            time=file.time,
            series=self.series,
            consensus=self.consensus,
            folder=self.folder,
            scheduler=self.scheduler,
        )
