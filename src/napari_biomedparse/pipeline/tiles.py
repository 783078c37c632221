"""Slices larger than the network's input: overlapping tiles, blended into one.

Tiles start at multiples of a mask logit's cell, so that the logits of all tiles of a
slice lie on one grid. They are blended there, before any threshold, with weights that
fall linearly to zero towards a tile's borders, so that no seam is visible.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from napari_biomedparse.engine.engine import SlicePrediction
from napari_biomedparse.labels.resolve import likely
from napari_biomedparse.slicing.geometry import OVERLAP, TileGrid


def predict_tiles(
    predict: Callable[[Tensor], SlicePrediction],
    slices: Tensor,
    grid: TileGrid,
    *,
    batch_size: int,
    existence_threshold: float,
) -> SlicePrediction:
    """Predict slices [B, 3, H, W] tile by tile, `batch_size` tiles at a time.

    Where a prompt's existence is below the threshold in a tile, the tile's mask logits
    count against the prompt wherever they were in favour, with their usual weight.
    Logits are [B, P, H / 4, W / 4], or [B, P, H, W] of a taught network; existence is
    that of the tile with the highest.
    """
    each = (
        _predict_slice(predict, one, grid, batch_size, existence_threshold)
        for one in slices
    )
    return SlicePrediction(*map(torch.stack, zip(*each, strict=True)))


def _predict_slice(
    predict: Callable[[Tensor], SlicePrediction],
    one: Tensor,
    grid: TileGrid,
    batch_size: int,
    existence_threshold: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Predict one slice [3, H, W]; return its part of a `SlicePrediction`."""
    size = grid.size
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
            cells = logits.shape[-1]
            cell = size // cells
            weight = _weight(cells).to(logits.device)
            total = logits.new_zeros(grid.shape[0] // cell, grid.shape[1] // cell)
            blended = logits.new_zeros((2, logits.shape[2], *total.shape))
        for (y, x), tile in zip(some, logits, strict=True):
            rows = slice(y // cell, y // cell + cells)
            columns = slice(x // cell, x // cell + cells)
            blended[..., rows, columns] += weight * tile
            total[rows, columns] += weight
    assert blended is not None  # a grid has at least one tile
    mask, edge = blended / total
    return mask, edge, torch.cat(existence).amax(dim=0)


def _weight(cells: int) -> Tensor:
    """Weight of a tile's logits [cells, cells], rising from its borders inwards."""
    place = torch.arange(cells)
    to_border = torch.minimum(place, cells - 1 - place) + 0.5
    ramp = (to_border / (OVERLAP * cells)).clamp(max=1.0)
    return ramp[:, None] * ramp
