"""Read TIFF files (OME-TIFF, ImageJ, BigTIFF, plain), and write OME-TIFF labels."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
import tifffile
import zarr

from napari_biomedparse.data.prompts import INSTANCE_KEY, PromptSet
from napari_biomedparse.data.text import NOT_XML, visible
from napari_biomedparse.data.volume import ArrayLike, Volume
from napari_biomedparse.errors import FormatError, pip_install
from napari_biomedparse.io.contents import Contents, LabelVolume, label_contents
from napari_biomedparse.io.formats.tiff_metadata import (
    LABEL_NAMESPACE,
    Calibration,
    Change,
    as_brightness,
    check_claims,
    check_whole,
    name_axes,
    read_calibration,
)
from napari_biomedparse.io.formats.units import PIXEL, to_millimeters, unit_symbol
from napari_biomedparse.io.guards.bounds import (
    MAX_METADATA,
    BoundedFile,
    check_packed,
    most_bytes,
    reading,
    unpacked_limit,
)
from napari_biomedparse.io.inputs import recognise
from napari_biomedparse.io.lazy import Index, NewLabels, grow_chunks, lazy_array

logger = logging.getLogger(__name__)

_PLANE_BYTES = 64 * 2**20
"""Planes up to this size are read whole; larger tiled ones are read tile by tile."""
_CLASSIC_BYTES = 2**32 - 2**25
_MAX_STRIPS = 2**18
"""Largest number of strips or tiles of a plane that is read whole."""
_PACKING = {
    5: "lzw", 8: "deflate", 32946: "deflate", 50013: "deflate", 34925: "lzma",
    50000: "zstd", 34926: "zstd", 33003: "image", 33004: "image", 33005: "image",
    34712: "image", 34933: "image",
}  # fmt: skip
"""Codes of compressions that may grow without bounds, and their names in `bounds`."""
_MOST_CHANNELS = 7
"""Largest number of channels that ImageJ shows; more, without names, are slices."""
_BESIDE = {"Thumbnail", "Label", "Macro", "Map"}
"""Names of images that slide scanners add."""


def open_tiff(
    path: Path, axes: Sequence[str] | None = None, *, stored: bool = False
) -> Contents:
    """Open every image of a TIFF file without reading pixels.

    The unnamed axis of a plain stack is taken as z; colour samples become channels. A
    file written by `save_tiff` contains labels and prompts. `axes` are names in place
    of the file's own; `stored` leaves values in which 0 is white as they are.
    """
    return TiffSource(path, axes, stored=stored).contents()


def save_tiff(path: Path, labels: NewLabels) -> None:
    """Write labels as an OME-TIFF with sizes, units and prompts, without the origin.

    Its UUID follows from its content, so that equal labels are equal files.
    """
    shape = tuple(labels.data.shape)
    described = _describe(labels)
    digest = hashlib.sha256(repr(described).encode())

    def planes() -> Iterator[npt.NDArray[Any]]:
        for slab in labels.slabs(path.parent):
            for plane in np.ascontiguousarray(slab).reshape(-1, *shape[-2:]):
                digest.update(plane.data)
                yield plane

    big = math.prod(shape) * labels.dtype.itemsize > _CLASSIC_BYTES
    with tifffile.TiffWriter(path, bigtiff=big, ome=True) as writer:
        writer.write(
            planes(),
            shape=shape,
            dtype=labels.dtype,
            photometric="minisblack",
            compression="zlib",
            metadata=described | {"UUID": str(UUID(int=0))},
        )
    with tifffile.TiffFile(path) as written:
        text = written.pages.first.description
    text = text.replace(str(UUID(int=0)), str(UUID(digest.hexdigest()[:32])))
    tifffile.tiffcomment(path, text.encode())


def _describe(labels: NewLabels) -> dict[str, Any]:
    volume, prompts, owners = labels.volume, labels.prompts, labels.owners
    described: dict[str, Any] = {
        "axes": "".join(volume.axes).upper(),
        "Name": visible(f"{volume.name} labels", NOT_XML),
    }
    for axis, size, unit in zip(volume.axes, volume.spacing, volume.units, strict=True):
        if axis == "t" and unit != PIXEL:
            described |= {"TimeIncrement": size, "TimeIncrementUnit": unit_symbol(unit)}
        elif axis in "zyx":
            key = f"PhysicalSize{axis.upper()}"
            described |= {key: size, f"{key}Unit": unit_symbol(unit)}
    entries = {"Namespace": LABEL_NAMESPACE, "background": "0"}
    if prompts is not None:
        entries |= {key: visible(t, NOT_XML) for key, t in labels.texts.items()}
        entries[INSTANCE_KEY] = str(int(prompts.instance))
    if owners is not None:
        entries["owners"] = json.dumps(owners.describe(), separators=(",", ":"))
    return described | {"MapAnnotation": entries}


def _check_codec(path: Path, series: tifffile.TiffPageSeries) -> None:
    compression = series.keyframe.compression
    try:
        tifffile.TIFF.DECOMPRESSORS[compression]
    except KeyError as error:
        name = getattr(compression, "name", compression)
        raise FormatError(
            f"{path} is compressed with {name}, which needs another library; "
            f"run: {pip_install('imagecodecs')}"
        ) from error


def _bound(page: Any) -> None:
    """Check the packed data of a page's strips or tiles before they are unpacked."""
    method = _PACKING.get(int(page.compression))
    if method is None or page.dtype is None or getattr(page, "bounded", False):
        return
    rows = page.tilelength if page.is_tiled else page.rowsperstrip
    columns = page.tilewidth if page.is_tiled else page.imagewidth
    voxels = rows * columns * max(1, page.tiledepth) * page.samplesperpixel
    limit = unpacked_limit(voxels * np.dtype(page.dtype).itemsize)
    unpack = page.decode

    def decode(data: bytes | None, index: int, /, **options: Any) -> Any:
        if data is not None:
            check_packed(data, method, limit)
        return unpack(data, index, **options)

    page.decode = decode
    page.bounded = True


def _check_plane(page: Any, size: int, mode: int, path: Path) -> None:
    """Refuse a plane for which the file is too short, or with too many strips."""
    strips = math.prod(page.chunked) if mode else 1
    code = int(page.compression)
    method = "none" if code == 1 else _PACKING.get(code, "image")
    stored = page.parent.filehandle.size
    if strips <= _MAX_STRIPS and size <= max(_PLANE_BYTES, most_bytes(stored, method)):
        return
    found = (
        f"lies in {strips} strips or tiles, where at most {_MAX_STRIPS} are read"
        if strips > _MAX_STRIPS
        else f"takes {size / 2**20:.0f} MiB, which its {stored} bytes cannot hold"
    )
    raise FormatError(
        f"{path} claims a plane that {found}. It is damaged: copy it again from its "
        "source, or, if the plane is real, save it again in tiles."
    )


class _Opener:
    """Opens a file with bounded reads for tifffile, which may reopen it."""

    def __init__(self, path: Path) -> None:
        self.path = os.path.realpath(path)
        self.mode = "rb"

    def open(self) -> BoundedFile:
        """Open the file."""
        return BoundedFile(Path(self.path))


def _find_axes(
    series: tifffile.TiffPageSeries, path: Path, *, named: Sequence[str]
) -> tuple[str, ...]:
    """Name the axes of an image whose channels are `named`, or not."""
    codes = series.axes
    count = dict(zip(codes, series.shape, strict=True)).get("C", 0)
    # Channels are named in OME-XML only; in ImageJ these may be names of slices.
    declared = {"imagej": False, "ome": bool(named)}.get(series.kind, True)
    if count > _MOST_CHANNELS and "Z" not in codes and not declared:
        codes = codes.replace("C", "Z")
        logger.warning(
            "%s declares %d channels and no slices; they are taken as slices. If they "
            "are channels, give the axes, %s (--axes).",
            path,
            count,
            series.axes,
        )
    try:
        return name_axes(codes, str(path))
    except ValueError as error:
        raise FormatError(
            f"{path} has {error}, which are ambiguous; name them (--axes), or save it "
            "with axes out of T, C, Z, Y and X."
        ) from error


@contextmanager
def _opening(path: Path, **how: Any) -> Iterator[tuple[tifffile.TiffFile, int]]:
    """Open a file whose claims are harmless, and count its pages."""
    with (
        reading(path, "is not a complete TIFF file"),
        tifffile.TiffFile(_Opener(path), **how) as file,  # type: ignore[arg-type]
    ):
        yield file, check_claims(file, path)


def describe_plane(
    path: Path, known: dict[str, dict[str, float]]
) -> tuple[tuple[Any, ...], dict[str, float]]:
    """Return shape, type and number of pages of a slice, and its sizes in millimeters.

    All slices of a volume must share the former. `known` has the sizes of ImageJ's
    slices by what they say, which is the same in most.
    """
    with _opening(path) as (file, pages):
        page = file.pages.first
        tags = (page.tags.valueof(name) for name in ("XResolution", "YResolution"))
        said = f"{page.description} {list(tags)}"
        if said not in known or not file.is_imagej:
            found = read_calibration(file, 0)
            sizes = {
                a: to_millimeters(n, found.units[a]) for a, n in found.spacing.items()
            }
            known[said] = {a: n for a, n in sizes.items() if n is not None}
    return (page.shape, page.dtype, pages), known[said]


def _read_otherwise(file: tifffile.TiffFile, path: Path) -> dict[str, Any]:
    """Return how to read a file of which tifffile would read a part only."""
    if file.is_ome and "BinaryOnly" in (text := file.ome_metadata or ""):
        for element in ElementTree.fromstring(text).iterfind("{*}BinaryOnly"):
            return {"omexml": _companion(path, element.get("MetadataFile", ""))}
    pages = [
        (s.name, s.axes.removeprefix("Q") if s.shape[0] == 1 else s.axes)
        for s in file.series
        if s.kind == "shaped"
    ]
    alike = {(series.shape, series.dtype) for series in file.series}
    if len(pages) > len(alike) and set(pages) in ({("", "YX")}, {("", "YXS")}):
        return {"is_shaped": False}  # each page was appended by itself
    return {}


def _companion(path: Path, name: str) -> str:
    """Return the OME-XML of the file that describes an image of several files."""
    other, text = path.parent / name, ""
    if name and recognise(other) == "tiff":
        with _opening(other) as (file, _):
            text = file.ome_metadata or ""
    elif name and other.is_file():
        with other.open("rb") as stream:
            text = stream.read(MAX_METADATA + 1).decode("utf-8", "replace")
    if "BinaryOnly" in text or not text.strip().endswith("OME>"):
        raise FormatError(
            f"{path} is part of an image that {name or 'another file'} describes, "
            "which is missing or incomplete; put all files of the image into one "
            "folder, or copy them again from their source."
        )
    return text


class TiffSource:
    """A TIFF file whose directory is known, and which is open only while read.

    `axes` and `stored` are those of `open_tiff`.
    """

    def __init__(
        self, path: Path, axes: Sequence[str] | None = None, *, stored: bool = False
    ) -> None:
        self.path, self._axes, self._stored = path, axes, stored
        self._lock = threading.RLock()
        with _opening(path) as (self._file, pages):
            how = _read_otherwise(self._file, path)
            if not how:
                self._prepare(pages)
        if how:
            with _opening(path, **how) as (self._file, pages):
                self._prepare(pages)

    def _prepare(self, pages: int) -> None:
        """List the images, without small copies, while the file is open."""
        every = self._file.series
        self.files = check_whole(self._file, self.path, pages)
        for series in every:
            for level in series.levels:
                _bound(level.keyframe)
        found = [s for s in every if len(s.axes) > 1 and s.dtype is not None]
        large = [
            series
            for series in found
            if not series.keyframe.subfiletype & 5  # reduced, or a mask
            and (series.name not in _BESIDE or self._file.is_ome)
        ]
        self._images = [every.index(series) for series in large or found]

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle what it was made of."""
        return partial(TiffSource, stored=self._stored), (self.path, self._axes)

    @contextmanager
    def opened(self) -> Iterator[tifffile.TiffFile]:
        """Open the file for one thread at a time; tifffile seeks in it.

        It is closed at the end of the outermost of nested uses.
        """
        with self._lock:
            outermost = self._file.filehandle.closed
            if outermost:
                self._file.filehandle.open()
            try:
                yield self._file
            finally:
                if outermost:
                    self._file.close()

    def contents(self) -> Contents:
        """Return what `open_tiff` does."""
        images: list[Volume] = []
        labels: list[LabelVolume] = []
        prompts: PromptSet | None = None
        if not self._images:
            raise FormatError(
                f"{self.path} contains no image; choose a TIFF with at least one."
            )
        with reading(self.path, "is not a complete TIFF file"), self.opened() as file:
            for index in self._images:
                _check_codec(self.path, file.series[index])
                calibration = read_calibration(file, index)
                volume = self._make_volume(file, index, calibration)
                if calibration.labels is None:
                    images.append(volume)
                else:
                    found = label_contents(volume, calibration.labels)
                    labels, prompts = [*labels, *found.labels], found.prompts
        return Contents(tuple(images), tuple(labels), prompts)

    def _make_volume(
        self, file: tifffile.TiffFile, index: int, calibration: Calibration
    ) -> Volume:
        series, names = file.series[index], calibration.channel_names
        rank = len(series.shape)
        if np.dtype(series.dtype).kind not in "buif":
            raise FormatError(
                f"{self.path} has values of type {series.dtype}, and real numbers "
                "are needed; convert them first."
            )
        if self._axes is None or len(self._axes) != rank:  # refused for the first image
            axes = _find_axes(series, self.path, named=names)
        else:
            axes = tuple(self._axes)
        data, *levels = (
            self._lazy(index, level, axes)
            for level, smaller in enumerate(series.levels)
            if len(smaller.shape) == rank
        )
        count = data.shape[axes.index("c")] if "c" in axes else 0
        stem = self.path.name.removesuffix(self.path.suffix).removesuffix(".ome")
        return Volume(
            data,
            axes,
            tuple(calibration.spacing.get(axis, 1.0) for axis in axes),
            tuple(calibration.units.get(axis, PIXEL) for axis in axes),
            (0.0,) * rank,
            f"{stem} {calibration.name or index}" if len(self._images) > 1 else stem,
            self.path,
            names if len(names) == count else (),
            tuple(levels),
        )

    def read(self) -> npt.NDArray[Any]:
        """Read the first image into memory."""
        with self.opened() as file:
            series = file.series[self._images[0]]
            return self._change(series.keyframe)(np.asarray(series.asarray()))

    def _change(self, page: Any) -> Change:
        if self._stored:
            return np.asarray
        return as_brightness(page, str(self.path), imagej=self._file.is_imagej)

    def _lazy(self, index: int, level: int, axes: tuple[str, ...]) -> ArrayLike:
        """Return one image at one resolution as dask blocks."""
        page = self._file.series[index].levels[level].keyframe
        # Tifffile's codes for reading by tile, or by whole plane.
        mode = 0 if page.is_tiled and page.nbytes > _PLANE_BYTES else 2
        with self._store(index, level, mode) as array:
            shape, dtype = array.shape, np.dtype(array.dtype)
            size = math.prod(array.chunks) * dtype.itemsize
            _check_plane(page, size, mode, self.path)
            chunks = grow_chunks(array.chunks, shape, dtype.itemsize, axes)
        change = self._change(page)

        def read(where: Index) -> npt.NDArray[Any]:
            with self._store(index, level, mode) as array:
                return change(np.asarray(array[where]))

        return lazy_array(read, shape, dtype, chunks, str(self.path))

    @contextmanager
    def _store(self, index: int, level: int, mode: int) -> Iterator[zarr.Array[Any]]:
        with self.opened() as file:
            store = file.series[index].aszarr(level=level, chunkmode=mode)
            try:
                yield zarr.open_array(store, mode="r")
            finally:
                store.close()
