"""What all label writers share: whole files or none, and the smallest integer type."""

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
    """Provide a temporary name that becomes `path` if everything succeeds.

    Parameters
    ----------
    path : Path
        File or folder to make.
    overwrite : bool
        Whether one of that name may be replaced.

    Yields
    ------
    Path
        A name in the same folder; see `atomic_write`.

    Raises
    ------
    OutputError
        If `path` exists, or its folder is missing or cannot be written.
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
    """Refuse a place where nothing can be written, as far as can be told before.

    Parameters
    ----------
    path : Path
        File or folder to make.
    overwrite : bool
        Whether one of that name may be replaced.

    Raises
    ------
    OutputError
        If `path` exists, or its folder is missing or cannot be written.
    """
    path = path.absolute()
    if path.exists() and not overwrite:
        raise OutputError(
            f"{path} exists already; choose another name or ask to overwrite it."
        )
    if path.is_dir() and not is_zarr(path):
        raise OutputError(f"{path} is a folder of other things and is not replaced.")
    if not path.parent.is_dir():
        raise OutputError(f"The folder {path.parent} does not exist; make it first.")
    if not os.access(path.parent, os.W_OK):
        raise OutputError(
            f"The folder {path.parent} may not be written to; choose another."
        )


def label_dtype(labels: ArrayLike, prompts: PromptSet | None) -> np.dtype[Any]:
    """Return the smallest unsigned type that holds all label values.

    numpy labels are looked at; of lazy ones the largest value follows from the
    prompts, or, for instances, from their type.

    Raises
    ------
    VolumeError
        If the labels are not integers.
    """
    dtype = np.dtype(labels.dtype)
    if dtype.kind not in "bui":
        raise VolumeError(
            f"Labels have values of type {dtype}; whole numbers are needed."
        )
    if isinstance(labels, np.ndarray):
        return np.min_scalar_type(max(0, int(labels.max(initial=0))))
    if prompts is not None and not prompts.instance:
        return np.min_scalar_type(prompts.ids[-1])
    return np.dtype(f"u{min(dtype.itemsize, 4)}")


def fit(block: npt.NDArray[Any], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Return labels as `dtype`, never wrapping a value around.

    Raises
    ------
    VolumeError
        If a label is negative or too large.
    """
    if block.size:
        low, high = int(block.min()), int(block.max())
        if low < 0 or high > np.iinfo(dtype).max:
            wrong = low if low < 0 else high
            raise VolumeError(
                f"The labels hold the value {wrong}, which no prompt has and which "
                f"does not fit {dtype}; remove it, or say that they are instances."
            )
    return block.astype(dtype, copy=False)


def label_colour(label: int) -> Colour:
    """Return the colour of a label value, far from those of its neighbours."""
    hue = (label * _GOLDEN_RATIO) % 1.0
    rgb = colorsys.hsv_to_rgb(hue, 0.65 + 0.3 * (label % 2), 0.95)
    red, green, blue = (round(255 * part) for part in rgb)
    return red, green, blue, 255
