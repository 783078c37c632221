"""How slices are varied in fine-tuning, as in the original.

Quarter turns, flips, a part of the slice shifted by up to a tenth, brightness, Gaussian
and salt-and-pepper noise, and swapped neighbours. All of it follows from the generator
that is given.
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
    """Chances and ranges.

    Parameters
    ----------
    chance : float
        Of each kind of change by itself.
    crop : float
        Largest part of the side that is cut off, and largest shift, both relative.
    brightness : float
        Largest shift of the grey levels, in parts of 255.
    noise : float
        Largest standard deviation of Gaussian noise, in grey levels.
    specks : float
        Largest share of pixels that become black or white.
    swap : bool
        Whether the two neighbours may change places.
    """

    chance: float = 0.5
    crop: float = 0.1
    brightness: float = 0.1
    noise: float = 10.0
    specks: float = 0.01
    swap: bool = True


def vary(
    rng: np.random.Generator,
    picture: Tensor,
    labels: npt.NDArray[np.int64],
    options: Variation,
) -> tuple[Tensor, npt.NDArray[np.int64]]:
    """Vary a slice.

    Parameters
    ----------
    rng : numpy.random.Generator
    picture : float Tensor [3, S, S]
        Grey levels 0 to 255: slice, previous, next.
    labels : int64 ndarray [S, S]
    options : Variation

    Returns
    -------
    picture, labels
        As they came in, but varied; the picture has whole grey levels.
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
    black = picture == 0  # padding, air: never anything else in a real slice
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
    """Take a smaller square somewhere else, black beyond the border, and enlarge it."""
    size = labels.shape[-1]
    side = size - round(size * amount * rng.random())
    reach = round(size * amount)
    margin = F.pad(picture, (reach,) * 4)
    top, left = rng.integers(0, size + 2 * reach - side + 1, 2).tolist()
    window = (..., slice(top, top + side), slice(left, left + side))
    part = F.interpolate(margin[window][None], (size, size), mode="bicubic")[0]
    source = np.pad(labels, reach)[window]
    index = ((np.arange(size) + 0.5) * side / size).astype(np.intp)
    return part.clamp(0, 255), source[np.ix_(index, index)]


def _speckled(rng: np.random.Generator, picture: Tensor, share: float) -> Tensor:
    """Make some pixels black and some white (salt and pepper)."""
    level = share * rng.random()
    drawn = torch.from_numpy(rng.random(tuple(picture.shape), np.float32))
    picture = torch.where(drawn < level / 2, 0.0, picture)
    return torch.where(drawn > 1 - level / 2, 255.0, picture)
