"""Axes and calibration of a TIFF file, from OME-XML, ImageJ metadata or plain tags."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np

from napari_biomedparse.data.prompts import INSTANCE_KEY
from napari_biomedparse.data.results import Owners
from napari_biomedparse.io.formats.units import PIXEL, unit_name

if TYPE_CHECKING:
    import numpy.typing as npt
    import tifffile

logger = logging.getLogger(__name__)

LABEL_NAMESPACE = "napari-biomedparse/labels"
"""Namespace of the map of label id to prompt in our own label images."""
_SAMPLES = {
    5: ("cyan", "magenta", "yellow", "black"), 8: ("L", "a", "b"), 9: ("L", "a", "b"),
}  # fmt: skip
"""Names of samples by the code of their meaning; others are colors."""
_RGB = ("red", "green", "blue", "alpha")
_MICROMETERS = {2: 25400.0, 3: 10000.0, 4: 1000.0, 5: 1.0}
"""Length of the unit of a resolution tag: inch, centimetre, millimetre, micrometre."""
_PRINTED = {"inch": 25400.0, "centimeter": 10000.0}
"""Units that ImageJ takes from the resolution of a print or screen."""
_FINEST, _COARSEST = 1e-5, 20.0
"""Larger pixels (micrometre) belong to print or screen, not to a microscope."""
_INSTRUMENTS = {
    "lsm": ("m", "VoxelSizeX", "VoxelSizeY", "VoxelSizeZ", "TimeIntervall"),
    "stk": ("CalibrationUnits", "XCalibration", "YCalibration", "ZDistance"),
    "sis": ("m", "pixelsizex", "pixelsizey"),
    "fei": ("m", "PixelWidth", "PixelHeight"),
    "micromanager": ("um", "PixelSize_um", "PixelSize_um", "z-step_um"),
    "metaseries": (
        "spatial-calibration-units", "spatial-calibration-x", "spatial-calibration-y",
    ),
}  # fmt: skip
"""Where tifffile has sizes by makers of microscopes: unit (or its key), x, y, z, t."""
_WHITE_IS_ZERO, _PALETTE = 0, 3
Change = Callable[["npt.NDArray[Any]"], "npt.NDArray[Any]"]


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
    try:
        found = _find_calibration(file, series)
    except Exception as error:  # written by many, and nothing an image depends on
        path = file.filehandle.path
        logger.warning("%s: its metadata cannot be read (%s).", path, error)
        found = Calibration()
    if not found.spacing:
        spacing, units = from_tags(series.keyframe)
        found = replace(found, spacing=spacing, units=units)
    samples = dict(zip(series.axes, series.shape, strict=True)).get("S", 0)
    if len(found.channel_names) != samples and 3 <= samples <= len(_RGB):
        names = _SAMPLES.get(int(series.keyframe.photometric), _RGB)
        found = replace(found, channel_names=names[:samples])
    return found


def _find_calibration(
    file: tifffile.TiffFile, series: tifffile.TiffPageSeries
) -> Calibration:
    if series.kind == "ome" and file.ome_metadata:
        return _from_ome(file, series)
    spacing: dict[str, float] = {}
    units: dict[str, str] = {}
    for axis, step, symbol in _from_instrument(file, series):
        size, unit = _positive(step), unit_name(symbol)
        if size is not None and unit != PIXEL:
            meters = unit == "meter"
            spacing[axis] = float(f"{size * 1e6:.12g}") if meters else size
            units[axis] = "micrometer" if meters else unit
    if not spacing and (known := file.imagej_metadata):
        return _from_imagej(known, _resolution(series.keyframe))
    return Calibration(spacing, units)


def _from_instrument(
    file: tifffile.TiffFile, series: tifffile.TiffPageSeries
) -> Iterator[tuple[str, Any, Any]]:
    """Yield axis, step and unit, as makers of microscopes store them."""
    for maker, (unit, *keys) in _INSTRUMENTS.items():
        known = getattr(file, f"{maker}_metadata") or {}
        for part in [part for part in known.values() if isinstance(part, dict)]:
            known = known | part
        for axis, key in zip("xyzt", keys, strict=False):
            steps = np.unique(np.abs(known.get(key, 0)))
            step = steps[0] if len(steps) == 1 else None
            yield axis, step, "s" if axis == "t" else known.get(unit, unit)
    for name, _, _, step, unit in (file.fluoview_metadata or {}).get("Dimensions", ()):
        yield ("t" if name == "Time" else name.lower()), step, unit
    if known := file.sem_metadata:
        found = known.get("ap_image_pixel_size") or known.get("ap_pixel_size")
        yield from ((axis, *found[1:3]) for axis in "xy" if found)
    if series.kind == "svs" and "MPP = " in (text := series.keyframe.description):
        yield from (
            (axis, text.split("MPP = ")[1].split("|")[0], "um") for axis in "xy"
        )
    for image in ElementTree.fromstring(file.scn_metadata or "<_/>").iter():
        pixels, view = image.find("{*}pixels"), image.find("{*}view")
        if pixels is not None and view is not None and image.get("name") == series.name:
            for axis, key in (("x", "sizeX"), ("y", "sizeY")):
                yield axis, float(view.attrib[key]) / float(pixels.attrib[key]), "nm"


def _from_ome(file: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> Calibration:
    root = ElementTree.fromstring(file.ome_metadata or "")
    rest = iter(root.findall("{*}Image"))
    for one in file.series[: file.series.index(series) + 1]:  # some have no planes
        image = next((image for image in rest if _fits(image, one)), None)
    pixels = None if image is None else image.find("{*}Pixels")
    if image is None or pixels is None:
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
        image.get("Name", ""),
        _find_labels(root),
    )


def _fits(image: ElementTree.Element, series: tifffile.TiffPageSeries) -> bool:
    """Return whether an element of OME-XML describes a series."""
    pixels, page = image.find("{*}Pixels"), series.keyframe
    sizes = {"SizeX": page.imagewidth, "SizeY": page.imagelength}
    return (
        pixels is not None
        and all(pixels.get(key) == str(size) for key, size in sizes.items())
        and image.get("Name", series.name) == series.name
    )


def _find_labels(root: ElementTree.Element) -> dict[str, str] | None:
    for element in root.iter():
        if element.get("Namespace") == LABEL_NAMESPACE:
            return {e.get("K", ""): e.text or "" for e in element.findall(".//{*}M")}
    return None


def _from_imagej(
    metadata: Mapping[str, Any], resolution: Mapping[str, float]
) -> Calibration:
    sizes = {**resolution, "z": str(metadata.get("spacing", "")).removeprefix("-")}
    spacing: dict[str, float] = {}
    units: dict[str, str] = {}
    for axis, step in sizes.items():
        unit = unit_name(metadata.get(f"{axis}unit", metadata.get("unit")))
        size = _positive(step)
        if size is not None and unit != PIXEL:
            spacing[axis], units[axis] = size, unit
    printed = _PRINTED.get(units.get("x", ""))
    if printed is not None and not _is_fine(spacing["x"] * printed):
        spacing, units = {}, {}
    interval = _positive(metadata.get("finterval"))
    if interval is not None:
        unit = unit_name(metadata.get("tunit", "s"))
        spacing["t"], units["t"] = interval, "second" if unit == PIXEL else unit
    channels = int(metadata.get("channels", 1))
    names = tuple(str(name) for name in (metadata.get("Labels") or ())[:channels])
    distinct = channels > 1 and len(set(names)) == channels and all(names)
    return Calibration(spacing, units, names if distinct else ())


def from_tags(page: Any) -> tuple[dict[str, float], dict[str, str]]:
    """Use resolution tags if they can only mean a microscope's pixels."""
    tag = page.tags.get("ResolutionUnit")
    length = None if tag is None else _MICROMETERS.get(tag.value)
    sizes = {a: (length or 0.0) * value for a, value in _resolution(page).items()}
    if length is None or len(sizes) < 2 or not _is_fine(*sizes.values()):
        return {}, {}
    return sizes, dict.fromkeys(sizes, "micrometer")


def _is_fine(*sizes: float) -> bool:
    """Return whether sizes in micrometre can be those of a microscope's pixels."""
    return _FINEST < min(sizes) and max(sizes) < _COARSEST


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


def as_brightness(page: Any, what: str, *, imagej: bool) -> Change | None:
    """Return how the values of pages like this one become brightness, if they are not.

    Where they are numbers of colors, it is told with the file's name `what`; ImageJ
    stores brightness with any colors.
    """
    dtype = page.dtype
    if page.photometric == _WHITE_IS_ZERO and dtype.kind in "uif":
        if dtype.kind == "f":
            return np.negative
        top = -1 if dtype.kind == "i" else 2**page.bitspersample - 1
        return lambda values: dtype.type(top) - values
    colours = page.colormap if page.photometric == _PALETTE and not imagej else None
    if colours is None:
        return None
    if (colours == colours[0]).all() and dtype == np.uint8:
        greys = colours[0] // (257 if colours.max() > 255 else 1)
        greys = np.pad(greys.astype(np.uint8), (0, 256 - len(greys)))
        return None if (greys == np.arange(256)).all() else lambda values: greys[values]
    if (np.diff(np.array((3, 6, 1)) @ colours.astype(int)) < 0).any():
        logger.warning(
            "%s holds numbers of colors, which are taken as brightness. If they are "
            "not, convert it to RGB or to gray first.",
            what,
        )
    return None
