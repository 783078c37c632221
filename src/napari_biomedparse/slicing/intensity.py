"""Scaling of a volume's values to the 0 to 255 that the network was trained on.

Source of the percentiles and of the CT windows in `data.options`: the documented
preparation of the training data (CVPR 2025 text-guided segmentation challenge), and of
`stretched`: section 2 of the architecture description of BiomedParse v1.
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
    each_slice: bool = False  # whether each slice is then stretched, see `stretched`

    def apply(self, planes: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Map the values of slices [B, Y, X] of any integer or real dtype.

        The result [B, Y, X] is uint8, the nearest grey level (halves to the even one);
        with the method ``none`` the values and dtype as they came. NaN becomes 0, minus
        infinity 0 and plus infinity 255. If `low` equals `high`, larger values become
        255 and all others 0. With `each_slice`, see `stretched`, cut off to whole ones.
        """
        if self.method == "none":
            if planes.dtype.kind != "f" or np.isfinite(planes).all():
                return planes
            return np.asarray(np.nan_to_num(planes, nan=0.0, posinf=255.0, neginf=0.0))
        mapped = np.empty(planes.shape, np.uint8)
        for plane, target in zip(planes, mapped, strict=True):
            if self.each_slice:
                window = (self.low, self.high) if self.method == "window" else None
                target[...] = stretched(plane, window)
            elif self.low < self.high:
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
        if self.each_slice:
            text += ", of each slice, whose lowest and highest value become 0 and 255"
        elif self.method != "none":
            text += f": {self.low:.6g} to {self.high:.6g} become 0 to 255"
        return f"{text}. {self.hint}" if self.hint else text


def stretched(
    plane: npt.NDArray[Any], window: tuple[float, float] | None = None
) -> npt.NDArray[np.floating[Any]]:
    """Clip a slice [Y, X], and stretch what is left to 0 to 255, as v1's readers do.

    The range is a `window`, or else from the 0.5 to the 99.5 percentile of the values
    above 0. The result is float32 for such a slice, else float64, and all 0 for one
    with a single value, or without values above 0, which the readers refuse.
    """
    values = plane
    with np.errstate(over="ignore"):  # to infinity, and distances of such values
        if plane.dtype.kind == "f" and plane.dtype != np.float32:
            values = plane.astype(np.float64)
        if plane.dtype.kind == "f":
            values = np.nan_to_num(values)
        low, high = window or (0, 0)
        if window is None and (values > 0).any():
            above = values[values > 0]  # one by one, so that float32 stays float32
            low, high = (np.percentile(above, share) for share in PERCENTILES)
        values = np.clip(values, low, high)
        lowest, highest = values.min(), values.max()
        if not np.isfinite(highest - lowest):
            values, lowest, highest = values / 2, lowest / 2, highest / 2
    if lowest == highest:
        return np.zeros(plane.shape, np.float32)
    return np.asarray((values - lowest) / (highest - lowest) * 255)


def choose_intensity(data: ArrayLike, modality: str = "auto") -> Intensity:
    """Decide how a volume's values are scaled to 0 to 255.

    8-bit unsigned values are used as they are, unless each slice is to be stretched. CT
    is windowed; other images are clipped to their 0.5 and 99.5 percentiles (where these
    coincide, as in sparse images, to their lowest and highest value), or those of their
    positive values. Percentiles are exact up to 2**24 voxels; of larger
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
    each = MODALITIES[modality].each_slice and len(data.shape) == 3
    if dtype == np.uint8 and not each:
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
        label = f"{chosen.label} window"
        if each:
            label = "{}: {:g} to {:g}".format(label.partition(":")[0], *chosen.window)
        return Intensity("window", *chosen.window, label, hint, each_slice=each)
    if each:
        label = "percentiles {} to {} of positive values".format(*PERCENTILES)
        return Intensity("percentile", label=label, each_slice=True)
    return _spread(data, dtype, positive=chosen.positive)


def _spread(data: ArrayLike, dtype: np.dtype[Any], *, positive: bool) -> Intensity:
    """Choose the range from percentiles of the data, or of its `positive` values."""
    values = _sample(data)
    if positive:
        values = values[values > 0]
        if values.size == 0:
            raise VolumeError(
                "The volume has no values above 0 in the part that was sampled; choose "
                "the modality auto, or the region that holds data."
            )
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
        label += " of positive values" * positive
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
