"""How a volume is segmented: every option with its default, help text and limits.

Forms, the command line, the records of runs and the docstrings of option classes are
derived from these declarations; the module must stay free of torch. Source of
the CT windows: the preparation that the training data are documented to have had
(CVPR 2025 text-guided segmentation challenge).
"""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from types import NoneType, UnionType
from typing import Any, NamedTuple, TypedDict, TypeVar, get_args, get_type_hints

import numpy as np

from napari_biomedparse.errors import OptionError

Options = TypeVar("Options", bound=type)

_KINDS: dict[type, tuple[str, tuple[type, ...]]] = {
    bool: ("True or False", (bool, np.bool_)),
    int: ("a whole number", (int, np.integer)),
    float: ("a number", (int, float, np.number)),
    str: ("text", (str,)),
}
"""What an annotated type is called, and which values it takes."""


def option(
    default: Any,
    label: str,
    help_text: str,
    *,
    choices: tuple[str, ...] = (),
    names: tuple[str, ...] = (),
    limits: tuple[float, float | None] | None = None,
    check: Callable[[Any], Any] | None = None,
    metavar: str | None = None,
) -> Any:
    """Declare a field of a dataclass whose ``__post_init__`` calls `check_fields`.

    The label is a few words for a form, the help text a sentence or two for a tooltip
    and for ``--help``, which shows the metavar in place of the value. Choices are all
    values, if they can be listed; names are words that may stand in place of a number.
    Limits are the smallest and largest value, which may be None; floats for a field of
    floats. `check` takes a value and returns it in its normal form, or raises an
    `OptionError`.
    """
    low, high = limits or (None, None)
    meta = {
        "label": label,
        "help": help_text,
        "choices": choices or None,
        "names": names or None,
        "min": low,
        "max": high,
        "check": check,
        "metavar": metavar,
    }
    known = {key: value for key, value in meta.items() if value is not None}
    return field(default=default, metadata=known)


@cache
def field_types(options: type) -> Mapping[str, tuple[type, ...]]:
    """Return the types that each field of a class may have, None among them."""
    hints = get_type_hints(options)
    return {
        name: get_args(hint) if isinstance(hint, UnionType) else (hint,)
        for name, hint in hints.items()
    }


def check_fields(options: Any) -> None:
    """Raise an `OptionError` for a value that a field's `option` does not allow.

    Other values come into their normal form, also if the dataclass is frozen.
    """
    for item in fields(options):
        value, meta = getattr(options, item.name), item.metadata
        types = field_types(options.__class__)[item.name]
        if value is None and NoneType in types:
            continue
        _check(value, f"{meta['label']} ({item.name})", types, meta)
        if "check" in meta:
            object.__setattr__(options, item.name, meta["check"](value))


def _check(
    value: Any, label: str, types: tuple[type, ...], meta: Mapping[str, Any]
) -> None:
    choices, names = meta.get("choices"), meta.get("names", ())
    if choices:
        if value not in choices:
            raise OptionError(
                f"{label} is {value!r}; choose one of {', '.join(choices)}."
            )
        return
    if isinstance(value, str) and value in names:
        return
    kind = next((t for t in types if t in _KINDS and not (names and t is str)), None)
    if kind is None:  # a tuple, which its own check knows
        return
    words, allowed = _KINDS[kind]
    if not isinstance(value, allowed) or (isinstance(value, bool) and kind is not bool):
        words = f"one of {', '.join(names)}, or {words}" if names else words
        raise OptionError(f"{label} must be {words}, not {value!r}.")
    if "min" in meta and not meta["min"] <= value <= meta.get("max", np.inf):
        span = f"at least {meta['min']}"
        if "max" in meta:
            span = f"between {meta['min']} and {meta['max']}"
        raise OptionError(f"{label} is {value}; it must be {span}.")


def documented(options: Options) -> Options:
    """Add the help texts of the fields to the docstring of their class."""
    lines = ["\n", "Parameters", "----------"]
    for item in fields(options):
        lines.append(f"{item.name} : {item.type}, default: {item.default!r}")
        lines.append(textwrap.indent(textwrap.fill(item.metadata["help"], 76), "    "))
    options.__doc__ = "\n".join([options.__doc__ or "", *lines, ""])
    return options


SMALLEST_TILE, LARGEST_TILE = 16, 16384
PRECISIONS = ("float32", "bfloat16", "float16")
USUAL_BATCH = 4  # slices per batch where no GPU chooses


class Modality(NamedTuple):
    """What is known about the grey levels of one kind of image.

    `window` is the lowest and the highest Hounsfield unit that stay distinct; without
    it, the range comes from percentiles, on request of positive values alone. For
    BiomedParse v1, each slice is then stretched to its own lowest and highest value.
    `network` is the one that learned from images prepared like this, if only one did.
    """

    label: str
    window: tuple[float, float] | None = None
    positive: bool = False
    each_slice: bool = False
    network: str = "v2"


def _ct(label: str, width: float, level: float) -> Modality:
    return Modality(label, (level - width / 2, level + width / 2))


_SITES = {  # Hounsfield units of the readers of BiomedParse v1, by name and key
    "abdomen": ("ct-abdomen", (-150.0, 250.0)),
    "chest": ("ct-chest", (-1000.0, 1000.0)),
    "pelvis": ("ct-pelvis", (-55.0, 200.0)),
    "liver": ("ct-liver", (-25.0, 230.0)),
    "colon": ("ct-colon", (-68.0, 187.0)),
    "pancreas": ("ct-pancreas", (-100.0, 200.0)),
}

MODALITIES: dict[str, Modality] = {
    "auto": Modality("choose from the data", network=""),
    "none": Modality("values as they are", network=""),
    "ct": _ct("CT, soft tissue", 400, 40),
    "ct-lung": _ct("CT, lung", 1500, -160),
    "ct-brain": _ct("CT, brain", 80, 40),
    "ct-bone": _ct("CT, bone", 1800, 400),
    "mr": Modality("MR"),
    "pet": Modality("PET"),
    "ultrasound": Modality("ultrasound"),
    "em": Modality("electron microscopy"),
    "light-sheet": Modality("light-sheet and other fluorescence microscopy"),
    "positive": Modality("other: positive values", None, True, False, "v1"),
    "positive-v1": Modality("v1, other: each slice by itself", None, True, True, "v1"),
    **{
        key: Modality(f"CT, {site}", window, False, False, "v1")
        for site, (key, window) in _SITES.items()
    },
    **{
        f"{key}-v1": Modality(
            f"v1, CT {site}: each slice by itself", window, False, True, "v1"
        )
        for site, (key, window) in _SITES.items()
    },
}


def parse_region(text: str) -> dict[str, tuple[int, int]]:
    """Read a box such as ``y=100:400,x=0:200``: first voxel and stop by axis.

    An `OptionError` is raised if the text is not of that form.
    """
    box: dict[str, tuple[int, int]] = {}
    for part in text.split(","):
        match = re.fullmatch(r"\s*([a-z])\s*=\s*(\d+)\s*:\s*(\d+)\s*", part)
        if match is None or match[1] in box:
            raise OptionError(
                f"Region (region) is {text!r}; write the first voxel and the one after "
                "the last for each axis to crop, such as y=100:400,x=0:200."
            )
        box[match[1]] = (int(match[2]), int(match[3]))
    return box


def region_text(box: Mapping[str, tuple[int, int]]) -> str:
    """Write a box in named axes, as `parse_region` reads it."""
    return ",".join(f"{axis}={start}:{stop}" for axis, (start, stop) in box.items())


def parse_voxel_size(text: str) -> tuple[tuple[float, ...], str]:
    """Read a size such as ``0.5,0.1,0.1um``: of z, y, x or of all, and the unit.

    An `OptionError` is raised if it is not of that form, or a number is not above 0.
    """
    number = r"\s*(\d*\.?\d+(?:[eE][-+]?\d+)?)\s*"
    match = re.fullmatch(
        f"{number}(?:,{number},{number})?([^\\d\\s,.]*)\\s*", str(text)
    )
    sizes = [float(size) for size in match.groups()[:3] if size] if match else []
    if match is None or not all(0 < size < np.inf for size in sizes):
        raise OptionError(
            f"Voxel size (voxel_size) is {text!r}; write the sizes along z, y and x "
            "and their unit, such as 0.5,0.1,0.1um, or one size for all."
        )
    return tuple(sizes if len(sizes) > 1 else sizes * 3), match[4] or "um"


def _check_voxel_size(text: str) -> str:
    parse_voxel_size(text)
    return "".join(text.split())


def parse_axes(text: str) -> tuple[str, ...]:
    """Read names of axes such as ``ZYX``, one letter each.

    An `OptionError` is raised if they are not of t, c, z, y, x, or y or x is missing.
    """
    axes = tuple(str(text).strip().lower().replace("s", "c"))
    if len(set(axes)) < len(axes) or not {"y", "x"} <= set(axes) <= set("tczyx"):
        raise OptionError(
            f"Axes (axes) is {text!r}; write a letter for each axis of the file or "
            "array, in its order: T (time), C (channels or colors), Z, Y, X."
        )
    return axes


def _check_slices(value: Any) -> tuple[int, int]:
    """Take any pair of whole numbers, or a range in steps of one."""
    if isinstance(value, range) and value.step == 1:
        value = (value.start, value.stop)
    pair = tuple(value) if isinstance(value, list | tuple) else ()
    whole = [isinstance(n, int | np.integer) and n is not True for n in pair]
    if len(pair) != 2 or not all(whole):
        raise OptionError(
            "Slices (slices) must be the first slice and the one after the last, not "
            f"{value!r}."
        )
    return int(pair[0]), int(pair[1])


@documented
@dataclass(frozen=True)
class SegmentOptions:
    """How a volume is segmented."""

    modality: str = option(
        "auto",
        "Modality",
        "Kind of image, which determines how its values are scaled to the range 0 to "
        "255 that the network expects. 8-bit images are used as they are.",
        choices=tuple(MODALITIES),
        metavar="KIND",
    )
    axis: int | str | None = option(
        None,
        "Slicing axis",
        "Axis along which the volume is sliced, by name: z, y or x (or 0, 1 or 2 for "
        "the first, second or last). By default it follows from the volume's shape.",
        limits=(0, 2),
        names=("z", "y", "x", "t"),
        metavar="z|y|x",
    )
    slices: tuple[int, int] | None = option(
        None,
        "Slices",
        "Segment only these slices, counted from 0; 10:20 means 10 to 19. By default "
        "all slices are segmented.",
        check=_check_slices,
        metavar="FIRST:END",
    )
    region: str | None = option(
        None,
        "Region",
        "Segment only a box of the volume, in voxels by axis name, counted from 0, end "
        "not included: y=100:400,x=0:200. The labels have its shape and position; "
        "slices are counted within it.",
        check=lambda text: region_text(parse_region(text)),
        metavar="y=FIRST:END,...",
    )
    axes: str | None = option(
        None,
        "Axes",
        "Names of the axes of a TIFF file or an array, in their order, in place of its "
        "own: ZYX for a stack whose slices are declared as channels or time points.",
        check=lambda text: "".join(parse_axes(text)).upper(),
        metavar="LETTERS",
    )
    orientation: str = option(
        "published",
        "Orientation",
        "How slices are turned before the network sees them; labels keep the image's "
        "own grid. published: as the model was trained, which for v1 is x downwards in "
        "NIfTI files, and else as stored. stored: rows downwards. radiological: head "
        "or front up and the patient's left at the right, for NIfTI and DICOM.",
        choices=("published", "stored", "radiological"),
        metavar="published|stored|radiological",
    )
    voxel_size: str | None = option(
        None,
        "Voxel size",
        "Voxel size along z, y and x with its unit, in place of the file's: "
        "0.5,0.1,0.1um, or one size for all. Without a unit, micrometers.",
        check=_check_voxel_size,
        metavar="Z,Y,X[UNIT]",
    )
    tile: str | int = option(
        "auto",
        "Tiles",
        "none: each slice is resized to the network's input size, as in the original. "
        "auto: slices of more than 1024 pixels are cut into tiles at full resolution. "
        "A number sets the tile size in pixels.",
        names=("none", "auto"),
        limits=(SMALLEST_TILE, LARGEST_TILE),
        metavar="none|auto|PIXELS",
    )
    pixel_size: float | None = option(
        None,
        "Pixel size",
        "Scale at which the network sees the slices, as the size of a pixel in the "
        "volume's unit. Slices that become too large are cut into tiles.",
        limits=(1e-9, 1e9),
    )
    existence_threshold: float = option(
        0.5,
        "Existence threshold",
        "Minimum probability that a prompt's target occurs in a slice. Below it, the "
        "prompt is ignored in that slice.",
        limits=(0.0, 1.0),
    )
    kind: str = option(
        "auto",
        "Kind of image",
        "For BiomedParse v1, whose score p says how well a mask looks like its target "
        "in this kind of image, such as CT-Abdomen. auto: as the prompt says, as in "
        "'neoplastic cells in breast pathology'.",
        metavar="MODALITY-SITE",
    )
    table: str | None = option(
        None,
        "Table of targets",
        "For p: a JSON file of kinds of images and targets in place of the authors'.",
        check=lambda path: os.path.abspath(path) if path else None,
        metavar="FILE.json",
    )
    p_threshold: float = option(
        0.0,
        "p threshold",
        "Minimum p of a mask of BiomedParse v1, which else is dropped in its slice; "
        "the authors recommend 0.05. Masks without a table are kept.",
        limits=(0.0, 1.0),
    )
    overlap_threshold: float = option(
        0.5,
        "Overlap threshold",
        "If the masks of two prompts overlap by more than this (intersection over "
        "union), the less probable prompt is dropped in that slice.",
        limits=(0.0, 1.0),
    )
    overlaps: str = option(
        "score",
        "Overlaps",
        "Which prompt gets a voxel that several prompts claim. score: the most "
        "probable one, as in the original, which also drops prompts by the overlap "
        "threshold. order: the first one. separate: all of them, each in a label "
        "volume of its own. confident: the most probable one, once prompts have been "
        "dropped that others outvote in most of their pixels, as BiomedParse v1 does.",
        choices=("score", "order", "separate", "confident"),
        metavar="score|order|separate|confident",
    )
    mode: str = option(
        "auto",
        "Mode",
        "How v2 reads slices. 3d: with their neighbors. 2d: each as an image, whose "
        "masks may overlap. auto: 2d for single images and for color. v1 knows "
        "images only.",
        choices=("auto", "3d", "2d"),
        metavar="auto|3d|2d",
    )
    prompts_apart: bool = option(
        False,
        "Each prompt by itself",
        "Find each prompt as in a run of its own, so that its scores and masks do not "
        "depend on the other prompts. By default, as in the original, shorter prompts "
        "are padded to the longest one, which changes their masks a little. Overlaps "
        "are still resolved; with separate overlaps, no label changes either.",
    )
    instances: bool | None = option(
        None,
        "Separate objects",
        "Give each object its own number, separating touching objects at the predicted "
        "boundaries. By default, the file's instance_label decides.",
    )
    separate_by: str = option(
        "edges",
        "Separate by",
        "How touching objects are told apart. edges: at predicted boundaries, of which "
        "v1 has none. shape: where a mask narrows; with v1, and of a single image, in "
        "each slice by itself. both: at boundaries, and where what is left narrows.",
        choices=("edges", "shape", "both"),
        metavar="edges|shape|both",
    )
    diameter: float = option(
        0.0,
        "Expected diameter",
        "Of objects that are separated by shape in a volume, in its unit. 0: of the "
        "largest sphere within each group of objects.",
        limits=(0.0, 1e9),
        metavar="LENGTH",
    )
    edge_threshold: float = option(
        0.5,
        "Edge threshold",
        "Boundary threshold for touching objects. Lower values split more.",
        limits=(0.0, 1.0),
    )
    minimum_size: int = option(
        0,
        "Minimum size",
        "Remove separate objects with fewer voxels than this. The labels keep them. 0: "
        "none, or, by shape in a volume, those below a quarter of the median size.",
        limits=(0, 2**31 - 1),
        metavar="VOXELS",
    )
    batch_size: int | str = option(
        "auto",
        "Batch size",
        "Number of slices that the network processes at once. auto: as many as the "
        "free memory of a GPU allows. Does not change the result on a CPU, and hardly "
        "on a GPU.",
        limits=(1, 1024),
        names=("auto",),
        metavar="auto|N",
    )
    precision: str = option(
        "auto",
        "Precision",
        "Numbers that the network computes with. float32 is the most exact. bfloat16 "
        "has 8 bits in place of 24: a few voxels in a thousand get another label. "
        "auto: half precision on CUDA, bfloat16 for large networks on processors that "
        "multiply it, else float32. The same precision gives the same labels.",
        choices=("auto", *PRECISIONS),
        metavar="auto|float32|bfloat16|float16",
    )
    seed: int = option(
        0,
        "Seed",
        "Seed of the network's random numbers: the same seed gives the same labels.",
        limits=(0, 2**31 - 1),
    )

    def __post_init__(self) -> None:
        """Refuse values outside an option's choices or limits."""
        check_fields(self)
        if self.pixel_size is not None and self.tile != "auto":
            raise OptionError(
                f"A pixel size determines the tile size: leave Tiles (tile) at auto, "
                f"not {self.tile!r}."
            )


class OptionChanges(TypedDict, total=False):
    """Single fields of `SegmentOptions`, as keywords of functions that take them."""

    modality: str
    axis: int | str | None
    slices: tuple[int, int] | None
    region: str | None
    axes: str | None
    orientation: str
    voxel_size: str | None
    tile: str | int
    pixel_size: float | None
    existence_threshold: float
    kind: str
    table: str | None
    p_threshold: float
    overlap_threshold: float
    overlaps: str
    mode: str
    prompts_apart: bool
    instances: bool | None
    separate_by: str
    diameter: float
    edge_threshold: float
    minimum_size: int
    batch_size: int | str
    precision: str
    seed: int


def refuse_separate(options: SegmentOptions, what: str) -> None:
    """Raise an `OptionError` if overlaps are separate, but `what` is one volume."""
    if options.overlaps == "separate":
        raise OptionError(
            "Overlaps (overlaps) is separate, which gives one label volume per prompt, "
            f"but {what} holds a single one; choose score or order, or segment one "
            "volume to memory or a file."
        )
