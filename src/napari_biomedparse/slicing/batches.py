"""Bounded flow: a volume's slices to batches of network input, read ahead.

Memory depends on the batch, the chunks of the volume and the read-ahead, not on the
number of slices.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import accumulate
from queue import Full, Queue
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from napari_biomedparse.io.windows import can_spool, chunk_thickness, spool
from napari_biomedparse.slicing.geometry import (
    SliceGeometry,
    neighbour_index,
    stack_context,
)
from napari_biomedparse.slicing.read import explained, read_slices

if TYPE_CHECKING:
    from napari_biomedparse.data.volume import Volume
    from napari_biomedparse.slicing.intensity import Intensity

T = TypeVar("T")

READ_AHEAD = 2
"""Batches that wait, ready, for the network."""
SLAB_BYTES = 2**28
"""Chunks thicker than this many bytes along the slicing axis are taken in parts."""
_POLL_SECONDS = 0.1
_PATIENCE_SECONDS = 1.0


class SliceBatch(NamedTuple):
    """Consecutive slices, ready for the network.

    Attributes
    ----------
    start : int
        Index of the first one along the slicing axis.
    slices : int32 Tensor [B, 3, H, W]
    """

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

    Grey slices have their neighbours for channels. Colour slices have their own red,
    green and blue as channels 0, 1 and 2, and no neighbours.

    Parameters
    ----------
    volume : Volume
        Three axes, and a fourth for colours; read slab by slab as its chunks lie.
    geometry, intensity
        How slices become squares of grey levels.
    start, stop : int
        Range of slices. The neighbours of its ends are read too, where there are any.
    batch_size : int
        Slices a batch; the last one may be smaller.
    align : int, optional
        Batches also end at multiples of so many slices.
    pin : bool
        Put batches into pinned memory, from which a GPU copies without waiting.

    Yields
    ------
    SliceBatch

    Raises
    ------
    FormatError
        If a part of the volume cannot be read.
    """
    depth, margin = geometry.depth, 0 if volume.is_colour else 1
    first, last = _needed(start, stop, depth, margin)
    slabs = _thinly(_slabs(volume, geometry.axis, first, last, batch_size), batch_size)
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


def read_ahead(items: Iterable[T], depth: int = READ_AHEAD) -> Iterator[T]:
    """Iterate `items` in a thread, at most `depth` of them ahead.

    The order is kept. An error among the items is raised here, after the items that
    came before it. Closing the generator stops the thread and waits for it, but not
    for a disk that does not answer.

    Parameters
    ----------
    items : iterable
    depth : int

    Yields
    ------
    object
        Each of the items.
    """
    ready: Queue[tuple[str, Any]] = Queue(maxsize=depth)
    stopped = Event()

    def hand_over(kind: str, value: Any) -> bool:
        while not stopped.is_set():
            try:
                ready.put((kind, value), timeout=_POLL_SECONDS)
                return True
            except Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items:
                if not hand_over("item", item):
                    return
            hand_over("end", None)
        except BaseException as error:  # crosses the thread, raised by the reader
            hand_over("error", error)

    thread = Thread(target=work, name="napari-biomedparse reader", daemon=True)
    thread.start()
    try:
        while True:
            kind, value = ready.get()
            if kind == "end":
                return
            if kind == "error":
                raise value
            yield value
    finally:
        stopped.set()
        thread.join(_PATIENCE_SECONDS)


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
    """Range of the slices that slices `start` to `stop` and their context need."""
    return max(start - margin, 0), min(stop + margin, depth)


def _prepare(geometry: SliceGeometry, slab: npt.NDArray[Any]) -> Tensor:
    """Bring [n, Y, X] or, in colour, [n, Y, X, 3] to [n, H, W] or [n, 3, H, W]."""
    if slab.ndim == 3:
        return geometry.prepare(slab)
    planes = np.moveaxis(slab, -1, 1).reshape(-1, *geometry.plane_shape)
    prepared = geometry.prepare(planes)
    return prepared.reshape(len(slab), slab.shape[-1], *geometry.working_shape)


def _slabs(
    volume: Volume, axis: int, start: int, stop: int, batch_size: int
) -> Iterator[npt.NDArray[Any]]:
    """Yield [n, Y, X] or [n, Y, X, 3] parts of the range, ending where chunks end."""
    plane_bytes = volume.dtype.itemsize
    for i, size in enumerate(volume.shape):
        plane_bytes *= 1 if i == axis else size
    most = max(batch_size, SLAB_BYTES // plane_bytes)
    for chunk_stop in _chunk_stops(volume, axis, batch_size):
        end = min(chunk_stop, stop)
        if end - start > most and can_spool(volume.data, (end - start) * plane_bytes):
            with explained(volume, start, end):
                yield from spool(volume.data, axis, start, end, most)
            start = end
        while start < end:
            part = min(start + most, end)
            yield read_slices(volume, axis, start, part)
            start = part


def _thinly(
    slabs: Iterable[npt.NDArray[Any]], thickness: int
) -> Iterator[npt.NDArray[Any]]:
    """Hand on slabs in parts, as what is made of them takes many times their room."""
    for slab in slabs:
        for start in range(0, len(slab), thickness):
            yield slab[start : start + thickness]


def _chunk_stops(volume: Volume, axis: int, batch_size: int) -> Iterator[int]:
    """Where the volume's chunks end along an axis; without chunks, where batches do."""
    size = volume.shape[axis]
    chunks = getattr(volume.data, "chunks", None)
    if chunks is None:
        thickness = batch_size
    elif isinstance(chunks[axis], tuple):  # dask
        yield from accumulate(chunks[axis])
        return
    else:
        thickness = chunk_thickness(volume.data, axis)
    yield from range(thickness, size + thickness, thickness)
