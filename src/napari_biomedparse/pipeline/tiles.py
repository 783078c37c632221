"""Slices larger than the network's input: overlapping tiles, blended into one.

Tiles start at multiples of a mask logit's cell, so that the logits of all tiles of a
slice lie on one grid. They are blended there, before any threshold: weights fall
linearly to zero towards a tile's borders, and no seam remains to be seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from napari_biomedparse.engine.engine import SlicePrediction
from napari_biomedparse.labels.resolve import likely
from napari_biomedparse.slicing.geometry import CELL

OVERLAP = 0.25
"""Share of a tile's edge that at least is also covered by its neighbour."""


@dataclass(frozen=True)
class TileGrid:
    """Where the tiles of a slice lie.

    Parameters
    ----------
    shape : tuple of two int
        Rows H and columns W of the slice, in network pixels.
    size : int
        Edge length S of a tile, in network pixels.
    """

    shape: tuple[int, int]
    size: int

    @property
    def corners(self) -> tuple[tuple[int, int], ...]:
        """First row and column of each tile, row by row."""
        rows, columns = (_starts(length, self.size) for length in self.shape)
        return tuple(product(rows, columns))

    @property
    def is_single(self) -> bool:
        """Whether one tile is the whole slice."""
        return self.shape == (self.size, self.size)


def predict_tiles(
    predict: Callable[[Tensor], SlicePrediction],
    slices: Tensor,
    grid: TileGrid,
    *,
    batch_size: int,
    existence_threshold: float,
) -> SlicePrediction:
    """Predict slices tile by tile.

    Where the network says that a prompt's target is not in a tile, that tile speaks
    against the target wherever its mask logits spoke for it, and has its weight in
    the blend.

    Parameters
    ----------
    predict : callable
        Takes tiles [n, 3, S, S]; an `Engine.predict` with its prompts.
    slices : Tensor [B, 3, H, W]
    grid : TileGrid
    batch_size : int
        Tiles at a time.
    existence_threshold : float
        Probability, 0 to 1.

    Returns
    -------
    SlicePrediction
        Mask and edge logits [B, P, H / 4, W / 4]; existence [B, P] is that of the
        tile most sure of it.
    """
    return SlicePrediction(
        *map(
            torch.stack,
            zip(
                *(
                    _predict_slice(predict, one, grid, batch_size, existence_threshold)
                    for one in slices
                ),
                strict=True,
            ),
        )
    )


def _predict_slice(
    predict: Callable[[Tensor], SlicePrediction],
    one: Tensor,
    grid: TileGrid,
    batch_size: int,
    existence_threshold: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Predict one slice [3, H, W]; returns its part of a `SlicePrediction`."""
    size, cells = grid.size, grid.size // CELL
    weight = _weight(cells)
    total = torch.zeros(grid.shape[0] // CELL, grid.shape[1] // CELL)
    blended, existence = None, []
    corners = grid.corners
    for start in range(0, len(corners), batch_size):
        some = corners[start : start + batch_size]
        tiles = torch.stack([one[:, y : y + size, x : x + size] for y, x in some])
        found = predict(tiles)
        existence.append(found.existence)
        logits = torch.stack([found.mask_logits, found.edge_logits], dim=1)
        absent = ~likely(found.existence, existence_threshold)  # [n, P]
        logits = torch.where(absent[:, None, :, None, None], -logits.abs(), logits)
        if blended is None:
            weight, total = weight.to(logits.device), total.to(logits.device)
            blended = logits.new_zeros((2, logits.shape[2], *total.shape))
        for (y, x), tile in zip(some, logits, strict=True):
            rows = slice(y // CELL, y // CELL + cells)
            columns = slice(x // CELL, x // CELL + cells)
            blended[..., rows, columns] += weight * tile
            total[rows, columns] += weight
    assert blended is not None  # a grid has at least one tile
    mask, edge = blended / total
    return mask, edge, torch.cat(existence).amax(dim=0)


def _starts(length: int, size: int) -> list[int]:
    """Evenly spaced tile starts along one axis, multiples of a cell."""
    spare = length - size
    count = math.ceil(spare / (size * (1 - OVERLAP))) + 1
    steps = max(count - 1, 1)
    return [CELL * round(i * spare / steps / CELL) for i in range(count)]


def _weight(cells: int) -> Tensor:
    """Weight of a tile's logits [cells, cells], rising from its borders inwards."""
    place = torch.arange(cells)
    to_border = torch.minimum(place, cells - 1 - place) + 0.5
    ramp = (to_border / (OVERLAP * cells)).clamp(max=1.0)
    return ramp[:, None] * ramp
