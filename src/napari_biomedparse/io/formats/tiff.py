"""Read TIFF files (OME-TIFF, ImageJ, BigTIFF, plain), and write OME-TIFF labels.

Many files, one per slice, are one volume if given as a folder or a pattern.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import numpy as np
import numpy.typing as npt
import tifffile
import zarr

from napari_biomedparse.data.prompts import INSTANCE_KEY, PromptSet
from napari_biomedparse.data.text import NOT_XML, visible
from napari_biomedparse.data.volume import ArrayLike, Volume
from napari_biomedparse.errors import FormatError, check_shortage, pip_install
from napari_biomedparse.io.contents import Contents, LabelVolume, as_prompts
from napari_biomedparse.io.durable import whole_or_nothing
from napari_biomedparse.io.formats.tiff_metadata import (
    LABEL_NAMESPACE,
    check_claims,
    name_axes,
    read_calibration,
    split_labels,
)
from napari_biomedparse.io.formats.units import PIXEL, unit_symbol
from napari_biomedparse.io.guards.bounds import (
    BoundedFile,
    check_packed,
    most_bytes,
    unpacked_limit,
)
from napari_biomedparse.io.inputs import stack_files
from napari_biomedparse.io.lazy import (
    Index,
    fit,
    grow_chunks,
    in_order,
    label_dtype,
    lazy_array,
)

if TYPE_CHECKING:
    from napari_biomedparse.data.results import Owners

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


def open_tiff(path: Path) -> Contents:
    """Open every image of a TIFF file without reading pixels.

    The unnamed axis of a plain stack is taken as z; colour samples become channels. A
    file written by `save_tiff` contains labels and prompts.
    """
    source = _TiffSource(path)
    try:
        contents = _read_series(source)
    except FormatError:
        raise
    except Exception as error:  # so can a damaged page, later
        check_shortage(error, memory=False)
        raise _damaged(path, error) from error
    if not contents.images and not contents.labels:
        raise FormatError(f"{path} contains no image; choose a TIFF with at least one.")
    return contents


def _read_series(source: _TiffSource) -> Contents:
    images: list[Volume] = []
    labels: list[LabelVolume] = []
    prompts: PromptSet | None = None
    with source.opened() as file:
        for index, series in enumerate(file.series):
            if len(series.axes) < 2 or series.dtype is None:
                continue
            _check_codec(source.path, series)
            calibration = read_calibration(file, index)
            volume = _make_volume(source, index, calibration.name)
            if calibration.labels is None:
                images.append(volume)
            else:
                texts, instance, owners = split_labels(calibration.labels)
                labels.append(LabelVolume(volume, texts, {}, instance, owners))
                prompts = as_prompts(texts, instance=instance, what=str(source.path))
    return Contents(tuple(images), tuple(labels), prompts)


def is_stack(path: Path) -> bool:
    """Return whether the files of a folder or pattern are slices of one volume."""
    files = stack_files(path)
    try:
        return bool(files) and _is_slice(open_tiff(files[0]).images)
    except FormatError:
        return False


def open_stack(path: Path) -> Contents:
    """Open TIFF files as the slices of one volume: axes z, y, x, and c for colours.

    Shape and type are those of the first file; another one that differs raises
    `FormatError` when it is read. The distance between slices is unknown.
    """
    files = stack_files(path)
    images = open_tiff(files[0]).images
    if not _is_slice(images):
        found = ", ".join(images[0].axes) if images else "labels only"
        raise FormatError(
            f"{files[0]} is not one slice ({found}), so the files of {path} are not "
            "slices of one volume; open them one by one."
        )
    (first,) = images
    plane, dtype = first.shape, first.dtype

    def read(where: Index) -> npt.NDArray[Any]:
        slices = [
            _read_slice(file, plane, dtype)[where[1:]] for file in files[where[0]]
        ]
        return np.stack(slices)

    shape = (len(files), *plane)
    return Contents(
        images=(
            replace(
                first,
                data=lazy_array(read, shape, dtype, (1, *plane), str(path)),
                axes=("z", *first.axes),
                spacing=(1.0, *first.spacing),
                units=(PIXEL, *first.units),
                origin=(0.0, *first.origin),
                name=path.name if path.is_dir() else path.parent.name or first.name,
                source=path,
                levels=(),
            ),
        )
    )


def save_tiff(
    path: Path,
    labels: ArrayLike,
    *,
    volume: Volume,
    prompts: PromptSet | None,
    owners: Owners | None = None,
    overwrite: bool,
) -> None:
    """Write labels as an OME-TIFF with sizes, units and prompts, without the origin.

    Its UUID follows from its content, so that equal labels are equal files.
    """
    dtype = label_dtype(labels, prompts)
    shape = tuple(labels.shape)
    big = math.prod(shape) * dtype.itemsize > _CLASSIC_BYTES
    digest = hashlib.sha256(
        repr(described := _describe(volume, prompts, owners)).encode()
    )

    def planes(folder: Path) -> Iterator[npt.NDArray[Any]]:
        for slab in in_order(labels, folder):
            for plane in slab.reshape(-1, *shape[-2:]):
                fitting = np.ascontiguousarray(fit(plane, dtype))
                digest.update(fitting.data)
                yield fitting

    with whole_or_nothing(path, overwrite=overwrite) as temporary:
        with tifffile.TiffWriter(temporary, bigtiff=big, ome=True) as writer:
            writer.write(
                planes(temporary.parent),
                shape=shape,
                dtype=dtype,
                photometric="minisblack",
                compression="zlib",
                metadata=described | {"UUID": str(UUID(int=0))},
            )
        with tifffile.TiffFile(temporary) as written:
            text = written.pages.first.description
        text = text.replace(str(UUID(int=0)), str(UUID(digest.hexdigest()[:32])))
        tifffile.tiffcomment(temporary, text.encode())


def _describe(
    volume: Volume, prompts: PromptSet | None, owners: Owners | None
) -> dict[str, Any]:
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
        texts = {str(p.id): visible(p.text, NOT_XML) for p in prompts.prompts}
        entries |= texts
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


def _damaged(path: Path, error: Exception) -> FormatError:
    return FormatError(
        f"{path} is not a complete TIFF file ({error}); copy it again from its source."
    )


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


def _is_slice(images: Sequence[Volume]) -> bool:
    return len(images) == 1 and images[0].axes[:2] == ("y", "x")


def _read_slice(
    file: Path, plane: tuple[int, ...], dtype: np.dtype[Any]
) -> npt.NDArray[Any]:
    found = np.asarray(tifffile.imread(file))
    if found.shape != plane or found.dtype != dtype:
        raise FormatError(
            f"{file} has the shape {found.shape} and type {found.dtype}, and the first "
            f"slice {plane} and {dtype}; all slices of a volume must be alike."
        )
    return found


class _Opener:
    """Opens a file with bounded reads for tifffile, which may reopen it."""

    def __init__(self, path: Path) -> None:
        self.path = os.path.realpath(path)
        self.mode = "rb"

    def open(self) -> BoundedFile:
        """Open the file."""
        return BoundedFile(Path(self.path))


def _make_volume(source: _TiffSource, index: int, name: str) -> Volume:
    with source.opened() as file:
        series = file.series[index]
        calibration = read_calibration(file, index)
        rank = len(series.shape)
        if np.dtype(series.dtype).kind not in "buif":
            raise FormatError(
                f"{source.path} has values of type {series.dtype}, and real numbers "
                "are needed; convert them first."
            )
        try:
            axes = name_axes(series.axes, str(source.path))
        except ValueError as error:
            raise FormatError(
                f"{source.path} has {error}, which are ambiguous; save it with axes "
                "out of T, C, Z, Y and X."
            ) from error
        data, *levels = (
            source.lazy(index, level, axes)
            for level, smaller in enumerate(series.levels)
            if len(smaller.shape) == rank
        )
    count = data.shape[axes.index("c")] if "c" in axes else 0
    names = calibration.channel_names
    stem = source.path.name.removesuffix(source.path.suffix).removesuffix(".ome")
    several = len(file.series) > 1
    return Volume(
        data,
        axes,
        tuple(calibration.spacing.get(axis, 1.0) for axis in axes),
        tuple(calibration.units.get(axis, PIXEL) for axis in axes),
        (0.0,) * rank,
        f"{stem} {name or index}" if several else stem,
        source.path,
        names if len(names) == count else (),
        tuple(levels),
    )


class _TiffSource:
    """A TIFF file whose directory is known, and which is open only while read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.RLock()
        try:
            with tifffile.TiffFile(_Opener(path)) as file:  # type: ignore[arg-type]
                check_claims(file, path)
                for series in file.series:  # found while the file is open
                    for level in series.levels:
                        _bound(level.keyframe)
                self._file = file
        except FormatError:
            raise
        except Exception as error:  # a damaged directory can fail anywhere in tifffile
            check_shortage(error, memory=False)
            raise _damaged(path, error) from error

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the path alone."""
        return _TiffSource, (self.path,)

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

    def lazy(self, index: int, level: int, axes: tuple[str, ...]) -> ArrayLike:
        """Return one image at one resolution as dask blocks."""
        mode = self._chunk_mode(index, level)
        with self._store(index, level, mode) as array:
            shape, dtype = array.shape, np.dtype(array.dtype)
            page = self._file.series[index].levels[level].keyframe
            size = math.prod(array.chunks) * dtype.itemsize
            _check_plane(page, size, mode, self.path)
            chunks = grow_chunks(array.chunks, shape, dtype.itemsize, axes)

        def read(where: Index) -> npt.NDArray[Any]:
            with self._store(index, level, mode) as array:
                return np.asarray(array[where])

        return lazy_array(read, shape, dtype, chunks, str(self.path))

    def _chunk_mode(self, index: int, level: int) -> int:
        """Return tifffile's code for reading by tile (0) or by whole plane (2)."""
        page = self._file.series[index].levels[level].keyframe
        return 0 if page.is_tiled and page.nbytes > _PLANE_BYTES else 2

    @contextmanager
    def _store(self, index: int, level: int, mode: int) -> Iterator[zarr.Array[Any]]:
        with self.opened() as file:
            store = file.series[index].aszarr(level=level, chunkmode=mode)
            try:
                yield zarr.open_array(store, mode="r")
            finally:
                store.close()
