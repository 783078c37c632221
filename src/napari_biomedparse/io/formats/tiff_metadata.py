"""What a TIFF file says of its images: checked against what is there, then used.

Axes and calibration come from OME-XML, ImageJ metadata, makers of microscopes or tags.
"""

from __future__ import annotations

import json
import logging
import math
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np

from napari_biomedparse.data.prompts import INSTANCE_KEY
from napari_biomedparse.errors import FormatError
from napari_biomedparse.io.formats.units import PIXEL, unit_name
from napari_biomedparse.io.guards.bounds import MAX_METADATA, damaged

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
_MAX_PLANES = 2**22
_COUNTS = ("NumPlanes", "PlaneCount", "IFD", "FirstT", "FirstC", "FirstZ")
_WIDTHS = {1: "u1", 2: "u1", 3: "u2", 4: "u4", 13: "u4", 16: "u8", 18: "u8"}
"""Types of the tags below, by their codes."""
_PLACES, _SIZES = {273, 324}, {279, 325}
"""Tags of the places and sizes of strips and tiles."""
_LEVELS, _TEXTS = 330, {270, 50839}
"""Tags of the places of smaller copies, and of texts with axes and sizes."""
_TOLD = {"imagej", "ome", "shaped"}
"""Kinds of series whose metadata say which pages belong to them."""


@dataclass(frozen=True)
class Calibration:
    """Spacing and units (pint names) by axis letter, and names, as far as known.

    `labels` is what `label_contents` takes, if this is a label image of ours.
    """

    spacing: Mapping[str, float] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    channel_names: tuple[str, ...] = ()
    name: str = ""
    labels: Mapping[str, Any] | None = None


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
    found = _sizes(_from_instrument(file, series))
    for axis in [axis for axis, unit in found[1].items() if unit == "meter"]:
        found[0][axis] = float(f"{found[0][axis] * 1e6:.12g}")
        found[1][axis] = "micrometer"
    if not found[0] and (known := file.imagej_metadata):
        return _from_imagej(known, _resolution(series.keyframe))
    return Calibration(*found)


def _sizes(
    steps: Iterable[tuple[str, Any, object]],
) -> tuple[dict[str, float], dict[str, str]]:
    """Return the positive sizes with a known unit, and these, of axes with both."""
    spacing: dict[str, float] = {}
    units: dict[str, str] = {}
    for axis, step, symbol in steps:
        size, unit = _positive(step), unit_name(symbol)
        if size is not None and unit != PIXEL:
            spacing[axis], units[axis] = size, unit
    return spacing, units


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
    rest = root.iterfind("{*}Image")
    for one in file.series[: file.series.index(series) + 1]:  # some have no planes
        image = next((image for image in rest if _fits(image, one)), None)
    pixels = None if image is None else image.find("{*}Pixels")
    if image is None or pixels is None:
        return Calibration()
    spacing, units = {}, {}
    keys = {axis: f"PhysicalSize{axis.upper()}" for axis in "xyz"}
    for axis, key in {**keys, "t": "TimeIncrement"}.items():
        if (size := _positive(pixels.get(key))) is not None:
            default = "s" if axis == "t" else "um"
            spacing[axis] = size
            units[axis] = unit_name(pixels.get(f"{key}Unit", default))
    names = [e.get("Name", "") for e in pixels.findall("{*}Channel")]
    ours = root.find(f".//*[@Namespace='{LABEL_NAMESPACE}']")
    labels = None
    if ours is not None:
        entries = {e.get("K", ""): e.text or "" for e in ours.iterfind(".//{*}M")}
        labels = _split_labels(entries)
    return Calibration(
        spacing,
        units,
        tuple(names) if all(names) else (),
        image.get("Name", ""),
        labels,
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


def _from_imagej(
    metadata: Mapping[str, Any], resolution: Mapping[str, float]
) -> Calibration:
    sizes = {**resolution, "z": str(metadata.get("spacing", "")).removeprefix("-")}
    spacing, units = _sizes(
        (axis, step, metadata.get(f"{axis}unit", metadata.get("unit")))
        for axis, step in sizes.items()
    )
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
    with suppress(TypeError, ValueError):
        return number if 0 < (number := float(value)) < math.inf else None
    return None


def _split_labels(entries: Mapping[str, str]) -> dict[str, Any]:
    """Return entries of a map of ours as `label_contents` takes them."""
    owners = None
    with suppress(RecursionError, ValueError):
        owners = json.loads(entries.get("owners", "null"))
    texts = {key: text for key, text in entries.items() if key.isdecimal()}
    instance = entries.get(INSTANCE_KEY) == "1"
    return {"text_prompts": texts, INSTANCE_KEY: instance, "owners": owners}


def as_brightness(page: Any, what: str, *, imagej: bool) -> Change:
    """Return how the values of pages like this one become brightness.

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
        return np.asarray
    if (colours == colours[0]).all() and dtype == np.uint8:
        greys = colours[0] // (257 if colours.max() > 255 else 1)
        greys = np.pad(greys.astype(np.uint8), (0, 256 - len(greys)))
        return lambda values: greys[values]
    if (np.diff(np.array((3, 6, 1)) @ colours.astype(int)) < 0).any():
        logger.warning(
            "%s holds numbers of colors, which are taken as brightness. If they are "
            "not, convert it to RGB or to gray first.",
            what,
        )
    return np.asarray


def check_claims(file: tifffile.TiffFile, path: Path) -> int:
    """Refuse harmful claims before tifffile follows them; return the number of pages.

    These are pages that form a ring or lie beyond the file's end, and OME-XML that
    names files in other folders or more planes than there can be.
    """
    pages = _check_chain(file, path)
    voxels = max(1, file.pages.first.size)
    for element in _ome_elements(file, path):
        if (planes := _claimed_planes(element, voxels)) > _MAX_PLANES:
            accepted = f"and at most {_MAX_PLANES} are accepted"
            raise damaged(path, f"claims {planes:.3g} planes, {accepted}")
        for key in ("FileName", "MetadataFile"):
            if (name := element.get(key)) is not None:
                _check_companion(path, name)
    return pages


def check_whole(file: tifffile.TiffFile, path: Path, pages: int) -> set[Path]:
    """Refuse a file of which planes are missing, and tell of pages without an image.

    Returns the files in which the images lie.
    """
    elements = _ome_elements(file, path)
    names = {element.get("FileName", "") for element in elements} - {""}
    gone = sorted(name for name in names if not (path.parent / name).exists())
    kinds = {series.kind for series in file.series}
    images = sum(element.tag.endswith("}Image") for element in elements)
    if gone and images > len(file.series):
        if not kinds & {"ome", "mmstack"}:
            raise _missing(path, "the planes of its image", gone)
        logger.warning(
            "%s: %d of its images lie in files that are not beside it, such as %s.",
            path,
            images - len(file.series),
            gone[0],
        )
    if file.is_ome and not elements:
        logger.warning("%s: its OME-XML cannot be read; sizes are unknown.", path)
    told = None if "imagej" in kinds else (file.imagej_metadata or {}).get("images")
    if isinstance(told, int) and told > pages:
        raise _missing(path, f"some of the {told} images it announces")
    parents, described = {file}, 0
    for series in file.series:
        plane = max(1, math.prod(series.keyframe.shape))
        planes = max(1, math.prod(series.shape) // plane)
        described += planes * sum(not one.keyframe.is_subifd for one in series.levels)
        if (start := series.dataoffset) is not None:
            stop = start + planes * plane * series.dtype.itemsize
            if stop > series.keyframe.parent.filehandle.size:
                raise _missing(path, f"pixels of its planes ({planes} announced)")
            continue
        found = [page for page in series if page is not None]
        if len(found) < planes:
            lost = planes - len(found)
            raise _missing(path, f"{lost} of the {planes} planes it announces", gone)
        parents |= {page.parent for page in found}
    if kinds <= _TOLD and described < pages:
        logger.warning(
            "%s has %d pages and its metadata describe %d; others are not opened.",
            path,
            pages,
            described,
        )
    for other in parents - {file}:
        other.filehandle.open()
        try:
            _check_chain(other, Path(other.filehandle.path))
        finally:
            other.close()
    return {Path(one.filehandle.path) for one in parents}


def _ome_elements(file: tifffile.TiffFile, path: Path) -> list[ElementTree.Element]:
    """Return all elements of a file's OME-XML; none if it has none, or damaged one."""
    text = (file.ome_metadata if file.is_ome else None) or ""
    if len(text) > MAX_METADATA:
        raise FormatError(
            f"{path} has {len(text)} characters of OME-XML, and at most "
            f"{MAX_METADATA} are accepted; save it again without them."
        )
    try:
        return list(ElementTree.fromstring(text).iter())
    except ElementTree.ParseError:
        return []  # tifffile ignores it, too


def _check_chain(file: tifffile.TiffFile, path: Path) -> int:
    """Refuse pages that refer back to an earlier one, or lie beyond the file's end.

    tifffile itself detects rings of less than a hundred pages, and not all of those,
    and ignores pages beyond the end. Returns the number of pages.
    """
    form, handle = file.tiff, file.filehandle
    tag = struct.Struct(file.byteorder + ("HHI4s" if form.version == 42 else "HHQ8s"))
    at, seen, used = int(file.pages.first.offset), set[int](), 0
    levels: list[int] = []
    pages = 0
    while at or levels:
        at, pages = (at, pages + 1) if at else (levels.pop(), pages)
        if at in seen:
            raise damaged(path, f"refers from page {pages - 1} back to an earlier one")
        seen.add(at)
        handle.seek(at)
        try:
            (count,) = struct.unpack(form.tagnoformat, handle.read(form.tagnosize))
            if not count:  # zeros, where the rest of a copy should be
                raise _cut(path, pages)
            size = count * form.tagsize
            tags = handle.read(size + form.offsetsize)
            (at,) = struct.unpack(form.offsetformat, tags[size:])
        except (struct.error, OSError, OverflowError) as error:
            raise _cut(path, pages) from error
        used += size
        if tag.size == form.tagsize:  # NDPI has its own
            used += _check_data(file, tag.iter_unpack(tags[:size]), path, pages, levels)
        if used > handle.size:
            raise damaged(path, "describes its pages in more bytes than it has")
    return pages


def _check_data(
    file: tifffile.TiffFile,
    tags: Iterable[tuple[int, int, int, bytes]],
    path: Path,
    page: int,
    levels: list[int],
) -> int:
    """Refuse a page whose pixels or texts lie beyond the end of the file.

    Adds the places of smaller copies to `levels`; returns the length of its lists.
    """
    handle, used = file.filehandle, 0
    places: list[int] = []
    sizes: list[int] = []
    for code, kind, count, value in tags:
        into = sizes if code in _SIZES else levels if code == _LEVELS else places
        if kind not in _WIDTHS or code not in _PLACES | _SIZES | _TEXTS | {_LEVELS}:
            continue
        dtype = np.dtype(file.byteorder + _WIDTHS[kind])
        size = count * dtype.itemsize
        if size > len(value):
            place = int.from_bytes(value, "little" if file.byteorder == "<" else "big")
            if place + size > handle.size:
                raise _cut(path, page)
            if code in _TEXTS:
                continue
            used += size
            handle.seek(place)
            value = handle.read(size)
        if code not in _TEXTS:
            numbers = np.frombuffer(value[:size], dtype)
            into += numbers[numbers >= (8 if code == _LEVELS else 0)].tolist()
    if len(sizes) != len(places) or file.is_lsm:  # which has sizes of unpacked data
        sizes = [1] * len(places)
    stops = (a + n for a, n in zip(places, sizes, strict=True) if a and n)
    if max(stops, default=0) > handle.size:
        raise _cut(path, page)
    return used


def _cut(path: Path, page: int) -> FormatError:
    return damaged(path, f"ends before the end of page {page - 1}")


def _missing(path: Path, what: str, gone: Sequence[str] = ()) -> FormatError:
    named = f" ({', '.join(gone[:3])} is not there)" if gone else ""
    return FormatError(
        f"{path} lacks {what}{named}. Copy it again with all files of the image, or, "
        "if there never were more, open it in Fiji and save it."
    )


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
    with suppress(ValueError):
        return abs(float(element.get(key, otherwise)))
    return 0.0


def _check_companion(path: Path, name: str) -> None:
    other = path.parent / name
    beside = other.name == name and not other.is_symlink()
    if not beside or (other.exists() and not other.is_file()):
        raise FormatError(
            f"{path} continues in {name!r}, which is not a plain file in the same "
            "folder; put the files of an image into one folder."
        )
