"""Augmentation of slices in fine-tuning, as in the original.

Quarter turns, flips, crops and shifts by up to a tenth, brightness, Gaussian and
salt-and-pepper noise, and swapped neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Variation:
    """Probabilities and ranges."""

    chance: float = 0.5  # probability of each kind of change
    crop: float = 0.1  # largest part cut off a side, and largest shift
    brightness: float = 0.1  # largest shift of the grey levels, as a fraction of 255
    noise: float = 10.0  # largest standard deviation, in grey levels
    specks: float = 0.01  # largest fraction of pixels that become black or white
    swap: bool = True  # whether the two neighbours may be swapped


def vary(
    rng: np.random.Generator,
    picture: Tensor,
    labels: npt.NDArray[np.int64],
    options: Variation,
) -> tuple[Tensor, npt.NDArray[np.int64]]:
    """Augment a slice [3, S, S] of grey levels 0 to 255, and its labels [S, S].

    The result has whole grey levels and depends on the state of `rng` alone.
    """

    def wanted() -> bool:
        return bool(rng.random() < options.chance)

    turns = int(rng.integers(4))
    picture = torch.rot90(picture, turns, (-2, -1))
    labels = np.rot90(labels, turns)
    for axis in (-2, -1):
        if wanted():
            picture, labels = picture.flip(axis), np.flip(labels, axis)
    if wanted() and options.swap:
        picture = picture[[0, 2, 1]]
    if wanted():
        picture, labels = _cropped(rng, picture, labels, options.crop)
    black = picture == 0  # padding or air, which stays black in a real slice
    if wanted():
        picture = picture + 255.0 * rng.uniform(-1, 1) * options.brightness
    if wanted():
        noise = rng.standard_normal(tuple(picture.shape), np.float32)
        picture = picture + torch.from_numpy(noise) * rng.uniform(0, options.noise)
    picture = picture.clamp(0, 255).round() * ~black
    if wanted():
        picture = _speckled(rng, picture, options.specks)
    return picture.contiguous(), np.ascontiguousarray(labels)


def _cropped(
    rng: np.random.Generator,
    picture: Tensor,
    labels: npt.NDArray[np.int64],
    amount: float,
) -> tuple[Tensor, npt.NDArray[np.int64]]:
    """Crop a shifted square, black beyond the border, and enlarge it."""
    size = labels.shape[-1]
    side = size - round(size * amount * rng.random())
    reach = round(size * amount)
    margin = F.pad(picture, (reach,) * 4)
    top, left = rng.integers(0, size + 2 * reach - side + 1, 2).tolist()
    window = (..., slice(top, top + side), slice(left, left + side))
    part = F.interpolate(margin[window][None], (size, size), mode="bicubic")[0]
    return part.clamp(0, 255), resized(np.pad(labels, reach)[window], size)


def resized(labels: npt.NDArray[np.int64], size: int) -> npt.NDArray[np.int64]:
    """Resize square labels: each pixel takes the voxel at its centre."""
    index = ((np.arange(size) + 0.5) * len(labels) / size).astype(np.intp)
    result: npt.NDArray[np.int64] = labels[np.ix_(index, index)]
    return result


def _speckled(rng: np.random.Generator, picture: Tensor, share: float) -> Tensor:
    """Make some pixels black and some white (salt and pepper)."""
    level = share * rng.random()
    drawn = torch.from_numpy(rng.random(tuple(picture.shape), np.float32))
    picture = torch.where(drawn < level / 2, 0.0, picture)
    return torch.where(drawn > 1 - level / 2, 255.0, picture)
