"""What a TIFF file claims to hold, checked against what is there."""

from __future__ import annotations

import logging
import math
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import numpy as np

from napari_biomedparse.errors import FormatError, damaged
from napari_biomedparse.io.guards.bounds import MAX_METADATA

if TYPE_CHECKING:
    import tifffile

logger = logging.getLogger(__name__)

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


def check_claims(file: tifffile.TiffFile, path: Path) -> int:
    """Refuse harmful claims of a file just opened, before tifffile follows them.

    These are pages that form a ring or lie beyond the file's end, and OME-XML that
    names files in other folders or more planes than there can be. Returns the number
    of pages.
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
