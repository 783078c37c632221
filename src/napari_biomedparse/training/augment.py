"""Augmentation of slices in fine-tuning, as in the originals.

For v2 quarter turns, flips, crops and shifts by up to a tenth, brightness, Gaussian and
salt-and-pepper noise, and swapped neighbours; for v1 another scale, and quarter turns.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

SCALE = 0.1
"""Largest change of a slice's size for v1, by a factor."""


@dataclass(frozen=True)
class Variation:
    """Probabilities and ranges."""

    chance: float = 0.5  # probability of each kind of change
    crop: float = 0.1  # largest part cut off a side, and largest shift
    brightness: float = 0.1  # largest shift of the grey levels, as a fraction of 255
    noise: float = 10.0  # largest standard deviation, in grey levels
    specks: float = 0.01  # largest fraction of pixels that become black or white
    swap: bool = True  # whether the two neighbours may be swapped
    turn: bool = True  # whether slices are turned by quarters
    scale: float | None = None  # for v1 alone: largest change of the size by a factor


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

    size = labels.shape[-1]
    if options.scale is not None:
        turned = wanted() and options.turn
        side = round(size / rng.uniform(1 - options.scale, 1 + options.scale))
        picture, labels = _boxed(rng, picture, labels, side, max(0, side - size))
        turns = int(rng.integers(1, 4)) if turned else 0
        picture = torch.rot90(picture.round(), turns, (-2, -1))
        return picture.contiguous(), np.ascontiguousarray(np.rot90(labels, turns))
    turns = int(rng.integers(4)) if options.turn else 0
    picture = torch.rot90(picture, turns, (-2, -1))
    labels = np.rot90(labels, turns)
    for axis in (-2, -1):
        if wanted():
            picture, labels = picture.flip(axis), np.flip(labels, axis)
    if wanted() and options.swap:
        picture = picture[[0, 2, 1]]
    if wanted():
        side = size - round(size * options.crop * rng.random())
        reach = round(size * options.crop)
        picture, labels = _boxed(rng, picture, labels, side, reach)
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


def _boxed(
    rng: np.random.Generator,
    picture: Tensor,
    labels: npt.NDArray[np.int64],
    side: int,
    reach: int,
) -> tuple[Tensor, npt.NDArray[np.int64]]:
    """Resize a box of a slice, anywhere in it and its black margin, to its size."""
    size = labels.shape[-1]
    top, left = rng.integers(0, size + 2 * reach - side + 1, 2).tolist()
    window = (..., slice(top, top + side), slice(left, left + side))
    margin = F.pad(picture, (reach,) * 4)[window]
    part = F.interpolate(margin[None], (size, size), mode="bicubic")[0]
    return part.clamp(0, 255), resized(np.pad(labels, reach)[window], size)


def resized(labels: npt.NDArray[np.int64], size: int) -> npt.NDArray[np.int64]:
    """Resize labels to a square: each pixel takes the voxel at its centre."""
    rows, columns = (
        ((np.arange(size) + 0.5) * length / size).astype(np.intp)
        for length in labels.shape
    )
    result: npt.NDArray[np.int64] = labels[np.ix_(rows, columns)]
    return result


def shrunk(labels: npt.NDArray[np.int64], size: int) -> npt.NDArray[np.int64]:
    """Resize labels to a square by the nearest voxel, as `torch` does.

    What would be lost as a whole is where any of its voxels is (adaptive maximum).
    """
    whole = torch.from_numpy(labels)[None, None]
    small = F.interpolate(whole.float(), size, mode="nearest")[0, 0].long()
    for value in np.setdiff1d(labels, small.numpy()):
        found = F.adaptive_max_pool2d((whole == value).float(), size)[0, 0] > 0
        small[found & (small == 0)] = int(value)
    return small.numpy()


def _speckled(rng: np.random.Generator, picture: Tensor, share: float) -> Tensor:
    """Make some pixels black and some white (salt and pepper)."""
    level = share * rng.random()
    drawn = torch.from_numpy(rng.random(tuple(picture.shape), np.float32))
    picture = torch.where(drawn < level / 2, 0.0, picture)
    return torch.where(drawn > 1 - level / 2, 255.0, picture)
