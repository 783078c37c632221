"""How a volume is cut into slices by the options, and what the network sees of them.

Memory depends on the batch and the chunks of the volume, not on the number of slices.
torch is imported where tensors are made.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from napari_biomedparse.data.options import SegmentOptions, parse_region
from napari_biomedparse.data.volume import Volume, VolumeLike, as_volume
from napari_biomedparse.errors import (
    BiomedParseError,
    DeviceError,
    FormatError,
    OptionError,
    check_shortage,
)
from napari_biomedparse.io.formats.units import with_voxel_size
from napari_biomedparse.io.lazy import can_spool, chunk_thickness, spool
from napari_biomedparse.slicing.geometry import (
    AS_STORED,
    SliceGeometry,
    Turn,
    neighbour_index,
    plan_slices,
    published,
    radiological,
    stack_context,
)
from napari_biomedparse.slicing.intensity import Intensity, choose_intensity

if TYPE_CHECKING:
    from torch import Tensor


PUBLISHED_SIZE = 512  # edge length of the published network's input
LARGE_SLICE = 1024
"""Pixels of a slice's longer edge above which it is cut into tiles by default."""
SLAB_BYTES = 2**28
"""Chunks thicker than this many bytes along the slicing axis are read in parts."""
SLABS_KEPT = 4  # slabs that `keep_slabs` keeps: of both directions, and their ends
KEPT_BYTES = 2**26  # largest slab that it keeps


Slabs = Iterator[npt.NDArray[Any]]
Seen = Callable[[int, Slabs], Slabs]
"""Looks at slabs, the first of which begins at a slice, and passes them on."""


class SliceBatch(NamedTuple):
    """Consecutive slices from `start`, ready for the network: [B, 3, H, W].

    Of the type that `SliceGeometry.prepare` returns.
    """

    start: int
    slices: Tensor
    levels: list[npt.NDArray[Any]]
    """Of slices read alone, their grey levels or colours in their own grid."""


def region_of(volume: Volume, options: SegmentOptions) -> Volume:
    """Return the region of a volume that the options name, with their voxel size."""
    region = options.region
    if options.voxel_size is not None:
        volume = with_voxel_size(volume, options.voxel_size)
    return volume if region is None else volume.crop(**parse_region(region))


def slice_geometry(
    volume: Volume, options: SegmentOptions, size: int, *, alone: bool = False
) -> SliceGeometry:
    """Choose between whole slices and tiles, and the scale of the latter.

    `size` is the edge length of the network's input. If there is no such axis, or the
    pixel size cannot be used, an `OptionError` is raised.
    """
    if alone and options.mode == "3d":
        raise OptionError(
            "BiomedParse v1 reads slices by themselves; leave the mode at auto."
        )
    axis = _slicing_axis(volume, options.axis)
    image = volume.is_colour or volume.flat
    planar = not alone and (options.mode == "2d" or (options.mode == "auto" and image))
    whole = plan_slices(volume.grid, size, axis, alone=alone)
    turn = _turn(volume, whole.axis, options.orientation, alone=alone)
    scale = None
    if options.pixel_size is not None:
        scale = _scale(volume, whole.axis, options.pixel_size)
        scale = scale[::-1] if turn.swap else scale
    elif options.tile != "none" and (
        options.tile != "auto"
        or max(whole.plane_shape) > max(LARGE_SLICE, 2 * size if alone else 0)
    ):
        tile = size if options.tile == "auto" else int(options.tile)
        scale = (size / tile, size / tile)
    return plan_slices(
        volume.grid, size, whole.axis, scale, alone=alone, planar=planar, turn=turn
    )


def _turn(volume: Volume, axis: int, orientation: str, *, alone: bool) -> Turn:
    """Return how slices are turned."""
    if orientation == "published":
        return published(alone=alone, nifti=volume.header is not None)
    if orientation == "stored":
        return AS_STORED
    known = [d for i, d in enumerate(volume.directions[:3]) if i != axis]
    if not known or not all(map(any, known)):
        raise OptionError(
            f"{volume.name} does not say where left and right, front and back, head "
            "and feet are along the axes of its slices, so they cannot be turned "
            "upright; leave the orientation at published, or choose stored."
        )
    return radiological(np.array(known))


def _slicing_axis(volume: Volume, axis: int | str | None) -> int | None:
    """Return an axis by number; a colour volume is cut into the slices it came in."""
    if axis is None:
        return 0 if volume.is_colour else None
    if not isinstance(axis, str):
        return int(axis)
    if axis not in volume.axes:
        raise OptionError(
            f"Slicing axis (axis) is {axis}, but {volume.name} has the axes "
            f"{', '.join(volume.axes[:3])}; choose one of these."
        )
    return volume.axes.index(axis)


def _scale(volume: Volume, axis: int, pixel_size: float) -> tuple[float, float]:
    """Network pixels per voxel, along rows and columns, for a given pixel size."""
    rows, columns = (i for i in range(3) if i != axis)
    if "pixel" in (volume.units[rows], volume.units[columns]):
        raise OptionError(
            f"{volume.name} has no voxel size, so a pixel size cannot be used; set the "
            "tile in pixels instead, or give the volume a spacing."
        )
    return volume.spacing[rows] / pixel_size, volume.spacing[columns] / pixel_size


def read_slices(volume: Volume, axis: int, start: int, stop: int) -> npt.NDArray[Any]:
    """Read slices along an axis, [n, Y, X] or, in colour, [n, Y, X, 3].

    A `FormatError` names those that cannot be read.
    """
    where = tuple(
        slice(start, stop) if i == axis else slice(None)
        for i in range(len(volume.axes))
    )
    with explained(volume, start, stop):
        slab = np.asarray(volume.data[where])
    return np.moveaxis(slab, axis, 0)


def _plane_bytes(volume: Volume, axis: int) -> int:
    return volume.dtype.itemsize * math.prod(volume.shape) // volume.shape[axis]


def read_slabs(
    volume: Volume, axis: int, start: int, stop: int, batch_size: int
) -> Iterator[npt.NDArray[Any]]:
    """Read a range of slices chunk by chunk, each chunk once.

    Yields [n, Y, X] or, in colour, [n, Y, X, 3], of a batch of slices at most: what is
    made of them takes many times their room.
    """
    for slab in _slabs(volume, axis, start, stop, batch_size):
        for first in range(0, len(slab), batch_size):
            yield slab[first : first + batch_size]


def _slabs(
    volume: Volume, axis: int, start: int, stop: int, batch_size: int
) -> Iterator[npt.NDArray[Any]]:
    """Yield [n, Y, X] or [n, Y, X, 3] parts of the range, ending where chunks end."""
    plane = _plane_bytes(volume, axis)
    most = max(batch_size, SLAB_BYTES // plane)
    for chunk_stop in _chunk_stops(volume, axis, batch_size):
        end = min(chunk_stop, stop)
        if end - start > most and can_spool(volume.data, (end - start) * plane):
            with explained(volume, start, end):
                yield from spool(volume.data, axis, start, end, most)
            start = end
        while start < end:
            part = min(start + most, end)
            yield read_slices(volume, axis, start, part)
            start = part


def _chunk_stops(volume: Volume, axis: int, batch_size: int) -> Iterator[int]:
    """Yield where chunks end along an axis; without chunks, where batches do."""
    chunks = getattr(volume.data, "chunks", None)
    if chunks is not None and isinstance(chunks[axis], tuple):  # dask
        yield from accumulate(chunks[axis])
        return
    thickness = batch_size if chunks is None else chunk_thickness(volume.data, axis)
    yield from range(thickness, volume.shape[axis] + thickness, thickness)


def keep_slabs(volume: Volume, axis: int, size: int) -> Volume:
    """Return a volume that keeps the chunks read last if they are thicker than `size`.

    For batches of `size` slices that are not read in ascending order.
    """
    plane = _plane_bytes(volume, axis)
    thickness = min(chunk_thickness(volume.data, axis), KEPT_BYTES // plane)
    if thickness <= size:
        return volume
    return replace(volume, data=_KeptSlabs(volume, axis, thickness))


class _KeptSlabs:
    """A lazy array of which the slabs of `thickness` slices read last are kept."""

    def __init__(self, volume: Volume, axis: int, thickness: int) -> None:
        self.shape, self.dtype = volume.shape, volume.dtype
        self._axis, self._thickness = axis, thickness
        depth = self.shape[axis]

        def read_slab(begin: int) -> npt.NDArray[Any]:
            return read_slices(volume, axis, begin, min(begin + thickness, depth))

        self._slab = lru_cache(SLABS_KEPT)(read_slab)

    def __getitem__(self, where: tuple[slice, ...]) -> npt.NDArray[Any]:
        """Return slices `start` to `stop`; all of the other axes."""
        start, stop = where[self._axis].start, where[self._axis].stop
        parts = []
        for first in range(start // self._thickness, -(-stop // self._thickness)):
            begin = first * self._thickness
            slab = self._slab(begin)
            parts.append(slab[max(start - begin, 0) : stop - begin])
        return np.moveaxis(np.concatenate(parts), 0, self._axis)


@contextmanager
def explained(volume: Volume, start: int, stop: int) -> Iterator[None]:
    """Name the slices in any error of reading them."""
    try:
        yield
    except BiomedParseError:
        raise
    except MemoryError as error:
        raise DeviceError(
            f"There is not enough memory to read slices {start} to {stop - 1} of "
            f"{volume.source or volume.name}; close other programs and try again."
        ) from error
    except Exception as error:
        check_shortage(error)
        raise FormatError(
            f"{volume.source or volume.name}: slices {start} to {stop - 1} cannot be "
            f"read ({type(error).__name__}: {error}). The file may be damaged or "
            "moved; check it, or leave these slices out."
        ) from error


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
    seen: Seen | None = None,
) -> Iterator[SliceBatch]:
    """Read slices `start` to `stop` and prepare them for the network, each once.

    The volume of three axes, and a fourth for colours, is read chunk by chunk. Channels
    of grey slices are the slice and its two neighbours, which are read too where they
    exist, of colour slices their own red, green and blue, and of slices read alone or
    as images the slice three times. The last batch may be
    smaller; with `align` batches also end at its multiples. With `pin` they are put
    into pinned memory, from which a GPU copies without waiting. `seen` is shown all
    that is read. A `FormatError` is raised if a part of the volume cannot be read.
    """
    import torch

    depth = geometry.depth
    margin = margin_of(volume, geometry)
    first, last = needed_slices(start, stop, depth, margin)
    slabs = read_slabs(volume, geometry.axis, first, last, batch_size)
    slabs = slabs if seen is None else seen(first, slabs)
    window, window_start = torch.empty(0, dtype=torch.int32), first
    begin, alone = start, list[npt.NDArray[Any]]()
    while begin < stop:
        end = min(begin + batch_size, stop)
        if align is not None:
            end = min(end, (begin // align + 1) * align)
        low, high = needed_slices(begin, end, depth, margin)
        parts = [window[low - window_start :]] if len(window) else []
        while low + sum(len(part) for part in parts) < high:
            levels = intensity.apply(next(slabs))
            parts.append(_prepare(geometry, levels))
            alone += list(levels) if geometry.alone else []
        window, window_start = torch.cat(parts), low
        if volume.is_colour:
            slices = window[: end - begin]
        elif geometry.alone or geometry.planar:
            slices = window[: end - begin, None].repeat(1, 3, 1, 1)
        else:
            around = range(begin - 1, end + 1)
            slices = stack_context(
                window[[neighbour_index(i, depth) - low for i in around]]
            )
        now, alone = alone[: end - begin], alone[end - begin :]
        yield SliceBatch(begin, slices.pin_memory() if pin else slices, now)
        begin = end


def margin_of(volume: Volume, geometry: SliceGeometry) -> int:
    """Return how many neighbours a slice is read with, on either side."""
    return 0 if volume.is_colour or geometry.alone or geometry.planar else 1


def needed_slices(start: int, stop: int, depth: int, margin: int) -> tuple[int, int]:
    """Return the range that slices `start` to `stop` and their neighbours need."""
    return max(start - margin, 0), min(stop + margin, depth)


def _prepare(geometry: SliceGeometry, slab: npt.NDArray[Any]) -> Tensor:
    """Bring [n, Y, X] or, in colour, [n, Y, X, 3] to [n, H, W] or [n, 3, H, W]."""
    if slab.ndim == 3:
        return geometry.prepare(slab)
    planes = np.moveaxis(slab, -1, 1).reshape(-1, *geometry.plane_shape)
    prepared = geometry.prepare(planes)
    return prepared.reshape(len(slab), slab.shape[-1], *geometry.working_shape)


def seen_slice(
    volume: VolumeLike,
    options: SegmentOptions,
    index: int,
    *,
    intensity: Intensity | None = None,
    size: int = PUBLISHED_SIZE,
    alone: bool = False,
) -> npt.NDArray[np.uint8]:
    """Return a slice with the grey levels and the padding that the network gets.

    The result is that of `grey_slice`, padded but not resized; see `alone`. `volume`
    and errors are as for `segment`; `index` is along the slicing axis of the region, an
    `OptionError` if there is no such slice. `intensity` is an earlier result of
    `choose_intensity`, which may take seconds for a large volume. The edge length
    `size` of the network's input affects the padding of slices that are cut into tiles.
    A network that reads slices `alone` gets them squashed to a square, which is then
    the result.
    """
    volume = region_of(as_volume(volume, axes=options.axes), options)
    geometry = slice_geometry(volume, options, size, alone=alone)
    if not 0 <= index < geometry.depth:
        raise OptionError(
            f"{volume.name} has no slice {index} along axis "
            f"{volume.axes[geometry.axis]}; choose 0 to {geometry.depth - 1}."
        )
    if intensity is None:
        intensity = choose_intensity(volume.data, options.modality)
    grey = grey_slice(volume, geometry.axis, index, intensity)
    turned = geometry.turn.forth(np.moveaxis(grey, (0, 1), (-2, -1)))
    grey = np.moveaxis(turned, (-2, -1), (0, 1))
    if alone:
        from PIL import Image

        rows, columns = geometry.working_shape
        squashed = Image.fromarray(grey).resize(
            (columns, rows), Image.Resampling.BICUBIC
        )
        return np.asarray(squashed)
    return np.pad(grey, (*geometry.pad, (0, 0))[: grey.ndim])


def grey_slice(
    volume: Volume, axis: int, at: int, intensity: Intensity
) -> npt.NDArray[np.uint8]:
    """Return the grey levels of a slice, uint8 [Y, X] or, in colour, [Y, X, 3].

    Values that the network gets unchanged are clipped to 0 to 255.
    """
    values = intensity.apply(read_slices(volume, axis, at, at + 1))[0]
    return np.asarray(np.clip(values, 0, 255).astype(np.uint8))
