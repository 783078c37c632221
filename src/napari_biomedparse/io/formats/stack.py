"""A volume in many TIFF files, one a slice: a folder of them, or a pattern."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import tifffile

from napari_biomedparse.errors import FormatError
from napari_biomedparse.io.contents import Contents
from napari_biomedparse.io.formats.tiff import SUFFIXES, open_tiff
from napari_biomedparse.io.formats.units import PIXEL
from napari_biomedparse.io.lazy import Index, lazy_array

if TYPE_CHECKING:
    from napari_biomedparse.data.volume import Volume


def stack_files(path: Path) -> tuple[Path, ...]:
    """Return the TIFF files that a folder or a pattern stands for.

    Parameters
    ----------
    path : Path
        A folder, or a name with ``*``, ``?`` or ``[``, for which there is no file.

    Returns
    -------
    tuple of Path
        By name, numbers in it by their value; empty for anything else.
    """
    if path.is_dir():
        found = list(path.iterdir())
    elif not path.exists() and glob.has_magic(str(path)):
        found = [Path(name) for name in glob.glob(str(path), recursive=True)]
    else:
        return ()
    files = [p for p in found if p.suffix.lower() in SUFFIXES and p.is_file()]
    return tuple(sorted(files, key=lambda p: _by_number(str(p))))


def is_stack(path: Path) -> bool:
    """Say whether a folder or a pattern stands for slices of one volume."""
    files = stack_files(path)
    try:
        return bool(files) and _is_slice(open_tiff(files[0]).images)
    except FormatError:
        return False


def open_stack(path: Path) -> Contents:
    """Open TIFF files as the slices of one volume; the pixels stay in the files.

    Parameters
    ----------
    path : Path
        For which `stack_files` finds files.

    Returns
    -------
    Contents
        One image of the axes z, y, x, and c of colour slices. The first file tells
        what a slice is; the distance of the slices is not known.

    Raises
    ------
    FormatError
        If the first file is not a single slice. Another one that differs shows when
        it is read.
    """
    files = stack_files(path)
    images = open_tiff(files[0]).images
    if not _is_slice(images):
        found = ", ".join(images[0].axes) if images else "labels only"
        raise FormatError(
            f"{files[0]} is not one slice ({found}), so the files of {path} are not a "
            "volume together; open them one by one."
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
            f"{file} is a slice of {found.shape} {found.dtype}, and the first one of "
            f"{plane} {dtype}; slices of one volume must be alike."
        )
    return found


def _by_number(name: str) -> list[tuple[int, str]]:
    """Return a key by which ``2`` comes before ``10``."""
    parts = re.split(r"(\d+)", name)
    return [(int(p), "") if p.isdecimal() else (-1, p) for p in parts if p]
