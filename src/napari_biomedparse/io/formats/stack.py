"""A volume in many TIFF files, one per slice, given as a folder or a pattern."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import tifffile

from napari_biomedparse.errors import FormatError
from napari_biomedparse.io.contents import Contents
from napari_biomedparse.io.formats.tiff import open_tiff
from napari_biomedparse.io.formats.units import PIXEL
from napari_biomedparse.io.inputs import stack_files
from napari_biomedparse.io.lazy import Index, lazy_array

if TYPE_CHECKING:
    from napari_biomedparse.data.volume import Volume


def is_stack(path: Path) -> bool:
    """Return whether the files of a folder or pattern are slices of one volume."""
    files = stack_files(path)
    try:
        return bool(files) and _is_slice(open_tiff(files[0]).images)
    except FormatError:
        return False


def open_stack(path: Path) -> Contents:
    """Open TIFF files as the slices of one volume, without reading pixels.

    The image has the axes z, y, x, and c for colour slices. Shape and type are those
    of the first file; the distance between slices is unknown.

    Raises
    ------
    FormatError
        If the first file is not a single slice. If another one differs from it, an
        error is raised when it is read.
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
        slices = [_read(file, plane, dtype)[where[1:]] for file in files[where[0]]]
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


def _is_slice(images: Sequence[Volume]) -> bool:
    return len(images) == 1 and images[0].axes[:2] == ("y", "x")


def _read(file: Path, plane: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    found = np.asarray(tifffile.imread(file))
    if found.shape != plane or found.dtype != dtype:
        raise FormatError(
            f"{file} has the shape {found.shape} and type {found.dtype}, and the first "
            f"slice {plane} and {dtype}; all slices of a volume must be alike."
        )
    return found
