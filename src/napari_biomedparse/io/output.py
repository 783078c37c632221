"""Shared by all label writers: output paths, integer types and colours."""

from __future__ import annotations

import colorsys
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_biomedparse.errors import OutputError, VolumeError
from napari_biomedparse.io.durable import atomic_write, is_zarr

if TYPE_CHECKING:
    from napari_biomedparse.data.prompts import PromptSet
    from napari_biomedparse.data.volume import ArrayLike
    from napari_biomedparse.io.contents import Colour

_GOLDEN_RATIO = 0.618033988749895


@contextmanager
def whole_or_nothing(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """Check a path with `check_place`, and provide a temporary name for `atomic_write`.

    Raises
    ------
    OutputError
        If `path` exists and may not be replaced, or cannot be written.
    """
    path = path.absolute()
    check_place(path, overwrite=overwrite)
    try:
        with atomic_write(path) as temporary:
            yield temporary
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written: {error.strerror or error}. Choose a folder "
            "that you may write to, on a disk with free space."
        ) from error


def check_place(path: Path, *, overwrite: bool) -> None:
    """Raise `OutputError` if a file or folder cannot be written, as far as is known."""
    path = path.absolute()
    if path.exists() and not overwrite:
        raise OutputError(
            f"{path} exists already; choose another name, or allow overwriting."
        )
    if path.is_dir() and not is_zarr(path):
        raise OutputError(f"{path} is a folder of other files and is not replaced.")
    if not path.parent.is_dir():
        raise OutputError(f"The folder {path.parent} does not exist; create it first.")
    if not os.access(path.parent, os.W_OK):
        raise OutputError(
            f"You may not write to the folder {path.parent}; choose another one."
        )


def label_dtype(labels: ArrayLike, prompts: PromptSet | None) -> np.dtype[Any]:
    """Return the smallest unsigned type that holds all label values.

    The values of numpy labels are examined. The largest value of lazy labels follows
    from the prompts or, for instances, from their type. Raises `VolumeError` if labels
    are not integers.
    """
    dtype = np.dtype(labels.dtype)
    if dtype.kind not in "bui":
        raise VolumeError(
            f"Labels have values of type {dtype}; convert them to integers."
        )
    if isinstance(labels, np.ndarray):
        return np.min_scalar_type(max(0, int(labels.max(initial=0))))
    if prompts is not None and not prompts.instance:
        return np.min_scalar_type(prompts.ids[-1])
    return np.dtype(f"u{min(dtype.itemsize, 4)}")


def fit(block: npt.NDArray[Any], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Return labels as `dtype`; raises `VolumeError` where a value does not fit."""
    if block.size:
        low, high = int(block.min()), int(block.max())
        if low < 0 or high > np.iinfo(dtype).max:
            wrong = low if low < 0 else high
            raise VolumeError(
                f"The labels contain the value {wrong}, which belongs to no prompt and "
                f"does not fit {dtype}; remove it, or declare them as instances."
            )
    return block.astype(dtype, copy=False)


def label_colour(label: int) -> Colour:
    """Return a colour of a label value that differs from those of its neighbours."""
    hue = (label * _GOLDEN_RATIO) % 1.0
    rgb = colorsys.hsv_to_rgb(hue, 0.65 + 0.3 * (label % 2), 0.95)
    red, green, blue = (round(255 * part) for part in rgb)
    return red, green, blue, 255
