"""From a volume's slices to batches of network input.

Memory depends on the batch and the chunks of the volume, not on the number of slices.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from napari_biomedparse.slicing.geometry import (
    SliceGeometry,
    neighbour_index,
    stack_context,
)
from napari_biomedparse.slicing.read import read_slabs

if TYPE_CHECKING:
    from napari_biomedparse.data.volume import Volume
    from napari_biomedparse.slicing.intensity import Intensity


class SliceBatch(NamedTuple):
    """Consecutive slices from `start`, ready for the network: int32 [B, 3, H, W]."""

    start: int
    slices: Tensor


def slice_batches(
    volume: Volume,
    geometry: SliceGeometry,
    intensity: Intensity,
    start: int,
    stop: int,
    batch_size: int,
    *,
    align: int | None = None,
    pin: bool = False,
) -> Iterator[SliceBatch]:
    """Read slices and prepare them for the network, each once.

    Channels of grey slices are the slice and its two neighbours, of colour slices their
    own red, green and blue.

    Parameters
    ----------
    volume : Volume
        Three axes, and a fourth for colours; read chunk by chunk.
    geometry, intensity
        How slices become squares of grey levels.
    start, stop : int
        Range of slices. The neighbours of its ends are read too, where they exist.
    batch_size : int
        Slices per batch; the last one may be smaller.
    align : int, optional
        Batches also end at multiples of this.
    pin : bool
        Put batches into pinned memory, from which a GPU copies without waiting.

    Raises
    ------
    FormatError
        If a part of the volume cannot be read.
    """
    depth, margin = geometry.depth, 0 if volume.is_colour else 1
    first, last = _needed(start, stop, depth, margin)
    slabs = read_slabs(volume, geometry.axis, first, last, batch_size)
    window, window_start = torch.empty(0, dtype=torch.int32), first
    for begin, end in _batches(start, stop, batch_size, align):
        low, high = _needed(begin, end, depth, margin)
        parts = [window[low - window_start :]] if len(window) else []
        while low + sum(len(part) for part in parts) < high:
            parts.append(_prepare(geometry, intensity.apply(next(slabs))))
        window, window_start = torch.cat(parts), low
        if volume.is_colour:
            slices = window[: end - begin]
        else:
            around = range(begin - 1, end + 1)
            slices = stack_context(
                window[[neighbour_index(i, depth) - low for i in around]]
            )
        yield SliceBatch(begin, slices.pin_memory() if pin else slices)


def _batches(
    start: int, stop: int, batch_size: int, align: int | None
) -> Iterator[tuple[int, int]]:
    """Yield where each batch begins and ends."""
    while start < stop:
        end = min(start + batch_size, stop)
        if align is not None:
            end = min(end, (start // align + 1) * align)
        yield start, end
        start = end


def _needed(start: int, stop: int, depth: int, margin: int) -> tuple[int, int]:
    """Return the range that slices `start` to `stop` and their neighbours need."""
    return max(start - margin, 0), min(stop + margin, depth)


def _prepare(geometry: SliceGeometry, slab: npt.NDArray[Any]) -> Tensor:
    """Bring [n, Y, X] or, in colour, [n, Y, X, 3] to [n, H, W] or [n, 3, H, W]."""
    if slab.ndim == 3:
        return geometry.prepare(slab)
    planes = np.moveaxis(slab, -1, 1).reshape(-1, *geometry.plane_shape)
    prepared = geometry.prepare(planes)
    return prepared.reshape(len(slab), slab.shape[-1], *geometry.working_shape)
