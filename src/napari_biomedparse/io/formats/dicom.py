"""Read DICOM with pydicom, the extra ``dicom``: an image, its frames, or a series.

x is along rows, y along columns, and z along the normal of slices, which are sorted by
their position in it (DICOM PS3.3, C.7.6.2.1.1); of axial slices these lead towards
left, posterior and superior. Values are those of pydicom's decoders, rescaled, and
never windowed.
"""

from __future__ import annotations

import io
import logging
import math
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from napari_biomedparse.data.volume import COLOURS, Volume
from napari_biomedparse.errors import FormatError, install_extra, pip_install
from napari_biomedparse.io.contents import Contents
from napari_biomedparse.io.formats.units import PIXEL
from napari_biomedparse.io.guards.bounds import (
    BoundedFile,
    check_blocks,
    check_pixels,
    damaged,
    reading,
)
from napari_biomedparse.io.inputs import case_name, stack_files
from napari_biomedparse.io.lazy import Index, grow_chunks, lazy_array

Array = npt.NDArray[Any]
Change = Callable[[Array, "_Plane", Any], Array]
logger = logging.getLogger(__name__)

_SYNTAX, _DEFLATED = 0x00020010, "1.2.840.10008.1.2.1.99"
_MOST_INFLATED = 2**27
_COLOURED = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_COUNTS = ("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel")
_GROUPS = ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence")
_TAGS = [
    *_COUNTS, *_GROUPS, "SOPClassUID", "SeriesInstanceUID", "SeriesDescription",
    "PhotometricInterpretation", "BitsAllocated",
    "BitsStored", "PixelRepresentation", "PixelSpacing", "ImagePositionPatient",
    "ImageOrientationPatient", "RescaleSlope", "RescaleIntercept",
    "ModalityLUTSequence",
]  # fmt: skip
_ALIKE = 1e-3
"""Largest difference between directions, and pixel sizes, of slices of one volume."""
_UNEVEN = 0.1
"""Share of the distance of slices by which these may lie elsewhere."""


class _Plane(NamedTuple):
    """A frame of a file."""

    path: Path
    frame: int
    frames: int
    start: int
    """Where pixels begin in the file; 0 if it has to be read as a whole."""
    syntax: Any
    scale: tuple[float, float]
    """Slope and intercept of values."""
    at: Array | None
    """Place in the patient, and directions of x and y: [3, 3], or None if unknown."""


class _Image(NamedTuple):
    """What the header of a file says."""

    planes: list[_Plane]
    series: tuple[str, str]
    spacing: tuple[float, ...]
    """Of y and x, in millimeters; empty if unknown."""
    kind: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    bits: int
    table: bool
    """Whether stored values are places in a table."""


def _require_pydicom() -> None:
    """Raise an error with the command that installs pydicom if it is missing."""
    try:
        import pydicom.pixels  # noqa: F401
    except ImportError as missing:
        raise FormatError(
            "DICOM files need pydicom, which is not installed; run: "
            f"{install_extra('dicom')}"
        ) from missing
    # What it warns of is logged, too.
    warnings.filterwarnings("ignore", category=UserWarning, module="pydicom")


def open_dicom(path: Path, *, stored: bool = False) -> Contents:
    """Open a DICOM file, or the files of one series in a folder or pattern.

    Axes are y and x, and c of three colors; before them z of slices, or t of frames
    without places of their own. Values of MONOCHROME1 are mirrored, so that more is
    brighter, and palettes turned to their colors, unless `stored`. Raises `FormatError`
    if files are of several series, are not alike, or have no order.
    """
    _require_pydicom()
    files = stack_files(path) or (path,)
    images = _headers(tuple((file, file.stat().st_mtime_ns) for file in files))
    first = images[0]
    _check_alike(images, path)
    planes, axis, sizes = _in_order(images, path)
    shape, dtype, change = _values(first, planes, stored=stored)

    def read(where: Index) -> Array:
        found = _decoded(planes[where[0]], first.shape)
        return np.stack([change(*one)[where[1:]] for one in found])

    axes = (axis, "y", "x", "c")[: 1 + len(shape)]
    at = np.zeros((3, 3)) if planes[0].at is None or axis == "t" else planes[0].at
    along = dict.fromkeys(axes, np.zeros(3))
    along |= {"z": np.cross(at[1], at[2]), "y": at[2], "x": at[1]}
    whole = (len(planes), *shape)
    chunks = grow_chunks((1, *shape), whole, dtype.itemsize, axes)
    volume = Volume(
        lazy_array(
            read, whole, dtype, (1, *shape) if len(images) > 1 else chunks, str(path)
        ),
        axes,
        tuple(sizes.get(name, 1.0) for name in axes),
        tuple("millimeter" if name in sizes else PIXEL for name in axes),
        tuple(float(along[name] @ at[0]) * (name in sizes) for name in axes),
        path.name if path.is_dir() else case_name(files[0]),
        path,
        COLOURS[:3] if "c" in axes else (),
        directions=tuple(tuple(along[name].tolist()) for name in axes if at.any()),
    )
    return Contents((volume if len(planes) > 1 else volume.select(**{axis: 0}),))


@lru_cache(maxsize=4)
def _headers(states: tuple[tuple[Path, int], ...]) -> list[_Image]:
    """Read headers; `states` are files and the times of their last change."""
    images = []
    for path, _ in states:
        with reading(path, "is not a complete DICOM file"):
            images.append(_image(path))
    return images


def _image(path: Path) -> _Image:
    """Read a header; refuse what the file is too small for, or pydicom cannot read."""
    from pydicom import dcmread
    from pydicom.pixels import get_decoder
    from pydicom.pixels.utils import get_expected_length, pixel_dtype

    with BoundedFile(path) as file:
        inflated = _inflated(path, file)
        file.seek(0)
        header = dcmread(file, stop_before_pixels=True, specific_tags=_TAGS)
        start, explicit = file.tell(), file.read(6)[4:] in (b"OB", b"OW", b"OF", b"OD")
    start += 12 if explicit else 8
    room = inflated or path.stat().st_size - start
    if room <= 0 or "Rows" not in header:
        name = getattr(header.get("SOPClassUID"), "name", "of an unknown kind")
        raise FormatError(
            f"{path} holds no image ({name}). If it should, copy it again from its "
            "source; else open the images that it belongs to."
        )
    rows, columns, frames, samples = (
        int(header.get(name) or default)
        for name, default in zip(_COUNTS, (0, 0, 1, 1), strict=True)
    )
    if min(rows, columns, frames) < 1:
        raise damaged(path, f"claims {frames} images of {rows} x {columns} pixels")
    kind = str(header.PhotometricInterpretation)
    if samples not in (1, 3) or (samples == 3 and kind not in _COLOURED):
        raise FormatError(
            f"{path} has {samples} values a pixel ({kind}), which are not read; save "
            "it as RGB."
        )
    real = "PixelRepresentation" not in header  # then pixels are floating point
    dtype = pixel_dtype(header, as_float=real).newbyteorder("=")
    shape = (rows, columns, 3)[: 2 + (samples == 3)]
    check_blocks((frames, *shape), (1, *shape), dtype.itemsize, str(path))
    syntax = header.file_meta.TransferSyntaxUID
    needed = frames * 8  # the head of each
    if syntax.is_encapsulated:
        check_pixels(path, rows, columns)
        try:
            usable = get_decoder(syntax).is_available
        except NotImplementedError:  # of videos, for example
            usable = False
        if not usable:
            raise _cannot_unpack(path, syntax, "there is no decoder")
    else:
        needed = get_expected_length(header)
    if needed > room:
        found = f"describes {needed} bytes, but only {room} are there"
        raise damaged(path, f"is incomplete: its header {found}")
    spacing = _numbers(_group(header, 0, "PixelMeasures"), "PixelSpacing", 2)
    if inflated or (syntax.is_encapsulated and not explicit):
        start = 0
    return _Image(
        [_plane(header, i, path, frames, start, syntax) for i in range(frames)],
        (str(header.get("SeriesInstanceUID")), str(header.get("SeriesDescription"))),
        () if spacing is None or spacing.min() <= 0 else tuple(spacing.tolist()),
        kind,
        shape,
        dtype,
        int(header.get("BitsStored") or 8 * dtype.itemsize),
        bool(header.get("ModalityLUTSequence")),
    )


def _inflated(path: Path, file: BoundedFile) -> int:
    """Return to how many bytes a deflated file unpacks; 0 if it is not deflated."""
    from pydicom.filereader import read_dataset

    def is_over(tag: int, *_: object) -> bool:
        return tag >> 16 != 2

    file.seek(132)
    meta = read_dataset(file, False, True, stop_when=is_over, specific_tags=[_SYNTAX])
    if meta.get("TransferSyntaxUID") != _DEFLATED:
        return 0
    engine = zlib.decompressobj(-zlib.MAX_WBITS)
    size = len(engine.decompress(file.read(), _MOST_INFLATED))
    if engine.unconsumed_tail:
        raise damaged(path, f"unpacks to more than {_MOST_INFLATED >> 20} MiB")
    return size


def _cannot_unpack(path: Path, syntax: Any, reason: object) -> FormatError:
    return FormatError(
        f"{path} is compressed as {syntax.name}, which cannot be unpacked here "
        f"({' '.join(str(reason).split())}). If it is not damaged, save it without "
        f"compression, or install more decoders; run: {pip_install('pylibjpeg[all]')}"
    )


def _group(header: Any, frame: int, name: str) -> Any:
    """Return what holds a property of a frame: its own group, a shared one, or all."""
    for groups, at in zip(_GROUPS, (frame, 0), strict=True):
        for item in (header.get(groups) or [])[at : at + 1]:
            if found := item.get(f"{name}Sequence"):
                return found[0]
    return header


def _numbers(found: Any, name: str, count: int) -> Array | None:
    """Return numbers that a header need not have; None if there are not so many."""
    try:
        numbers = np.array(found.get(name), float).ravel()
    except Exception:  # of whatever kind, for what anybody wrote there
        return None
    return numbers if numbers.size == count and np.isfinite(numbers).all() else None


def _plane(
    header: Any, frame: int, path: Path, frames: int, start: int, syntax: Any
) -> _Plane:
    values = _group(header, frame, "PixelValueTransformation")
    slope = float(values.get("RescaleSlope") or 1)
    intercept = float(values.get("RescaleIntercept") or 0)
    if not math.isfinite(slope + intercept):
        raise damaged(path, f"rescales its values by {slope} and {intercept}")
    place = _numbers(_group(header, frame, "PlanePosition"), "ImagePositionPatient", 3)
    group = _group(header, frame, "PlaneOrientation")
    sides = _numbers(group, "ImageOrientationPatient", 6)
    at = None
    if place is not None and sides is not None:
        at = np.array([place, sides[:3], sides[3:]])
        if not np.allclose(at[1:] @ at[1:].T, np.eye(2), atol=1e-2):
            at = None
    return _Plane(path, frame, frames, start, syntax, (slope, intercept), at)


def _check_alike(images: list[_Image], path: Path) -> None:
    """Refuse files of several series, and slices that differ."""
    series = Counter(image.series for image in images)
    if len(series) > 1:
        found = [f"{count} of {name!r}" for (_, name), count in series.most_common(4)]
        raise FormatError(
            f"{path} holds files of {len(series)} series ({', '.join(found)}), and a "
            "volume is one. Move the others elsewhere, or give the files of one as a "
            "pattern; to segment each file by itself, give 'folder/*'."
        )
    first, own = images[0], images[0].planes[0]
    for image in images[1:]:
        plane = image.planes[0]
        if (
            image[3:] != first[3:]
            or len(image.spacing) != len(first.spacing)
            or not np.allclose(image.spacing, first.spacing, _ALIKE, 0)
            or not _are_parallel(plane, own)
        ):
            raise FormatError(
                f"{plane.path} differs from {own.path} in size, type, pixel size or "
                "direction; all slices of a volume must be alike. Move other images, "
                "such as localizers, elsewhere."
            )


def _are_parallel(plane: _Plane, other: _Plane) -> bool:
    if plane.at is None or other.at is None:
        return plane.at is other.at
    return bool(abs(plane.at[1:] - other.at[1:]).max() <= _ALIKE)


def _in_order(
    images: list[_Image], path: Path
) -> tuple[list[_Plane], str, dict[str, float]]:
    """Return the planes in order, the name of their axis, and known sizes by axis."""
    planes = [plane for image in images for plane in image.planes]
    sizes = dict(zip("yx", images[0].spacing, strict=False))
    if len(planes) == 1:
        return planes, "z", sizes
    known = [p.at for p in planes if p.at is not None and _are_parallel(p, planes[0])]
    if len(known) == len(planes):
        places, normal = np.array(known)[:, 0], np.cross(known[0][1], known[0][2])
        order = np.argsort(places @ normal, kind="stable")
        if step := _step(places[order], normal, path):
            return [planes[i] for i in order], "z", sizes | {"z": step}
    if len(images) == 1:
        return planes, "t", sizes
    fault = "share positions" if known else "do not say where they lie"
    raise FormatError(
        f"The images in {path} {fault}, so they are not the slices of one volume. Give "
        "those of one time point or echo as a pattern, or open them one by one."
    )


def _step(places: Array, normal: Array, path: Path) -> float:
    """Return the distance between sorted slices; 0 if two share a position."""
    gaps = np.diff(places @ normal)
    step = float(np.median(gaps))
    if gaps.min() <= 0.01 * step:
        return 0.0
    far = np.flatnonzero(abs(gaps - step) > _UNEVEN * step)
    if far.size:
        logger.warning(
            "%s: its slices lie %.4g to %.4g mm apart, first unevenly after slice %d, "
            "so some may be missing. %.4g mm are taken for all, and those before and "
            "after as neighbors; add the files that are missing, if any.",
            *(path, gaps.min(), gaps.max(), int(far[0]), step),
        )
    shift = abs(np.diff(places, axis=0) - np.outer(gaps, normal)).max()
    if shift > _UNEVEN * step:
        logger.warning(
            "%s: its slices are shifted by %.4g mm each, as by a tilted gantry; they "
            "are stacked without the shift.",
            *(path, shift),
        )
    return step


def _values(
    image: _Image, planes: list[_Plane], *, stored: bool
) -> tuple[tuple[int, ...], np.dtype[Any], Change]:
    """Return shape and dtype of what is shown of a plane, and how it is made."""
    from pydicom.pixels import apply_color_lut, apply_modality_lut

    shape, dtype, mask = image.shape, image.dtype, (1 << image.bits) - 1
    if stored or len(shape) == 3:
        return shape, dtype, lambda values, *_: values.astype(dtype, copy=False)
    if image.kind == "PALETTE COLOR":

        def colours(values: Array, plane: _Plane, header: Any) -> Array:
            found = np.asarray(apply_color_lut(values, header))[..., :3]
            return found if found.dtype == np.uint8 else (found >> 8).astype(np.uint8)

        return (*shape, 3), np.dtype(np.uint8), colours
    dtype = np.dtype(np.uint16) if image.table else dtype
    is_scaled = not image.table and {plane.scale for plane in planes} != {(1, 0)}

    def grey(values: Array, plane: _Plane, header: Any) -> Array:
        if image.table:
            values = np.asarray(apply_modality_lut(values, header))
        values = values.astype(dtype, copy=False)
        if image.kind == "MONOCHROME1" and dtype.kind in "iu":
            values = ~values if dtype.kind == "i" else (values & mask) ^ mask
        slope, intercept = plane.scale
        return values.astype(np.float64) * slope + intercept if is_scaled else values

    return shape, np.dtype(np.float64) if is_scaled else dtype, grey


def _decoded(
    planes: list[_Plane], shape: tuple[int, ...]
) -> Iterator[tuple[Array, _Plane, Any]]:
    """Yield frames as pydicom unpacks them, with their plane and their header."""
    from pydicom import Dataset, dcmread
    from pydicom.encaps import get_frame
    from pydicom.pixels import iter_pixels

    for path, some in groupby(planes, lambda plane: plane.path):
        wanted, header = list(some), Dataset()
        first = wanted[0]
        with BoundedFile(path) as file:
            source: Any = file
            if not first.start:
                source = header = dcmread(file)
            for plane in wanted if first.syntax.is_encapsulated else ():
                file.seek(plane.start)
                packed = file if plane.start else header.PixelData
                one = get_frame(packed, plane.frame, number_of_frames=plane.frames)
                _check_frame(path, one, shape)
            file.seek(0)
            frames = iter_pixels(
                source, ds_out=header, indices=[p.frame for p in wanted]
            )
            try:
                for values, plane in zip(frames, wanted, strict=True):
                    yield values, plane, header
            except RuntimeError as error:
                if not first.syntax.is_encapsulated:
                    raise
                raise _cannot_unpack(path, first.syntax, error) from error


def _check_frame(path: Path, packed: bytes, shape: tuple[int, ...]) -> None:
    """Refuse a picture that is larger than the header says before it is unpacked."""
    from PIL import Image, UnidentifiedImageError

    try:
        size = Image.open(io.BytesIO(packed), formats=("JPEG", "JPEG2000")).size
    except UnidentifiedImageError:
        return
    if size[::-1] != shape[:2]:
        found = f"holds a picture of {size[0]} x {size[1]} pixels"
        raise damaged(path, f"{found}, and its header says {shape[1]} x {shape[0]}")
