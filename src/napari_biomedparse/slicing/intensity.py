"""Scaling of a volume's values to the 0 to 255 that the network was trained on.

Source of the percentiles and of the CT windows in `data.options`: the documented
preparation of the training data (CVPR 2025 text-guided segmentation challenge).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_biomedparse.data.options import MODALITIES
from napari_biomedparse.errors import OptionError, VolumeError
from napari_biomedparse.io.lazy import read_windows

if TYPE_CHECKING:
    from napari_biomedparse.data.volume import ArrayLike

PERCENTILES = (0.5, 99.5)
SAMPLE_VOXELS = 2**24
"""Up to this size percentiles are exact; of larger volumes a sample of it is read."""
SAMPLE_SLABS = 8  # places along an axis from which a large volume is sampled
HOUNSFIELD_HINT = (-10_000, -500)
"""Values between these occur in CT and hardly anywhere else."""
UNSIGNED_HINT = (
    "The voxels are unsigned numbers, which Hounsfield units are not; if an offset "
    "such as 1024 was added to them, subtract it first."
)


@dataclass(frozen=True)
class Intensity:
    """How voxel values are scaled to the 0 to 255 that the network was trained on."""

    method: str
    """``window``, ``percentile``, ``range`` (lowest to highest value), or ``none``."""
    low: float = 0.0  # values up to this become 0,
    high: float = 255.0  # and from this on 255
    label: str = "values as they are"  # the method in words
    hint: str = ""  # a sentence of advice for the user, or empty
    sampled: str = ""  # checksum of the voxels that the choice is based on, or empty

    def apply(self, planes: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Map the values of slices [B, Y, X] of any integer or real dtype.

        The result [B, Y, X] is uint8, the nearest grey level (halves to the even one);
        with the method ``none`` the values and dtype as they came. NaN becomes 0, minus
        infinity 0 and plus infinity 255. If `low` equals `high`, larger values become
        255 and all others 0.
        """
        if self.method == "none":
            if planes.dtype.kind != "f" or np.isfinite(planes).all():
                return planes
            return np.asarray(np.nan_to_num(planes, nan=0.0, posinf=255.0, neginf=0.0))
        mapped = np.empty(planes.shape, np.uint8)
        for plane, target in zip(planes, mapped, strict=True):
            if self.low < self.high:
                target[...] = self._rescaled(plane)
            else:
                target[...] = np.where(plane > self.low, 255, 0)
        return mapped

    def _rescaled(self, plane: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
        with np.errstate(over="ignore"):  # of longer floating-point numbers
            values = plane.astype(np.float64)
        np.nan_to_num(values, copy=False, nan=self.low)
        np.clip(values, self.low, self.high, out=values)
        low, high = self.low, self.high
        if not math.isfinite(high - low):
            low, high = low / 2, high / 2
            values /= 2
        values -= low
        values /= high - low
        values *= 255
        return np.rint(values, out=values).astype(np.uint8)

    def describe(self) -> str:
        """Describe in one or two sentences what happens to the values."""
        text = self.label
        if self.method != "none":
            text += f": {self.low:.6g} to {self.high:.6g} become 0 to 255"
        return f"{text}. {self.hint}" if self.hint else text


def choose_intensity(data: ArrayLike, modality: str = "auto") -> Intensity:
    """Decide how a volume's values are scaled to 0 to 255.

    8-bit unsigned values are used as they are. CT is windowed; other images are clipped
    to their 0.5 and 99.5 percentiles (where these coincide, as in sparse images, to
    their lowest and highest value). Percentiles are exact up to 2**24 voxels; of larger
    volumes that many are read in evenly spaced slabs. Which ones depends on the shape
    alone, so that arrays with the same content give the same result whatever their
    chunks. Floating-point colours range from 0 to 1, or to 255 if a value above 1
    occurs.

    `data` is a numpy, dask or zarr array of integers or real numbers, [Z, Y, X], or
    [Z, Y, X, 3] of colours, for which the modality is ignored. `modality` is a key of
    `MODALITIES`; CT windows take the values to be Hounsfield units. An `OptionError` is
    raised if it is unknown, or "none" with a dtype the network's input cannot have; a
    `VolumeError` if no value is finite.
    """
    if modality not in MODALITIES:
        raise OptionError(
            f"Modality {modality!r} is unknown; choose one of {', '.join(MODALITIES)}."
        )
    dtype = np.dtype(data.dtype)
    if dtype == np.uint8:
        return Intensity("none", label="8-bit values, used as they are")
    if modality == "none":
        if dtype.kind != "f":
            raise OptionError(
                f"Modality 'none' uses values as they are, which works for uint8 and "
                f"floating point but not for {dtype}; choose another modality, for "
                "example 'auto', or convert the volume to float32."
            )
        return Intensity("none")
    if len(data.shape) == 4:
        brightest = max(float(_sample(data[..., i]).max()) for i in range(3))
        return Intensity("range", 0.0, 1.0 if brightest <= 1 else 255.0, "colours")
    chosen = MODALITIES[modality]
    if chosen.window is not None:
        hint = UNSIGNED_HINT if dtype.kind == "u" else ""
        return Intensity("window", *chosen.window, f"{chosen.label} window", hint)
    return _spread(data, dtype)


def _spread(data: ArrayLike, dtype: np.dtype[Any]) -> Intensity:
    """Choose the range from percentiles of the data."""
    values = _sample(data)
    sampled = hashlib.sha256(values.data).hexdigest()[:16]
    with np.errstate(over="ignore"):
        factor = 1.0 if np.isfinite(np.ptp(values)) else 0.25
    if factor != 1.0:  # else the distance between two values would overflow
        values *= factor
    low, high = (
        float(v) / factor
        for v in np.percentile(values, PERCENTILES, overwrite_input=True)
    )
    hint = ""
    if HOUNSFIELD_HINT[0] < low < HOUNSFIELD_HINT[1]:
        hint = (
            "Values as low as these are usually CT in Hounsfield units; if so, "
            "choose a CT window (ct, ct-lung, ct-brain or ct-bone)."
        )
    if low < high:
        label = "percentiles {} to {}".format(*PERCENTILES)
        return Intensity("percentile", low, high, label, hint, sampled)
    low, high = (float(value) / factor for value in (values.min(), values.max()))
    return Intensity("range", low, high, "lowest to highest value", hint, sampled)


def _sample(data: ArrayLike) -> npt.NDArray[np.floating[Any]]:
    """Read the finite values, all or evenly spaced ones, as a flat float array."""
    dtype = np.dtype(data.dtype)
    working = np.float32 if dtype.itemsize <= 2 or dtype == np.float32 else np.float64
    windows = list(_windows(tuple(int(n) for n in data.shape)))
    parts = []
    for part in read_windows(data, windows):
        with np.errstate(over="ignore"):  # to infinity, which is left out
            part = part.astype(working).ravel()
        parts.append(part if dtype.kind != "f" else part[np.isfinite(part)])
    values = np.concatenate(parts)
    if values.size == 0:
        raise VolumeError(
            "The volume has no finite values in the part that was sampled, only NaN or "
            "infinity; choose the region that holds data, or another file."
        )
    return values


def _windows(shape: tuple[int, ...]) -> Iterator[tuple[slice, slice]]:
    """Yield where to read: everything, or slabs, or bands of rows within planes."""
    depth, rows, columns = shape
    if depth * rows * columns <= SAMPLE_VOXELS:
        yield slice(0, depth), slice(0, rows)
        return
    planes = SAMPLE_VOXELS // (rows * columns)
    slabs = list(_evenly(depth, planes))
    count = sum(slab.stop - slab.start for slab in slabs)
    bands = list(_evenly(rows, SAMPLE_VOXELS // (count * columns)))
    yield from product(slabs, bands)


def _evenly(length: int, budget: int) -> Iterator[slice]:
    """Yield up to 8 equal slices of a `length`, evenly spaced, about `budget` long."""
    if budget >= length:
        yield slice(0, length)
        return
    count = min(SAMPLE_SLABS, length)
    thickness = max(1, budget // count)
    for i in range(count):
        start = (2 * i + 1) * length // (2 * count) - thickness // 2
        yield slice(max(0, start), max(0, start) + thickness)
