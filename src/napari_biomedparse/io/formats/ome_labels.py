"""An OME-Zarr label image that is written block by block, with its pyramid."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import zarr
from zarr.storage import LocalStore

from napari_biomedparse.errors import OutputError
from napari_biomedparse.io.durable import atomic_write, is_zarr, sync_files
from napari_biomedparse.io.formats.zarr_metadata import describe_labels
from napari_biomedparse.io.guards.zarr_guard import guarded

if TYPE_CHECKING:
    from zarr.core.buffer import Buffer

    from napari_biomedparse.data.prompts import PromptSet
    from napari_biomedparse.data.volume import Volume

BLOCK_BYTES = 2**26
"""Most that a block should take in memory."""
CHUNK_VOXELS = 2**20
THICKEST = 16
"""Most slices of a block."""
SMALLEST = 256
"""The pyramid ends once a plane is this small."""

OmeVersion = Literal["0.4", "0.5"]


@dataclass(frozen=True)
class Layout:
    """How labels lie on the disk.

    Parameters
    ----------
    shape : tuple of three int
    dtype : numpy dtype
        Unsigned.
    axis : int
        The slicing axis, along which blocks follow each other.
    thickness : int
        Slices of a block, a power of two: one chunk along the slicing axis.
    version : {"0.4", "0.5"}
        Of OME-Zarr.
    times : int, optional
        Number of volumes of this shape, time being the first axis of the arrays; None
        for a single volume without such an axis.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    axis: int
    thickness: int
    version: OmeVersion = "0.5"
    times: int | None = None

    def chunks(self, level: int) -> tuple[int, ...]:
        """Chunk shape of a level; a block is one chunk thick at every level."""
        edge = 2 ** int(math.log2(math.sqrt(CHUNK_VOXELS / self.thickness)))
        sizes = [edge] * 3
        sizes[self.axis] = max(1, self.thickness // self.step(level)[self.axis])
        shape = self.level_shape(level)
        return tuple(max(1, min(s, n)) for s, n in zip(sizes, shape, strict=True))

    def level_shape(self, level: int) -> tuple[int, ...]:
        """Shape of a level."""
        steps = zip(self.shape, self.step(level), strict=True)
        return tuple(-(-size // step) for size, step in steps)

    def step(self, level: int) -> tuple[int, int, int]:
        """Voxels of the finest level that one voxel of a level stands for, by axis."""
        return (1, 2**level, 2**level)

    @property
    def levels(self) -> int:
        """Number of levels, each with every second row and column of the one before."""
        count = 1
        while max(self.level_shape(count - 1)[1:]) > SMALLEST:
            count += 1
        return count

    def block(self, start: int) -> tuple[int, int]:
        """First and last-but-one slice of the block that holds a slice."""
        first = start // self.thickness * self.thickness
        return first, min(first + self.thickness, self.shape[self.axis])


def plan_thickness(shape: Sequence[int], axis: int, itemsize: int) -> int:
    """Choose how many slices make a block, so that it stays within bounds."""
    plane = math.prod(shape) // shape[axis] * itemsize
    most = max(1, min(THICKEST, BLOCK_BYTES // max(1, plane)))
    return 1 << int(math.log2(most))


class SyncedStore(LocalStore):
    """A folder that holds a Zarr group and remembers which files were written."""

    def __init__(self, root: Path | str, *, read_only: bool = False) -> None:
        super().__init__(root, read_only=read_only)
        self._written: set[Path] = set()

    async def set(self, key: str, value: Buffer) -> None:
        """Write one file."""
        await super().set(key, value)
        self._written.add(self.root / key)

    def sync(self) -> None:
        """Wait until everything written since the last call is on the disk."""
        written, self._written = self._written, set()
        sync_files(written)


class LabelStore:
    """An OME-Zarr label image on disk, or one time point of it.

    Parameters
    ----------
    path : Path
        Its folder; `create_labels` makes it.
    layout : Layout
    time : int
        Which time point, of a layout that has several.
    """

    def __init__(self, path: Path, layout: Layout, time: int = 0) -> None:
        self.layout = layout
        self._at = () if layout.times is None else (time,)
        self._store = SyncedStore(path)
        try:
            group = zarr.open_group(self._store, mode="r+")
            self.levels: list[Any] = [
                guarded(group[f"s{i}"], str(path)) for i in range(layout.levels)
            ]
        except Exception as error:  # of a damaged group, as Zarr likes
            raise OutputError(
                f"{path} is damaged ({error}); ask to overwrite the run, or choose "
                "another folder."
            ) from error

    def write(self, start: int, block: npt.NDArray[Any], *, finest: int = 0) -> None:
        """Write a block, whole chunks of every level.

        Parameters
        ----------
        start : int
            Its first slice, a multiple of the layout's thickness.
        block : ndarray
            The image's shape but for the slicing axis.
        finest : int
            Level to begin with.
        """
        axis = self.layout.axis
        for number, level in enumerate(self.levels[finest:], start=finest):
            steps = self.layout.step(number)
            first = -(-start // steps[axis])
            take = [slice(None, None, step) for step in steps]
            take[axis] = slice(first * steps[axis] - start, None, steps[axis])
            part = block[tuple(take)]
            if part.shape[axis]:
                put = [slice(None)] * 3
                put[axis] = slice(first, first + part.shape[axis])
                level[(*self._at, *put)] = part

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Read slices of the finest level, of the image's shape but for their axis."""
        return self.read_along(self.layout.axis, start, stop)

    def read_along(self, axis: int, start: int, stop: int) -> npt.NDArray[Any]:
        """Read a range along any axis of the finest level."""
        where = [slice(None)] * 3
        where[axis] = slice(start, stop)
        return self[tuple(where)]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the finest level, [Z, Y, X]."""
        return self.layout.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a voxel."""
        return self.layout.dtype

    def __getitem__(self, where: tuple[slice, ...]) -> npt.NDArray[Any]:
        """Read a part of the finest level."""
        return np.asarray(self.levels[0][(*self._at, *where)])

    def __setitem__(self, where: tuple[slice, ...], values: npt.NDArray[Any]) -> None:
        """Write a part of the finest level alone, without those made of it."""
        self.levels[0][(*self._at, *where)] = values

    def sync(self) -> None:
        """Wait until all that was written is on the disk.

        Raises
        ------
        OutputError
            If the image was removed since it was opened.
        """
        self._store.sync()
        if not is_zarr(Path(self._store.root)):
            raise OutputError(
                f"{self._store.root} was removed while it was being written. Run the "
                "same again: what is missing is done again."
            )


def create_labels(
    path: Path, layout: Layout, volume: Volume, prompts: PromptSet
) -> None:
    """Make an empty label image, whole or not at all.

    Parameters
    ----------
    path : Path
        The new folder; an image that is there is kept.
    layout : Layout
    volume : Volume
        Axes, scale and origin; three axes, after that of time if there is one.
    prompts : PromptSet
        Names of the label values.
    """
    if is_zarr(path):
        return
    shutil.rmtree(path, ignore_errors=True)  # chunks of one that was removed
    with atomic_write(path) as partial:
        old = layout.version == "0.4"
        group = zarr.create_group(str(partial), zarr_format=2 if old else 3)
        for level in range(layout.levels):
            more: dict[str, Any] = {"dimension_names": volume.axes}
            if old:
                more = {"chunk_key_encoding": {"name": "v2", "separator": "/"}}
            shape, chunks = layout.level_shape(level), layout.chunks(level)
            if layout.times is not None:
                shape, chunks = (layout.times, *shape), (1, *chunks)
            group.create_array(
                f"s{level}",
                shape=shape,
                dtype=layout.dtype,
                chunks=chunks,
                fill_value=0,
                **more,
            )
        described = describe_labels(volume, prompts, layout.levels)
        if old:
            multiscale = {**described["multiscales"][0], "version": "0.4"}
            group.attrs["multiscales"] = [multiscale]
            group.attrs["image-label"] = described["image-label"] | {"version": "0.4"}
        else:
            group.attrs["ome"] = described
