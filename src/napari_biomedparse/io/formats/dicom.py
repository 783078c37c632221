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
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

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
logger = logging.getLogger(__name__)

_DEFLATED, _PLAIN = b"1.2.840.10008.1.2.1.99", b"1.2.840.10008.1.2.1\0\0\0"
_MOST_INFLATED = 2**27
_COLOURED = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_ALIKE = 1e-3
"""Largest difference between directions, and pixel sizes, of slices of one volume."""
_UNEVEN = 0.1
"""Share of the distance of slices by which these may lie elsewhere."""


class _Plane(NamedTuple):
    """A frame of a file."""

    path: Path
    frame: int
    scale: tuple[float, float]
    """Slope and intercept of values."""
    at: Array
    """Place in the patient, and directions of x and y: [3, 3]; zeros if unknown."""


class _Image(NamedTuple):
    """What the header of a file says."""

    planes: list[_Plane]
    start: int
    """Where pixels begin; 0 if pydicom finds them only if it reads the whole file."""
    syntax: Any
    series: tuple[str, str]
    spacing: Array
    """Of y and x, in millimeters; zeros if unknown."""
    kind: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    bits: int
    table: bool
    """Whether stored values are places in a table."""


def open_dicom(path: Path, *, stored: bool = False) -> Contents:
    """Open a DICOM file, or the files of one series in a folder or pattern.

    Axes are y and x, and c of three colors; before them z of slices, or t of frames
    without places of their own. Values of MONOCHROME1 are mirrored, so that more is
    brighter, and palettes turned to their colors, unless `stored`. Raises `FormatError`
    if files are of several series, are not alike, or have no order.
    """
    try:
        import pydicom.pixels  # noqa: F401
    except ImportError as missing:
        raise FormatError(
            "DICOM files need pydicom, which is not installed; run: "
            f"{install_extra('dicom')}"
        ) from missing
    # What it warns of is logged, too.
    warnings.filterwarnings("ignore", category=UserWarning, module="pydicom")
    files = stack_files(path) or (path,)
    images = [_header(file, file.stat().st_mtime_ns) for file in files]
    first = images[0]
    _check_alike(images, path)
    planes, axis, sizes = _in_order(images, path)
    shape, dtype = first.shape, first.dtype
    plain = stored or len(shape) == 3
    if not plain and first.kind == "PALETTE COLOR":
        shape, dtype = (*shape, 3), np.dtype(np.uint8)
    elif not plain and first.table:
        dtype = np.dtype(np.uint16)
    elif not plain and any(plane.scale != (1, 0) for plane in planes):
        dtype = np.dtype(np.float64)

    def read(where: Index) -> Array:
        found: list[Array] = []
        for file, some in groupby(planes[where[0]], lambda plane: plane.path):
            frames = _frames(images[files.index(file)], list(some), plain=plain)
            found += [frame[where[1:]] for frame in frames]
        return np.stack(found).astype(dtype, copy=False)

    axes = (axis, "y", "x", "c")[: 1 + len(shape)]
    at = planes[0].at * (axis == "z")
    sides = {"z": np.cross(at[1], at[2]), "y": at[2], "x": at[1]}
    along = [sides.get(name, np.zeros(3)) for name in axes]
    whole, block = (len(planes), *shape), (1, *shape)
    if len(images) == 1:
        block = grow_chunks(block, whole, dtype.itemsize, axes)
    volume = Volume(
        lazy_array(read, whole, dtype, block, str(path)),
        axes,
        tuple(sizes.get(name, 1.0) for name in axes),
        tuple("millimeter" if name in sizes else PIXEL for name in axes),
        tuple(
            float(side @ at[0]) * (name in sizes)
            for name, side in zip(axes, along, strict=True)
        ),
        path.name if path.is_dir() else case_name(files[0]),
        path,
        COLOURS[:3] if "c" in axes else (),
        directions=tuple(tuple(side.tolist()) for side in along if at.any()),
    )
    return Contents((volume if len(planes) > 1 else volume.select(**{axis: 0}),))


@lru_cache(maxsize=2**12)
def _header(path: Path, changed: int) -> _Image:
    """Read a header; `changed` is the time of the file's last change."""
    with reading(path, "is not a complete DICOM file"), _opened(path) as file:
        return _image(path, file)


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file; of one that is deflated, unpack what follows the first group."""
    from pydicom.filereader import read_dataset

    with BoundedFile(path) as file:
        file.seek(132)  # where the first element begins
        read_dataset(file, False, True, stop_when=lambda tag, *_: tag >> 16 != 2)
        end = file.tell()
        file.seek(0)
        if _DEFLATED not in (group := file.read(end)):
            file.seek(0)
            yield file
            return
        engine = zlib.decompressobj(-zlib.MAX_WBITS)
        rest = engine.decompress(file.read(), _MOST_INFLATED)
        if engine.unconsumed_tail:
            raise damaged(path, f"unpacks to more than {_MOST_INFLATED >> 20} MiB")
        yield io.BytesIO(group.replace(_DEFLATED, _PLAIN) + rest)


def _image(path: Path, file: BinaryIO) -> _Image:
    """Read a header; refuse what the file is too small for, or pydicom cannot read."""
    from pydicom import dcmread
    from pydicom.pixels import get_decoder
    from pydicom.pixels.utils import get_expected_length, pixel_dtype

    header = dcmread(file, stop_before_pixels=True)
    start, explicit = file.tell(), file.read(6)[4:] in (b"OB", b"OW", b"OF", b"OD")
    start += 12 if explicit else 8
    room = file.seek(0, io.SEEK_END) - start
    if room <= 0 or "Rows" not in header:
        name = getattr(header.get("SOPClassUID"), "name", "of an unknown kind")
        raise FormatError(
            f"{path} holds no image ({name}). If it should, copy it again from its "
            "source; else open the images that it belongs to."
        )
    syntax = header.file_meta.TransferSyntaxUID
    rows, columns = int(header.Rows), int(header.Columns)
    frames = int(header.get("NumberOfFrames") or 1)
    if min(rows, columns, frames) < 1:
        raise damaged(path, f"claims {frames} images of {rows} x {columns} pixels")
    samples = int(header.get("SamplesPerPixel") or 1)
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
    if syntax.is_encapsulated:
        needed = frames * 8  # the head of each
        check_pixels(path, rows, columns)
        usable = False
        with suppress(NotImplementedError):  # of videos, for example
            usable = get_decoder(syntax).is_available
        if not usable:
            raise _cannot_unpack(path, syntax, "there is no decoder")
    else:
        needed = get_expected_length(header)
    if needed > room:
        found = f"describes {needed} bytes, but only {room} are there"
        raise damaged(path, f"is incomplete: its header {found}")
    spacing = _numbers(header, 0, "PixelMeasures", "PixelSpacing", 2)
    return _Image(
        [_plane(header, i, path) for i in range(frames)],
        start if explicit or not syntax.is_encapsulated else 0,
        syntax,
        (str(header.get("SeriesInstanceUID")), str(header.get("SeriesDescription"))),
        spacing if spacing.min() > 0 else np.zeros(2),
        kind,
        shape,
        dtype,
        int(header.get("BitsStored") or 8 * dtype.itemsize),
        bool(header.get("ModalityLUTSequence")),
    )


def _cannot_unpack(path: Path, syntax: Any, reason: object) -> FormatError:
    return FormatError(
        f"{path} is compressed as {syntax.name}, which cannot be unpacked here "
        f"({' '.join(str(reason).split())}). If it is not damaged, save it without "
        f"compression, or install more decoders; run: {pip_install('pylibjpeg[all]')}"
    )


def _group(header: Any, frame: int, name: str) -> Any:
    """Return what holds a property of a frame: its own group, a shared one, or all."""
    for groups, at in (("PerFrame", frame), ("Shared", 0)):
        found = header.get(f"{groups}FunctionalGroupsSequence") or []
        for item in found[at : at + 1]:
            if inner := item.get(f"{name}Sequence"):
                return inner[0]
    return header


def _numbers(header: Any, frame: int, group: str, name: str, count: int) -> Array:
    """Return numbers that a header need not have; NaN if there are not so many."""
    with suppress(Exception):  # of whatever kind, for what anybody wrote there
        found = _group(header, frame, group).get(name)
        numbers = np.array(found, float).ravel()
        if numbers.size == count and np.isfinite(numbers).all():
            return numbers
    return np.full(count, np.nan)


def _plane(header: Any, frame: int, path: Path) -> _Plane:
    values = _group(header, frame, "PixelValueTransformation")
    slope = float(values.get("RescaleSlope") or 1)
    intercept = float(values.get("RescaleIntercept") or 0)
    if not math.isfinite(slope + intercept):
        raise damaged(path, f"rescales its values by {slope} and {intercept}")
    at = np.append(
        _numbers(header, frame, "PlanePosition", "ImagePositionPatient", 3),
        _numbers(header, frame, "PlaneOrientation", "ImageOrientationPatient", 6),
    ).reshape(3, 3)
    square = np.allclose(at[1:] @ at[1:].T, np.eye(2), atol=1e-2)
    at = at if square and not np.isnan(at).any() else np.zeros((3, 3))
    return _Plane(path, frame, (slope, intercept), at)


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
            image[5:] != first[5:]
            or not np.allclose(image.spacing, first.spacing, _ALIKE, 0)
            or abs(plane.at[1:] - own.at[1:]).max() > _ALIKE
        ):
            raise FormatError(
                f"{plane.path} differs from {own.path} in size, type, pixel size or "
                "direction; all slices of a volume must be alike. Move other images, "
                "such as localizers, elsewhere."
            )


def _in_order(
    images: list[_Image], path: Path
) -> tuple[list[_Plane], str, dict[str, float]]:
    """Return the planes in order, the name of their axis, and known sizes by axis."""
    planes = [plane for image in images for plane in image.planes]
    spacing = images[0].spacing.tolist()
    sizes = dict(zip("yx", spacing, strict=True)) if all(spacing) else {}
    if len(planes) == 1:
        return planes, "z", sizes
    at = np.array([plane.at for plane in planes])
    if known := at[0].any() and abs(at[:, 1:] - at[0, 1:]).max() <= _ALIKE:
        places, normal = at[:, 0], np.cross(*at[0, 1:])
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


def _frames(image: _Image, planes: list[_Plane], *, plain: bool) -> Iterator[Array]:
    """Yield frames of a file: as stored if `plain`, or else as they are shown."""
    from pydicom import Dataset, dcmread
    from pydicom.encaps import get_frame
    from pydicom.pixels import iter_pixels

    path, header, packed = planes[0].path, Dataset(), image.syntax.is_encapsulated
    with _opened(path) as file:
        source: Any = file
        if not image.start:
            source = header = dcmread(file)
        for plane in planes if packed else ():
            file.seek(image.start)
            pixels = file if image.start else header.PixelData
            frame = get_frame(pixels, plane.frame, number_of_frames=len(image.planes))
            _check_frame(path, frame, image.shape)
        indices = [plane.frame for plane in planes]
        try:
            frames = iter_pixels(source, ds_out=header, indices=indices)
            for values, plane in zip(frames, planes, strict=True):
                yield values if plain else _shown(values, image, plane, header)
        except RuntimeError as error:
            if not packed:
                raise
            raise _cannot_unpack(path, image.syntax, error) from error


def _shown(values: Array, image: _Image, plane: _Plane, header: Any) -> Array:
    """Turn stored values to colors, or to what they measure, from dark to bright."""
    from pydicom.pixels import apply_color_lut, apply_modality_lut

    if image.kind == "PALETTE COLOR":
        found = np.asarray(apply_color_lut(values, header))[..., :3]
        return found if found.dtype == np.uint8 else found >> 8
    if image.table:
        values = np.asarray(apply_modality_lut(values, header), np.uint16)
    if image.kind == "MONOCHROME1" and values.dtype.kind in "iu":
        mask = (1 << image.bits) - 1
        values = ~values if values.dtype.kind == "i" else (values & mask) ^ mask
    if image.table or plane.scale == (1, 0):
        return values
    return values.astype(np.float64) * plane.scale[0] + plane.scale[1]


def _check_frame(path: Path, packed: bytes, shape: tuple[int, ...]) -> None:
    """Refuse a picture that is larger than the header says before it is unpacked."""
    from PIL import Image, UnidentifiedImageError

    with suppress(UnidentifiedImageError):
        size = Image.open(io.BytesIO(packed), formats=("JPEG", "JPEG2000")).size
        if size[::-1] != shape[:2]:
            found = f"holds a picture of {size[0]} x {size[1]} pixels"
            raise damaged(path, f"{found}, and its header says {shape[1]} x {shape[0]}")
