"""Write OME-Zarr label images with their pyramid, whole or block by block."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import zarr

from napari_biomedparse.data.prompts import INSTANCE_KEY, label_colour
from napari_biomedparse.errors import OutputError
from napari_biomedparse.io.durable import atomic_write, is_zarr
from napari_biomedparse.io.formats.units import PIXEL
from napari_biomedparse.io.lazy import THICKEST, NewLabels
from napari_biomedparse.io.painting import (
    Box,
    damaged_labels,
    open_levels,
    within,
    write_levels,
)

if TYPE_CHECKING:
    from napari_biomedparse.data.prompts import PromptSet
    from napari_biomedparse.data.results import Owners
    from napari_biomedparse.data.volume import Volume

CHUNK_VOXELS = 2**20
MOST_NAMED = 2**15
"""Largest number of objects with label properties, for the metadata's size."""
SMALLEST = 256
"""The pyramid ends once a plane is this small."""
_AXIS_TYPES = {"c": "channel", "t": "time"}

OmeVersion = Literal["0.4", "0.5"]


@dataclass(frozen=True)
class Layout:
    """How labels of shape [Z, Y, X], or [Y, X] of a single image, are stored.

    Blocks follow each other along the slicing `axis`, in which each is one chunk of
    `thickness` slices, a power of two. `times` is the number of volumes, if time is the
    first axis of the arrays.
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
        sizes = [edge] * len(self.shape)
        if len(sizes) > 2:
            sizes[self.axis] = max(1, self.thickness // self.step(level)[self.axis])
        shape = self.level_shape(level)
        return tuple(max(1, min(s, n)) for s, n in zip(sizes, shape, strict=True))

    def level_shape(self, level: int) -> tuple[int, ...]:
        """Shape of a level."""
        steps = zip(self.shape, self.step(level), strict=True)
        return tuple(-(-size // step) for size, step in steps)

    def step(self, level: int) -> tuple[int, ...]:
        """Voxels of the finest level for one voxel of a level, along each axis."""
        return (1, 2**level, 2**level)[-len(self.shape) :]

    @property
    def levels(self) -> int:
        """Number of levels, each with every second row and column of the one before."""
        count = 1
        while max(self.level_shape(count - 1)[-2:]) > SMALLEST:
            count += 1
        return count

    def block(self, start: int) -> tuple[int, int]:
        """Return the first slice of the block with slice `start`, and its stop."""
        first = start // self.thickness * self.thickness
        return first, min(first + self.thickness, self.shape[self.axis])


class LabelStore:
    """An OME-Zarr label image made by `create_labels`, or one time point of it.

    Raises `OutputError` if the image is damaged.
    """

    def __init__(self, path: Path, layout: Layout, time: int = 0) -> None:
        self.layout = layout
        self.time = time
        self._store, self.levels, self.journal = open_levels(path)
        times = () if layout.times is None else (layout.times,)
        shape = (*times, *layout.shape)
        if self.levels[0].shape != shape or len(self.levels) != layout.levels:
            raise damaged_labels(path, "its shape is another one")

    def write(
        self, start: int, block: npt.NDArray[Any], *, finest: int = 0
    ) -> npt.NDArray[Any]:
        """Write a block, whose first slice is `start`, to every level from `finest`.

        A multiple of the layout's thickness fills whole chunks. What a person changed
        goes on top; returns what was written.
        """
        block = self._patched(start, block)
        whole = block if self.layout.times is None else block[None]
        write_levels(self.levels, self._box(start, block.shape), whole, finest=finest)
        return block

    def name_objects(self, owners: Owners) -> None:
        """Record the prompt and the score of each object.

        Other software reads them from the label properties; large numbers of objects
        have none.
        """
        group = zarr.open_group(self._store, mode="r+")
        attributes: dict[str, Any] = group.attrs.asdict()
        label = dict(ome_attributes(attributes)["image-label"])
        label["owners"] = owners.describe()
        texts = {int(i): text for i, text in label.get("text_prompts", {}).items()}
        names = owners.names(texts) if len(owners.labels) <= MOST_NAMED else {}
        ids = owners.labels.tolist()
        scores = [None if s != s else s for s in owners.scores.tolist()]
        label["properties"] = [
            {"label-value": n, "prompt": text, "label": ids[n], "score": scores[n]}
            for n, text in names.items()
        ]
        label["colors"] = [
            {"label-value": n, "rgba": list(label_colour(ids[n], n))} for n in names
        ]
        inside = attributes.get("ome")
        new = {"image-label": label}
        group.update_attributes({"ome": inside | new} if inside else new)

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Read a range of slices of the finest level."""
        before = [slice(None)] * self.layout.axis
        return self[(*before, slice(start, stop))]

    def as_written(self, start: int, stop: int, since: int) -> npt.NDArray[Any]:
        """Read slices as they were before strokes from a place of the journal on."""
        return self._patched(start, self.read(start, stop), undone=since)

    def _patched(
        self, start: int, block: npt.NDArray[Any], undone: int | None = None
    ) -> npt.NDArray[Any]:
        """Return a block with what a person changed, or with later strokes undone."""
        where = self._box(start, block.shape)
        for at, one in enumerate(self.journal.edited(where, undone or 0)):
            block = block if at else block.copy()
            whole = block if self.layout.times is None else block[None]
            if undone is None:
                differs = (one.before != one.after) | one.accepted
                mask, values = one.mask & differs, one.after
            else:
                mask, values = one.mask, one.before
            np.copyto(whole[within(one.box, where)], values, where=mask)
        return block

    def _box(self, start: int, shape: tuple[int, ...]) -> Box:
        """Return where a block, whose first slice is `start`, is in the arrays."""
        box = [slice(0, size) for size in shape]
        axis = self.layout.axis
        box[axis] = slice(start, start + shape[axis])
        time = slice(self.time, self.time + 1)
        return (*box,) if self.layout.times is None else (time, *box)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the finest level, without time."""
        return self.layout.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a voxel."""
        return self.layout.dtype

    def __getitem__(self, where: tuple[slice, ...]) -> npt.NDArray[Any]:
        """Read a part of the finest level."""
        return np.asarray(self.levels[0][self._index(where)])

    def __setitem__(self, where: tuple[slice, ...], values: npt.NDArray[Any]) -> None:
        """Write a part of the finest level alone; `write` updates the others."""
        self.levels[0][self._index(where)] = values

    def sync(self) -> None:
        """Wait until everything written is on the disk.

        Raises `OutputError` if the image was removed since it was opened.
        """
        self._store.sync()
        if not is_zarr(Path(self._store.root)):
            raise OutputError(
                f"{self._store.root} was removed while it was being written. Run the "
                "same again to write what is missing."
            )

    def _index(self, where: Sequence[slice]) -> tuple[int | slice, ...]:
        return (*where,) if self.layout.times is None else (self.time, *where)


def save_zarr(path: Path, labels: NewLabels) -> None:
    """Write labels as an OME-Zarr 0.5 label image with a pyramid, slab by slab.

    Coarser levels keep every second row and column, so that no new values arise.
    """
    shape = tuple(labels.data.shape)
    times = shape[0] if len(shape) == 4 else None
    layout = Layout(shape[-3:], labels.dtype, 0, THICKEST, times=times)
    _create(path, layout, labels.volume, labels.prompts)
    store = LabelStore(path, layout)
    start = 0
    for slab in labels.slabs(path.parent):
        if times is None:
            store.write(start, slab)
        else:
            for store.time, block in enumerate(slab, start):
                store.write(0, block)
        start += len(slab)
    if labels.owners is not None:
        store.name_objects(labels.owners)


def create_labels(
    path: Path, layout: Layout, volume: Volume, prompts: PromptSet
) -> None:
    """Make an empty label image with the axes, scale and origin of a volume.

    An existing image is kept.
    """
    if is_zarr(path):
        return
    shutil.rmtree(path, ignore_errors=True)  # chunks of one that was removed
    with atomic_write(path) as partial:
        _create(partial, layout, volume, prompts)


def _create(
    path: Path, layout: Layout, volume: Volume, prompts: PromptSet | None
) -> None:
    old = layout.version == "0.4"
    group = zarr.create_group(str(path), zarr_format=2 if old else 3)
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
    described = describe_labels(volume, prompts, layout.levels, layout.version)
    group.update_attributes(described if old else {"ome": described})


def ome_attributes(attributes: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the OME metadata: under ``ome`` since 0.5, at the top level before."""
    inner = attributes.get("ome")
    return inner if isinstance(inner, Mapping) else attributes


def describe_labels(
    volume: Volume, prompts: PromptSet | None, levels: int, version: OmeVersion = "0.5"
) -> dict[str, Any]:
    """Return the OME metadata of a label image whose levels halve the plane.

    `volume` has axes, units, spacing and origin of the finest level, `prompts` the
    names of label values. The arrays are called ``s0``, ``s1`` and so on.
    """
    axes = []
    for axis, unit in zip(volume.axes, volume.units, strict=True):
        entry = {"name": axis, "type": _AXIS_TYPES.get(axis, "space")}
        axes.append(entry if unit == PIXEL else entry | {"unit": unit})
    datasets = []
    for level in range(levels):
        step = 2**level
        scale = [*volume.spacing[:-2], *(step * size for size in volume.spacing[-2:])]
        transforms = [
            {"type": "scale", "scale": scale},
            {"type": "translation", "translation": list(volume.origin)},
        ]
        datasets.append({"path": f"s{level}", "coordinateTransformations": transforms})
    label: dict[str, Any] = {"version": version}
    if prompts is not None and prompts.instance:
        label["text_prompts"] = {str(p.id): p.text for p in prompts.prompts}
        label[INSTANCE_KEY] = 1
    elif prompts is not None:
        label["colors"] = [
            {"label-value": i, "rgba": list(label_colour(i))} for i in prompts.ids
        ]
        label["properties"] = [
            {"label-value": prompt.id, "prompt": prompt.text}
            for prompt in prompts.prompts
        ]
        label[INSTANCE_KEY] = 0
    multiscale: dict[str, Any] = {
        "name": f"{volume.name} labels",
        "axes": axes,
        "datasets": datasets,
    }
    if version == "0.4":
        multiscale["version"] = version
        return {"multiscales": [multiscale], "image-label": label}
    return {"version": version, "multiscales": [multiscale], "image-label": label}
