"""How a volume is segmented: every option with its default, help text and limits.

Forms and the command line are made from this; it must stay free of torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from napari_biomedparse.data.modalities import MODALITIES
from napari_biomedparse.errors import OptionError

SMALLEST_TILE = 16
TILE_WORDS = ("none", "auto")
USUAL_BATCH = 4
"""Slices a batch where no GPU chooses."""
OVERLAPS = ("score", "order", "separate")


def _option(default: Any, label: str, help_text: str, **limits: Any) -> Any:
    """Make an option's one home: default, label, help text and limits."""
    return field(
        default=default, metadata={"label": label, "help": help_text, **limits}
    )


@dataclass(frozen=True)
class SegmentOptions:
    """How a volume is segmented; forms and the command line are made from this."""

    modality: str = _option(
        "auto",
        "Modality",
        "Kind of image, which decides how its values become the 0 to 255 that the "
        "network knows. 8-bit images are used as they are.",
        choices=tuple(MODALITIES),
    )
    axis: int | str | None = _option(
        None,
        "Slicing axis",
        "Axis along which the volume is cut into slices, by its name: z, y or x (or "
        "0, 1 or 2 for the first, second or last). Chosen by the volume's shape if "
        "not given.",
        min=0,
        max=2,
        names=("z", "y", "x", "t"),
    )
    slices: tuple[int, int] | None = _option(
        None, "Slices", "First slice and the one after the last; all if not given."
    )
    region: str | None = _option(
        None,
        "Region",
        "Only a box of the volume, in voxels by the names of axes, counted from 0, the "
        "ends not included: y=100:400,x=0:200. Labels have its shape and place; slices "
        "are counted within it.",
    )
    tile: str | int = _option(
        "auto",
        "Tiles",
        "none: every slice is resized to the network's square, as the original does. "
        "auto: slices of more than 1024 pixels are cut into tiles at full resolution. "
        "A number: tiles of so many pixels.",
    )
    pixel_size: float | None = _option(
        None,
        "Pixel size",
        "Scale at which the network sees the slices, as the size of a pixel in the "
        "volume's unit; they are cut into tiles where that makes them too large.",
        min=1e-9,
        max=1e9,
    )
    existence_threshold: float = _option(
        0.5,
        "Existence threshold",
        "A prompt counts in a slice if the network finds it at least this probable "
        "that its target is there.",
        min=0.0,
        max=1.0,
    )
    overlap_threshold: float = _option(
        0.5,
        "Overlap threshold",
        "Of two prompts whose masks overlap by more than this (intersection over "
        "union), the less probable one is dropped in that slice.",
        min=0.0,
        max=1.0,
    )
    overlaps: str = _option(
        "score",
        "Overlaps",
        "Who gets a voxel that several prompts claim. score: the most probable one, "
        "as in the original, which also drops prompts by the overlap threshold. "
        "order: the prompt that comes first. separate: each, in a label volume of its "
        "own.",
        choices=OVERLAPS,
    )
    instances: bool | None = _option(
        None,
        "Separate objects",
        "Give every object a number of its own, split at the predicted edges. If not "
        "given, the file's instance_label decides.",
    )
    edge_threshold: float = _option(
        0.5,
        "Edge threshold",
        "How sure the network has to be of an edge between objects: less splits more.",
        min=0.0,
        max=1.0,
    )
    minimum_size: int = _option(
        0,
        "Minimum size",
        "Separate objects of fewer voxels are dropped; the labels keep them.",
        min=0,
        max=2**31 - 1,
    )
    batch_size: int | str = _option(
        "auto",
        "Slices a batch",
        "Slices that go through the network at once, or auto: what suits the free "
        "memory of a GPU. Never changes the result on a CPU, and hardly on a GPU.",
        min=1,
        max=1024,
        names=("auto",),
    )
    seed: int = _option(
        0,
        "Seed",
        "Fixes the random part of the network: same seed, same labels.",
        min=0,
        max=2**31 - 1,
    )

    def __post_init__(self) -> None:
        """Refuse values outside an option's choices or limits."""
        for item in fields(self):
            value, limits = getattr(self, item.name), item.metadata
            label = f"{limits['label']} ({item.name})"
            if "choices" in limits and value not in limits["choices"]:
                raise OptionError(
                    f"{label} is {value!r}; choose one of "
                    f"{', '.join(map(str, limits['choices']))}."
                )
            if isinstance(value, str) and value in limits.get("names", ()):
                continue
            if "min" in limits and value is not None:
                whole = not isinstance(limits["min"], float)
                kinds = (int, np.integer) if whole else (int, float, np.number)
                if isinstance(value, bool) or not isinstance(value, kinds):
                    kind = "a whole number" if whole else "a number"
                    if "names" in limits:
                        kind = f"one of {', '.join(limits['names'])}, or {kind}"
                    raise OptionError(f"{label} must be {kind}, not {value!r}.")
                if not limits["min"] <= value <= limits["max"]:
                    raise OptionError(
                        f"{label} is {value}; it must lie between {limits['min']} and "
                        f"{limits['max']}."
                    )
        if self.region is not None:
            text = region_text(parse_region(self.region))
            object.__setattr__(self, "region", text)
        if isinstance(self.tile, bool) or not (
            self.tile in TILE_WORDS
            or (isinstance(self.tile, int) and self.tile >= SMALLEST_TILE)
        ):
            raise OptionError(
                f"Tiles (tile) must be none, auto, or a whole number of at least "
                f"{SMALLEST_TILE} pixels, not {self.tile!r}."
            )
        if self.pixel_size is not None and self.tile != "auto":
            raise OptionError(
                f"A pixel size decides how large tiles are: leave Tiles (tile) at auto "
                f"with it, not {self.tile!r}."
            )
        if self.slices is not None and len(tuple(self.slices)) != 2:
            raise OptionError(
                f"Slices must be a first slice and the one after the last, not "
                f"{self.slices!r}."
            )


def parse_region(text: str) -> dict[str, tuple[int, int]]:
    """Read a box in named axes.

    Parameters
    ----------
    text : str
        For example ``y=100:400,x=0:200``.

    Returns
    -------
    dict
        First voxel, and the one after the last, by axis.

    Raises
    ------
    OptionError
        If it is none.
    """
    found: dict[str, tuple[int, int]] = {}
    for part in text.split(","):
        match = re.fullmatch(r"\s*([a-z])\s*=\s*(\d+)\s*:\s*(\d+)\s*", part)
        if match is None or match[1] in found:
            raise OptionError(
                f"Region (region) is {text!r}; write a first voxel and the one after "
                "the last for each axis that is cut, such as y=100:400,x=0:200."
            )
        found[match[1]] = (int(match[2]), int(match[3]))
    return found


def region_text(box: Mapping[str, tuple[int, int]]) -> str:
    """Write a box in named axes, as `parse_region` reads it.

    Parameters
    ----------
    box : mapping
        First voxel, and the one after the last, by axis.

    Returns
    -------
    str
    """
    return ",".join(f"{axis}={start}:{stop}" for axis, (start, stop) in box.items())


def refuse_separate(options: SegmentOptions, what: str) -> None:
    """Refuse a label volume for every prompt where there is no place for it.

    Parameters
    ----------
    options : SegmentOptions
    what : str
        The kind of result, in words.

    Raises
    ------
    OptionError
    """
    if options.overlaps == "separate":
        raise OptionError(
            f"Overlaps (overlaps) is separate, which gives a label volume for every "
            f"prompt, but {what} holds a single one; choose score or order, or "
            "segment one volume to memory or a file."
        )
