"""Which image, labels and prediction belong together, and labels from any file."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_biomedparse.data.volume import SPATIAL_AXES
from napari_biomedparse.errors import FormatError, VolumeError
from napari_biomedparse.io import LabelVolume, open_file
from napari_biomedparse.io.inputs import find_files

logger = logging.getLogger(__name__)

Paths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]
_ENDINGS = (".gz", ".nii", ".npz", ".ome", ".tif", ".tiff", ".zarr")


@dataclass(frozen=True)
class Pair:
    """One case.

    Parameters
    ----------
    name : str
        The image's file name without its ending.
    image, truth : Path
        The same file if it brings its own labels.
    prediction : Path, optional
        File with labels to be scored; without one they are to be computed.
    missing : str
        What there is no file of, or empty.
    """

    name: str
    image: Path
    truth: Path
    prediction: Path | None = None
    missing: str = ""


def find_pairs(
    images: Paths, labels: Paths, predictions: Paths | None = None
) -> tuple[Pair, ...]:
    """Pair files whose names are the same up to the ending.

    Where there is one image and one file of labels only, they are a pair whatever
    they are called.

    Parameters
    ----------
    images, labels, predictions : path or iterable of path
        Files, folders of files, and patterns. An OME-Zarr image that brings its labels
        may be given as both.

    Returns
    -------
    tuple of Pair
        In the order of the images; those of which a file is missing say so.

    Raises
    ------
    FormatError
        If a path stands for no file, no image has its others, or two files of one
        kind have the same name.
    """
    found = find_files(_listed(images))
    truths = _by_name(find_files(_listed(labels)), found)
    predicted: dict[str, Path] = {}
    if predictions is not None:
        predicted = _by_name(find_files(_listed(predictions)), found)
    pairs = []
    for name, path in _by_name(found, ()).items():
        missing = "" if name in truths else "labels"
        if predictions is not None and name not in predicted:
            missing = missing or "predictions"
        pairs.append(
            Pair(name, path, truths.get(name, path), predicted.get(name), missing)
        )
    if all(pair.missing for pair in pairs):
        others = truths if pairs[0].missing == "labels" else predicted
        raise FormatError(
            f"None of the {len(pairs)} images has {pairs[0].missing}: a file of the "
            f"same name is needed, such as {pairs[0].name}, but there are "
            f"{', '.join(sorted(others)[:3])}."
        )
    return tuple(pairs)


def open_labels(path: str | os.PathLike[str]) -> LabelVolume:
    """Open the labels of a file as a volume.

    Parameters
    ----------
    path : path
        A file with labels, or an image of whole numbers, which is taken for labels.

    Returns
    -------
    LabelVolume
        Three axes, lazy; a single image becomes one slice.

    Raises
    ------
    FormatError
        If the file cannot be read.
    VolumeError
        If it holds fractions or has another number of axes.
    """
    contents = open_file(path)
    for image in () if contents.labels else contents.images:
        if image.dtype.kind not in "bui":
            raise VolumeError(
                f"{path} has labels of type {image.dtype}; labels must be whole "
                "numbers, 0 for background: round and convert them to an integer type."
            )
    found = contents.labels or tuple(LabelVolume(image) for image in contents.images)
    if not found:
        raise FormatError(f"{path} holds neither labels nor an image.")
    if len(found) > 1:
        names = ", ".join(one.volume.name for one in found)
        logger.warning("%s holds several labels (%s); the first is taken.", path, names)
    labels = found[0]
    volume = labels.volume
    for axis in ("c", "t"):
        if axis in volume.axes and len(volume.axes) > 3:
            if volume.shape[volume.axes.index(axis)] == 1:
                volume = volume.select(**{axis: 0})
    if volume.axes == SPATIAL_AXES[1:]:
        data: Any = volume.data
        volume = replace(
            volume,
            data=data[None],
            levels=(),
            axes=SPATIAL_AXES,
            spacing=(1.0, *volume.spacing),
            units=(volume.units[0], *volume.units),
            origin=(0.0, *volume.origin),
            flat=True,
        )
    if len(volume.shape) != 3:
        raise VolumeError(
            f"{path} has labels with {len(volume.shape)} axes "
            f"({', '.join(volume.axes)}); three (z, y, x) or two are needed."
        )
    return replace(labels, volume=volume)


def read_labels(labels: LabelVolume) -> npt.NDArray[np.integer[Any]]:
    """Read labels into memory, integer [Z, Y, X]."""
    values = np.asarray(labels.volume.data[...])
    if values.dtype.kind == "b":
        return values.astype(np.uint8)
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def case_name(path: Path) -> str:
    """Return a file's name without the endings of its format."""
    name = path.name
    while name.lower().endswith(_ENDINGS):
        name = name[: name.rindex(".")]
    return name


def _listed(paths: Paths) -> list[str | os.PathLike[str]]:
    return [paths] if isinstance(paths, str | os.PathLike) else list(paths)


def _by_name(files: tuple[Path, ...], partners: tuple[Path, ...]) -> dict[str, Path]:
    """Index files by name; a single one is called as its single partner."""
    if len(files) == len(partners) == 1:
        return {case_name(partners[0]): files[0]}
    named: dict[str, Path] = {}
    for path in files:
        other = named.setdefault(case_name(path), path)
        if other != path:
            raise FormatError(
                f"{other} and {path} have the same name, so it is not clear which "
                "belongs to which labels; rename one."
            )
    return named
