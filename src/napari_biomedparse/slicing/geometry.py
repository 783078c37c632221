"""From a volume's slices to squares of the network's size, and back.

Slices are planes, with the slicing axis moved to the front. Source: section 1 of the
architecture description. torch is imported where tensors are made, so that forms can
determine the slicing axis without it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from napari_biomedparse.errors import OptionError, VolumeError

if TYPE_CHECKING:
    import torch

CELL = 4  # network pixels that share one mask logit along each axis
OVERLAP = 0.25  # minimum share of a tile's edge that its neighbour also covers
RESIZABLE = ("uint8", "float16", "float32", "float64")
_Planes = TypeVar("_Planes", npt.NDArray[Any], "torch.Tensor")


def choose_axis(shape: tuple[int, ...]) -> int:
    """Choose the axis along which a volume of this shape is cut into slices.

    It is 0 if the other two sizes are similar (their difference is less than half of
    their mean), else the axis of the smallest size, the first on ties.
    """
    _, rows, columns = shape
    if 2 * abs(rows - columns) / (rows + columns) < 0.5:
        return 0
    return shape.index(min(shape))


class Turn(NamedTuple):
    """How slices are turned: mirrored, and then rows and columns swapped."""

    mirror_rows: bool = False
    mirror_columns: bool = False
    swap: bool = False

    def forth(self, planes: _Planes) -> _Planes:
        """Turn slices [..., Y, X]."""
        planes = _mirrored(planes, self)
        return planes.swapaxes(-2, -1) if self.swap else planes

    def back(self, planes: _Planes) -> _Planes:
        """Turn slices back to [..., Y, X]."""
        return _mirrored(planes.swapaxes(-2, -1) if self.swap else planes, self)


AS_STORED = Turn()


def published(*, alone: bool, nifti: bool) -> Turn:
    """Return how the network was shown slices, which are read `alone` by v1.

    v1 saw those of NIfTI files with x downwards (ARCHITECTURE of v1, section 2).
    """
    return Turn(swap=alone and nifti)


def radiological(directions: npt.NDArray[np.float64]) -> Turn:
    """Return how slices are turned upright, with the patient's left at the right.

    `directions` [2, 3] are those of y and x, see `Volume`. Feet, or else the back, come
    down; the patient's left, or else the back, to the right.
    """
    down, right = (int(i) for i in np.abs(directions).argmax(axis=1))
    rows, columns = bool(directions[0, down] > 0), bool(directions[1, right] > 0)
    # Numbers rise to the left, the back and the head.
    return Turn(rows == (down == 2), columns == (right == 2), down < right)


@dataclass(frozen=True)
class SliceGeometry:
    """How a volume's slices get to the network's scale, and back."""

    shape: tuple[int, int, int]  # of the volume
    axis: int  # the slicing axis
    pad: tuple[tuple[int, int], tuple[int, int]]
    """Zeros added before and after, for rows and columns of a slice."""
    working_shape: tuple[int, int]
    """Rows H and columns W of a padded slice after its resize: the network's square
    or, where slices are cut into tiles, more than that."""
    alone: bool = False
    """Whether slices are read by themselves, without neighbours, and labeled in their
    own grid, as by BiomedParse v1."""
    planar: bool = False
    """Whether slices are images by themselves, without neighbours, to a network that
    also knows volumes: resized without rounding, and labeled in their padded grid."""
    turn: Turn = AS_STORED
    """How slices are turned for the network. Rows and columns of `pad`, `working_shape`
    and `label_shape` are those of turned slices."""

    @property
    def depth(self) -> int:
        """Number of slices."""
        return self.shape[self.axis]

    @property
    def plane_shape(self) -> tuple[int, int]:
        """Rows Y and columns X of a slice."""
        rows, columns = (n for i, n in enumerate(self.shape) if i != self.axis)
        return rows, columns

    @property
    def seen_shape(self) -> tuple[int, int]:
        """Rows and columns of a turned slice."""
        rows, columns = self.plane_shape
        return (columns, rows) if self.turn.swap else (rows, columns)

    @property
    def padded_shape(self) -> tuple[int, int]:
        """Rows and columns of a slice with its padding."""
        rows, columns = (
            size + sum(pad) for size, pad in zip(self.seen_shape, self.pad, strict=True)
        )
        return rows, columns

    @property
    def label_shape(self) -> tuple[int, int]:
        """Rows and columns of the labels that predictions become."""
        if self.planar:
            return self.padded_shape
        return self.seen_shape if self.alone else self.working_shape

    def prepare(self, planes: npt.NDArray[Any] | torch.Tensor) -> torch.Tensor:
        """Pad slices and resize them bicubically.

        The kernel has a = -0.75, half-pixel centres, clamped borders and no
        antialiasing. uint8 is rounded and clamped after each of the two passes; real
        numbers keep their overshoots and are truncated at the end. It runs on the CPU,
        whose uint8 arithmetic is the reference, so that every device gets the same
        input. Slices read by themselves are resized as Pillow does, in uint8, with
        a = -0.5 and antialiasing (ARCHITECTURE of v1, section 3). Those of planar mode
        are float32 throughout, and not truncated (of BoltzFormer, section 9.1).

        `planes` [B, Y, X] are uint8, float16, float32 or float64, of any byte order; a
        `VolumeError` is raised for another dtype or shape. The result [B, H, W] is
        int32, or float32 in planar mode, on their device.
        """
        if tuple(planes.shape[1:]) != self.plane_shape:
            raise VolumeError(
                f"Slices of {tuple(planes.shape[1:])} voxels were given for a volume "
                f"whose slices have {self.plane_shape}."
            )
        import torch
        import torch.nn.functional as F

        tensor = self.turn.forth(_as_tensor(planes)).contiguous()
        if self.alone:
            return _squash(tensor, self.working_shape)
        (top, bottom), (left, right) = self.pad
        padded = F.pad(tensor.cpu(), (left, right, top, bottom))
        padded = padded.to(torch.float32) if self.planar else padded
        resized = F.interpolate(padded[:, None], self.working_shape, mode="bicubic")
        dtype = torch.float32 if self.planar else torch.int32
        return resized[:, 0].to(tensor.device, dtype)

    def shrink(self, labels: npt.NDArray[Any], beyond: int = 0) -> npt.NDArray[Any]:
        """Bring labels of slices [B, Y, X] to the network's scale, [B, H, W].

        Each network pixel gets the label at its centre, or `beyond` on the padding.
        """
        pad = ((0, 0), *self.pad)
        padded = np.pad(labels, pad, constant_values=beyond)
        down, across = (
            ((2 * np.arange(size) + 1) * source) // (2 * size)
            for size, source in zip(self.working_shape, padded.shape[1:], strict=True)
        )
        picked: npt.NDArray[Any] = padded[:, down[:, None], across]
        return picked

    def restore(
        self,
        labels: npt.NDArray[Any] | torch.Tensor,
        dtype: npt.DTypeLike | None = None,
    ) -> npt.NDArray[Any]:
        """Bring labels from the network's scale back to the slices' own grid.

        `labels` [B, H, W] are integers or, as an array, any values. The result
        [B, Y, X] has the nearest label of each voxel, in a `dtype` that they fit, by
        default their own; they are copied from another device in it, too.
        """
        if isinstance(labels, np.ndarray):
            down, across = self._sources()
            picked = labels if self.alone else labels[:, down[:, None], across]
            values = self.turn.back(picked)
        else:
            values = self.pick(labels, dtype).cpu().numpy()
        restored: npt.NDArray[Any] = values.astype(dtype or values.dtype, copy=False)
        return restored

    def pick(
        self, labels: torch.Tensor, dtype: npt.DTypeLike | None = None
    ) -> torch.Tensor:
        """Do the same as `restore` on the device of the labels.

        The result [B, Y, X] has as few bytes as a cast to `dtype` allows.
        """
        import torch

        rows, columns = (
            torch.from_numpy(index).to(labels.device, non_blocking=True)
            for index in self._sources()
        )
        picked = labels if self.alone else labels[:, rows[:, None], columns]
        picked = self.turn.back(picked)
        if dtype == np.uint8:
            return picked.to(torch.uint8)
        # torch knows uint16 by name only; the bits of int16 are the same.
        return picked.to(torch.int16) if dtype == np.uint16 else picked

    def _sources(self) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """Row and column in a slice's labels of each of its rows and columns."""
        (top, _), (left, _) = self.pad
        rows, columns = self.seen_shape
        down = _nearest(self.label_shape[0], self.padded_shape[0])
        across = _nearest(self.label_shape[1], self.padded_shape[1])
        return down[top : top + rows], across[left : left + columns]


@dataclass(frozen=True)
class TileGrid:
    """Where the tiles of a slice lie, in network pixels."""

    shape: tuple[int, int]  # rows H and columns W of the slice
    size: int  # edge length S of a tile

    @property
    def corners(self) -> tuple[tuple[int, int], ...]:
        """First row and column of each tile, row by row."""
        rows, columns = (_starts(length, self.size) for length in self.shape)
        return tuple(product(rows, columns))

    @property
    def is_single(self) -> bool:
        """Whether one tile is the whole slice."""
        return self.shape == (self.size, self.size)


def plan_slices(
    shape: tuple[int, ...],
    size: int = 512,
    axis: int | None = None,
    scale: tuple[float, float] | None = None,
    *,
    alone: bool = False,
    planar: bool = False,
    turn: Turn = AS_STORED,
) -> SliceGeometry:
    """Plan how slices get to the network's size or, with a `scale`, are cut into tiles.

    The slicing axis is that of `choose_axis` by default; another than 0 to 2 is an
    `OptionError`. A whole slice is padded to a square and resized to the edge length
    `size`. With a `scale`, in network pixels per voxel along rows and columns, it is
    padded to the edge length of a tile at least, and to a multiple of `CELL` pixels.
    Slices read `alone` are not padded but squashed or stretched; see `SliceGeometry`
    for these and for `planar` ones. Rows and columns are
    those of slices after their `turn`.
    """
    axis = choose_axis(shape) if axis is None else axis
    if axis not in (0, 1, 2):
        raise OptionError(f"The slicing axis must be 0, 1 or 2, not {axis!r}.")
    z, y, x = map(int, shape)
    planes = [n for i, n in enumerate((z, y, x)) if i != axis]
    planes = planes[::-1] if turn.swap else planes
    if scale is None:
        down = across = size
        edges = [max(planes)] * 2
    else:
        down, across = (
            max(size, CELL * math.ceil(n * factor / CELL))
            for n, factor in zip(planes, scale, strict=True)
        )
        edges = [round(down / scale[0]), round(across / scale[1])]
    vertical, horizontal = (
        _halves(0 if alone else max(0, edge - n))
        for edge, n in zip(edges, planes, strict=True)
    )
    pad = (vertical, horizontal)
    shape = z, y, x
    return SliceGeometry(shape, axis, pad, (down, across), alone, planar, turn)


def _starts(length: int, size: int) -> list[int]:
    """Evenly spaced tile starts along one axis, multiples of a cell."""
    spare = length - size
    count = math.ceil(spare / (size * (1 - OVERLAP))) + 1
    steps = max(count - 1, 1)
    return [CELL * round(i * spare / steps / CELL) for i in range(count)]


def neighbour_index(index: int, depth: int) -> int:
    """Return the slice at `index`, from -1 to `depth` with mirrored ends."""
    return depth - 1 - abs(depth - 1 - abs(index)) if depth > 1 else 0


def stack_context(planes: torch.Tensor) -> torch.Tensor:
    """Turn planes [B + 2, H, W] into [B, 3, H, W]: each, the previous, the next."""
    import torch

    return torch.stack((planes[1:-1], planes[:-2], planes[2:]), dim=1)


def _mirrored(planes: _Planes, turn: Turn) -> _Planes:
    axes = tuple(i for i in (-2, -1) if turn[i + 2])
    if isinstance(planes, np.ndarray):
        return np.flip(planes, axes)
    return planes.flip(axes) if axes else planes


def _halves(difference: int) -> tuple[int, int]:
    return difference // 2, difference - difference // 2


def _nearest(source: int, target: int) -> npt.NDArray[np.intp]:
    """Return the source index of each target index, as torch computes it.

    That is ``floor(i * (source / target))`` in float32, which for some sizes differs
    from the exact quotient by one.
    """
    import torch
    import torch.nn.functional as F

    line = torch.arange(source, dtype=torch.float32)[None, None]
    index = F.interpolate(line, size=target, mode="nearest")[0, 0]
    return index.numpy().astype(np.intp)


def _squash(planes: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """Resize planes [B, Y, X] to int32 [B, H, W], of grey levels from 0 to 255."""
    import torch
    from PIL import Image

    levels = planes.cpu()
    if levels.dtype != torch.uint8:
        levels = levels.nan_to_num().round().clamp(0, 255).to(torch.uint8)
    squares = [
        np.asarray(Image.fromarray(plane).resize(shape[::-1], Image.Resampling.BICUBIC))
        for plane in levels.numpy()
    ]
    return torch.from_numpy(np.stack(squares)).to(planes.device, torch.int32)


def _as_tensor(planes: npt.NDArray[Any] | torch.Tensor) -> torch.Tensor:
    """Return `planes` as a tensor; refuse dtypes that cannot be resized."""
    import torch

    if isinstance(planes, np.ndarray):
        if planes.dtype.kind not in "biuf" or planes.dtype.itemsize > 8:
            raise VolumeError(_dtype_message(planes.dtype))
        native = planes.dtype.newbyteorder("=")
        planes = torch.from_numpy(np.array(planes, dtype=native, order="C"))
    if planes.dtype not in [getattr(torch, name) for name in RESIZABLE]:
        raise VolumeError(_dtype_message(planes.dtype))
    return planes


def _dtype_message(dtype: object) -> str:
    return (
        f"Slices of {dtype} cannot be resized; uint8 or floating point is needed. "
        "Choose a modality other than 'none' to have the values mapped to 0 to 255."
    )
