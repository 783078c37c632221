"""Match images with their labels and predictions, and open labels of any file."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_biomedparse.data.volume import SPATIAL_AXES, as_one_slice, without_singles
from napari_biomedparse.errors import FormatError, VolumeError
from napari_biomedparse.io import LabelVolume, open_file
from napari_biomedparse.io.inputs import find_files

logger = logging.getLogger(__name__)

Paths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]
_ENDINGS = (".gz", ".nii", ".npz", ".ome", ".tif", ".tiff", ".zarr")


@dataclass(frozen=True)
class Pair:
    """The files of one case.

    Parameters
    ----------
    name : str
        The image's file name without its extension.
    image, truth : Path
        The same file if it contains its own labels.
    prediction : Path, optional
        File with labels to be scored; None if they are to be computed.
    missing : str
        Kind of file that is missing, or empty.
    """

    name: str
    image: Path
    truth: Path
    prediction: Path | None = None
    missing: str = ""


def find_pairs(
    images: Paths, labels: Paths, predictions: Paths | None = None
) -> tuple[Pair, ...]:
    """Match files whose names are equal except for the extension.

    A single image and a single file of labels match whatever their names.

    Parameters
    ----------
    images, labels, predictions : path or iterable of path
        Files, folders of files, and patterns. An OME-Zarr image that contains its
        labels may be given as both.

    Returns
    -------
    tuple of Pair
        In the order of the images, incomplete ones included.

    Raises
    ------
    FormatError
        If there is no file for a path, no pair is complete, or two files of one kind
        have the same name.
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
            f"None of the {len(pairs)} images has {pairs[0].missing}. A file of the "
            f"same name is needed, such as {pairs[0].name}, but the names found are "
            f"{', '.join(sorted(others)[:3])}."
        )
    return tuple(pairs)


def open_labels(path: str | os.PathLike[str]) -> LabelVolume:
    """Open the labels of a file as a volume.

    Parameters
    ----------
    path : path
        A file with labels, or an image of integers, which is taken as labels.

    Returns
    -------
    LabelVolume
        Lazy, with three axes; a single image becomes one slice.

    Raises
    ------
    FormatError
        If the file cannot be read.
    VolumeError
        If the values are not integers, or the number of axes is wrong.
    """
    contents = open_file(path)
    for image in () if contents.labels else contents.images:
        if image.dtype.kind not in "bui":
            raise VolumeError(
                f"{path} has labels of type {image.dtype}; labels must be integers, 0 "
                "for background: round and convert them."
            )
    found = contents.labels or tuple(LabelVolume(image) for image in contents.images)
    if not found:
        raise FormatError(
            f"{path} contains neither labels nor an image; choose another file."
        )
    if len(found) > 1:
        names = ", ".join(one.volume.name for one in found)
        logger.warning("%s has several labels (%s); the first are used.", path, names)
    labels = found[0]
    volume = labels.volume
    if len(volume.axes) > 3:
        volume = without_singles(volume)
    if volume.axes == SPATIAL_AXES[1:]:
        volume = as_one_slice(volume)
    if len(volume.shape) != 3:
        raise VolumeError(
            f"{path} has labels with {len(volume.shape)} axes "
            f"({', '.join(volume.axes)}); two (y, x) or three (z, y, x) are needed."
        )
    return replace(labels, volume=volume)


def read_labels(labels: LabelVolume) -> npt.NDArray[np.integer[Any]]:
    """Read labels into memory, integer [Z, Y, X]."""
    values = np.asarray(labels.volume.data[...])
    if values.dtype.kind == "b":
        return values.astype(np.uint8)
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def case_name(path: Path) -> str:
    """Return a file's name without the extensions of its format."""
    name = path.name
    while name.lower().endswith(_ENDINGS):
        name = name[: name.rindex(".")]
    return name


def _listed(paths: Paths) -> list[str | os.PathLike[str]]:
    return [paths] if isinstance(paths, str | os.PathLike) else list(paths)


def _by_name(files: tuple[Path, ...], partners: tuple[Path, ...]) -> dict[str, Path]:
    """Index files by name; a single file gets the name of its single partner."""
    if len(files) == len(partners) == 1:
        return {case_name(partners[0]): files[0]}
    named: dict[str, Path] = {}
    for path in files:
        other = named.setdefault(case_name(path), path)
        if other != path:
            raise FormatError(
                f"{other} and {path} have the same name, so it is not clear which one "
                "belongs to which labels; rename one of them."
            )
    return named
