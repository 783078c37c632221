"""Axes and calibration of a TIFF file, from OME-XML, ImageJ metadata or plain tags."""

from __future__ import annotations

import json
import logging
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from napari_biomedparse.data.prompts import INSTANCE_KEY
from napari_biomedparse.data.results import Owners
from napari_biomedparse.errors import FormatError
from napari_biomedparse.io.formats.units import PIXEL, unit_name
from napari_biomedparse.io.guards.bounds import MAX_METADATA

if TYPE_CHECKING:
    import tifffile

logger = logging.getLogger(__name__)

LABEL_NAMESPACE = "napari-biomedparse/labels"
"""Namespace of the map of label id to prompt in our own label images."""
_RGB = ("red", "green", "blue", "alpha")
_MICROMETERS = {2: 25400.0, 3: 10000.0}
"""Length of the unit of a resolution tag: 2 is inch, 3 is centimetre."""
_MAX_PLANES = 2**22
_COUNTS = ("NumPlanes", "PlaneCount", "IFD", "FirstT", "FirstC", "FirstZ")
_COARSEST = 20.0
"""Larger pixels (micrometre) belong to print or screen, not to a microscope."""


@dataclass(frozen=True)
class Calibration:
    """Spacing and units (pint names) by axis letter, and names, as far as known.

    `labels` are label ids and prompts, if this is a label image of ours.
    """

    spacing: Mapping[str, float] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    channel_names: tuple[str, ...] = ()
    name: str = ""
    labels: Mapping[str, str] | None = None


def check_claims(file: tifffile.TiffFile, path: Path) -> None:
    """Refuse harmful claims of a file just opened, before tifffile follows them.

    These are pages that form a ring, and OME-XML that names files in other folders or
    more planes than there can be.
    """
    _check_chain(file, path)
    text = file.ome_metadata if file.is_ome else None
    if not text:
        return
    if len(text) > MAX_METADATA:
        raise FormatError(
            f"{path} has {len(text)} characters of OME-XML, and at most "
            f"{MAX_METADATA} are accepted; save it again without them."
        )
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError:
        return  # tifffile ignores it, too
    voxels = max(1, file.pages.first.size)
    for element in root.iter():
        if (planes := _claimed_planes(element, voxels)) > _MAX_PLANES:
            raise FormatError(
                f"{path} claims {planes:.3g} planes, and at most {_MAX_PLANES} are "
                "accepted; it is damaged: copy it again from its source."
            )
        if (name := element.get("FileName")) is not None:
            _check_companion(path, name)


def _check_chain(file: tifffile.TiffFile, path: Path) -> None:
    """Refuse pages of which the last refers back to an earlier one.

    tifffile itself detects rings of less than a hundred pages, and not all of those.
    """
    form, handle = file.tiff, file.filehandle
    at, seen = int(file.pages.first.offset), set[int]()
    while at:
        if at in seen:
            raise FormatError(
                f"{path} refers from page {len(seen)} back to an earlier one; it is "
                "damaged: copy it again from its source."
            )
        seen.add(at)
        handle.seek(at)
        try:
            (tags,) = struct.unpack(form.tagnoformat, handle.read(form.tagnosize))
            handle.seek(at + form.tagnosize + tags * form.tagsize)
            (at,) = struct.unpack(form.offsetformat, handle.read(form.offsetsize))
        except (struct.error, OSError, OverflowError):
            return  # truncated, which tifffile reports or ignores


def _claimed_planes(element: ElementTree.Element, voxels: int) -> float:
    """Return the number of planes that an element of OME-XML makes tifffile list.

    That is the number of pages of `voxels` each that the claimed sizes would fill.
    """
    tag = element.tag  # tifffile compares its end
    if tag.endswith("Pixels"):
        order = element.get("DimensionOrder", "")
        sizes = [max(1.0, _number(element, f"Size{axis}")) for axis in order]
        channels = [child for child in element if child.tag.endswith("Channel")]
        samples = max([_number(child, "SamplesPerPixel") for child in channels] + [1.0])
        return max(math.prod(sizes[2:]), math.prod(sizes) * samples / voxels)
    if tag.endswith("TiffData"):
        return max(_number(element, key) for key in _COUNTS)
    if tag[:-1].endswith("Along") and "Start" in element.attrib:
        length = _number(element, "Start") + _number(element, "End")
        step = _number(element, "Step", 1.0)
        return length / step if step else math.inf
    return 0.0


def _number(element: ElementTree.Element, key: str, otherwise: float = 0.0) -> float:
    """Return the magnitude of an attribute; 0 if tifffile refuses it."""
    try:
        return abs(float(element.get(key, otherwise)))
    except ValueError:
        return 0.0


def _check_companion(path: Path, name: str) -> None:
    other = path.parent / name
    beside = other.name == name and not other.is_symlink()
    if not beside or (other.exists() and not other.is_file()):
        raise FormatError(
            f"{path} continues in {name!r}, which is not a plain file in the same "
            "folder; put the files of an image into one folder."
        )


def name_axes(codes: str, what: str) -> tuple[str, ...]:
    """Translate tifffile's axis letters, such as ``"QYX"``, to ours (``t c z y x``).

    `what` names the file in the log. Raises `ValueError` if two axes would get the
    same letter.
    """
    known = {"X": "x", "Y": "y", "Z": "z", "C": "c", "T": "t", "S": "c"}
    free = [code for code in codes if code not in known]
    if free and "Z" not in codes:
        known[free[-1]] = "z"
        logger.info("%s does not name the axis of its stack; it is taken as z.", what)
        free.pop()
    if "C" in codes and "S" in codes:
        free.append("C")
    taken = {known[code] for code in codes if code in known and code not in free}
    spare = (letter for letter in "tc" if letter not in taken)
    known |= dict(zip(free, spare, strict=False))
    axes = tuple(known.get(code, "?") for code in codes)
    if len(set(axes)) < len(axes) or "?" in axes:
        raise ValueError(f"the axes {codes}")
    return axes


def read_calibration(file: tifffile.TiffFile, index: int) -> Calibration:
    """Collect what is known about image number `index` of the file."""
    series = file.series[index]
    found = Calibration()
    if series.kind == "ome" and file.ome_metadata:
        found = _from_ome(file.ome_metadata, index, len(file.series))
    elif file.is_imagej and file.imagej_metadata:
        found = _from_imagej(file.imagej_metadata, _resolution(series.keyframe))
    if not found.spacing:
        spacing, units = _from_tags(series.keyframe)
        found = replace(found, spacing=spacing, units=units)
    samples = dict(zip(series.axes, series.shape, strict=True)).get("S", 0)
    if len(found.channel_names) != samples and 3 <= samples <= len(_RGB):
        found = replace(found, channel_names=_RGB[:samples])
    return found


def _from_ome(text: str, index: int, count: int) -> Calibration:
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError:
        return Calibration()
    images = root.findall("{*}Image")
    pixels = images[index].find("{*}Pixels") if len(images) >= count else None
    if pixels is None:
        return Calibration()
    spacing, units = {}, {}
    sizes = {"x": "PhysicalSizeX", "y": "PhysicalSizeY", "z": "PhysicalSizeZ"}
    for axis, key in {**sizes, "t": "TimeIncrement"}.items():
        size = _positive(pixels.get(key))
        if size is not None:
            spacing[axis] = size
            default = "s" if axis == "t" else "\N{MICRO SIGN}m"
            units[axis] = unit_name(pixels.get(f"{key}Unit", default))
    names = [e.get("Name", "") for e in pixels.findall("{*}Channel")]
    return Calibration(
        spacing,
        units,
        tuple(names) if all(names) else (),
        images[index].get("Name", ""),
        _find_labels(root),
    )


def _find_labels(root: ElementTree.Element) -> dict[str, str] | None:
    for element in root.iter():
        if element.get("Namespace") == LABEL_NAMESPACE:
            return {e.get("K", ""): e.text or "" for e in element.findall(".//{*}M")}
    return None


def _from_imagej(
    metadata: Mapping[str, Any], resolution: Mapping[str, float]
) -> Calibration:
    unit = unit_name(metadata.get("unit"))
    spacing: dict[str, float] = {}
    if unit != PIXEL:
        spacing |= resolution
        depth = _positive(str(metadata.get("spacing", "")).removeprefix("-"))
        if depth is not None:
            spacing["z"] = depth
    units = dict.fromkeys(spacing, unit)
    interval = _positive(metadata.get("finterval"))
    if interval is not None:
        spacing["t"], units["t"] = interval, "second"
    channels = int(metadata.get("channels", 1))
    names = tuple(str(name) for name in (metadata.get("Labels") or ())[:channels])
    distinct = channels > 1 and len(set(names)) == channels and all(names)
    return Calibration(spacing, units, names if distinct else ())


def _from_tags(page: Any) -> tuple[dict[str, float], dict[str, str]]:
    """Use resolution tags if they can only mean a microscope's pixels."""
    tag = page.tags.get("ResolutionUnit")
    length = _MICROMETERS.get(int(tag.value)) if tag is not None else None
    sizes = {a: (length or 0.0) * value for a, value in _resolution(page).items()}
    if length is None or len(sizes) < 2 or max(sizes.values()) > _COARSEST:
        return {}, {}
    return sizes, dict.fromkeys(sizes, "micrometer")


def _resolution(page: Any) -> dict[str, float]:
    """Return the size of a pixel along x and y, in the resolution tags' unit."""
    found: dict[str, float] = {}
    for axis, name in (("x", "XResolution"), ("y", "YResolution")):
        tag = page.tags.get(name)
        if tag is not None and isinstance(tag.value, tuple) and all(tag.value):
            numerator, denominator = tag.value
            found[axis] = denominator / numerator
    return found


def _positive(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if 0 < number < float("inf") else None


def split_labels(
    labels: Mapping[str, str],
) -> tuple[dict[int, str], bool, Owners | None]:
    """Return prompts by label id, whether labels are instances, and their owners."""
    texts = {int(key): text for key, text in labels.items() if key.isdecimal()}
    try:
        owners = Owners.parse(json.loads(labels.get("owners", "null")))
    except (RecursionError, ValueError):
        owners = None
    return texts, labels.get(INSTANCE_KEY) == "1", owners
