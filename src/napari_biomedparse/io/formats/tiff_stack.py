"""TIFF files, one per slice, as one volume: in order, alike, and none missing."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_biomedparse.errors import FormatError
from napari_biomedparse.io.contents import Contents
from napari_biomedparse.io.formats.tiff import TiffSource, describe_plane, open_tiff
from napari_biomedparse.io.formats.units import PIXEL
from napari_biomedparse.io.inputs import stack_files
from napari_biomedparse.io.lazy import Index, lazy_array

if TYPE_CHECKING:
    import numpy.typing as npt

logger = logging.getLogger(__name__)

_MOST_LISTED = 10


def is_stack(path: Path) -> bool:
    """Return whether the files of a folder or pattern are slices of one volume."""
    files = stack_files(path)
    try:
        source = TiffSource(files[0]) if files else None
        return source is not None and (
            _is_one_image(source, files) or _is_slice(source.contents())
        )
    except FormatError:
        return False


def open_stack(
    path: Path, axes: Sequence[str] | None = None, *, stored: bool = False
) -> Contents:
    """Open TIFF files as the slices of one volume: axes z, y, x, and c for colours.

    The distance between slices is unknown. Files that are together one OME-TIFF are
    opened as such. Other parameters are those of `open_tiff`. Raises `FormatError` if
    shape or type of a file differ, or names belong to several series.
    """
    files = stack_files(path)
    source = TiffSource(files[0], stored=stored)
    if _is_one_image(source, files):
        return open_tiff(files[0], axes, stored=stored)
    contents = source.contents()
    if not _is_slice(contents):
        found = ", ".join(contents.images[0].axes) if contents.images else "labels only"
        raise FormatError(
            f"{files[0]} is not one slice ({found}), so the files of {path} are not "
            "slices of one volume; open them one by one."
        )
    check_names(files, path)
    _check_alike(tuple((file, file.stat().st_mtime_ns) for file in files))
    (first,) = contents.images
    plane, dtype = first.shape, first.dtype

    def read(where: Index) -> npt.NDArray[Any]:
        slices = []
        for file in files[where[0]]:
            found = TiffSource(file, stored=stored).read()
            if found.shape != plane or found.dtype != dtype:  # by now
                raise _unlike(file, (found.shape, found.dtype), (plane, dtype))
            slices.append(found[where[1:]])
        return np.stack(slices)

    shape = (len(files), *plane)
    return Contents(
        images=(
            replace(
                first,
                data=lazy_array(read, shape, dtype, (1, *plane), str(path)),
                axes=tuple(axes or ("z", *first.axes)),
                spacing=(1.0, *first.spacing),
                units=(PIXEL, *first.units),
                origin=(0.0, *first.origin),
                name=path.name if path.is_dir() else path.parent.name or first.name,
                source=path,
                levels=(),
            ),
        )
    )


def check_names(files: Sequence[Path], path: Path) -> None:
    """Refuse files whose names belong to several series, and tell of missing numbers.

    `files` are sorted by the numbers in their names.
    """
    series: dict[str, list[tuple[int, ...]]] = {}
    for file in files:
        name = str(file.with_suffix(""))
        numbers = tuple(map(int, re.findall(r"\d+", name)))
        series.setdefault(re.sub(r"\d+", "*", name).lower(), []).append(numbers)
    if len(series) == len(files) > 1:
        logger.warning(
            "%s: the names of its files have no number in common; the slices are taken "
            "in the order of the names.",
            path,
        )
        return
    counted = [
        count
        for count in zip(*next(iter(series.values())), strict=True)
        if len(set(count)) == len(files)
    ]
    if len(series) > 1 or (len(files) > 1 and not counted):
        found = [f"{len(some)} {Path(name).name}" for name, some in series.items()]
        raise FormatError(
            f"The names in {path} belong to several series, or repeat a number "
            f"({', '.join(found[:4])}), so they are not slices of one volume. Give "
            "those of one as a pattern, such as 'folder/cell_1_*.tif'."
        )
    rising = [count for count in counted if list(count) == sorted(count)]
    count = min(rising, key=lambda count: count[-1] - count[0], default=())
    step = min((later - one for one, later in pairwise(count)), default=1)
    left_out = (range(one + step, later, step) for one, later in pairwise(count))
    missing = list(islice(chain.from_iterable(left_out), _MOST_LISTED + 1))
    if missing:
        logger.warning(
            "%s: the numbers of its %d files leave out %s%s. The slices before and "
            "after are taken as neighbors; add the files that are missing, if any.",
            path,
            len(files),
            ", ".join(map(str, missing[:_MOST_LISTED])),
            " and more" if len(missing) > _MOST_LISTED else "",
        )


@lru_cache(maxsize=4)
def _check_alike(states: tuple[tuple[Path, int], ...]) -> None:
    """Refuse slices that are incomplete, or differ in shape, type or number of pages.

    `states` are files and the times of their last change.
    """
    known: dict[str, dict[str, float]] = {}
    first, sizes = describe_plane(states[0][0], known)
    told = False
    for file, _ in states:
        found, others = describe_plane(file, known)
        if found != first:
            raise _unlike(file, found, first)
        ratios = (others.get(a, 0) / sizes.get(a, math.inf) - 1 for a in sizes | others)
        if not told and any(abs(ratio) > 1e-3 for ratio in ratios):
            what = "%s has pixels of another size than %s, which is used."
            logger.warning(what, file, states[0][0])
            told = True


def _unlike(file: Path, found: Sequence[Any], first: Sequence[Any]) -> FormatError:
    return FormatError(
        f"{file} has the shape {found[0]} and type {found[1]}, and the first slice "
        f"{first[0]} and {first[1]}; all slices of a volume must be alike. Move other "
        "images elsewhere, or give the slices as a pattern."
    )


def _is_one_image(source: TiffSource, files: Sequence[Path]) -> bool:
    names = {file.resolve() for file in source.files}
    return len(files) > 1 and {file.resolve() for file in files} <= names


def _is_slice(contents: Contents) -> bool:
    images = contents.images
    return len(images) == 1 and images[0].axes[:2] == ("y", "x")
