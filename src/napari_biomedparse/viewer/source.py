"""The file that a layer was opened from, if the layer still matches it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_biomedparse.data.volume import (
    SPATIAL_AXES,
    Volume,
    as_volume,
    choose_channel,
)
from napari_biomedparse.errors import BiomedParseError, VolumeError
from napari_biomedparse.io.formats.units import with_voxel_size
from napari_biomedparse.viewer.layers import known_of

if TYPE_CHECKING:
    from napari.layers import Image

_WINDOW = 64


@dataclass(frozen=True)
class FileChoice:
    """A volume in a file, with its channel and time point if there are several."""

    path: Path
    channel: int | None
    time: int | None
    voxel_size: str | None = None  # that of the layer, if it is another than the file's
    axes: str | None = None  # names of the file's axes, if they were changed


def find_file(
    layer: Image, volume: Volume, at: Mapping[str, int], *, series: bool
) -> FileChoice:
    """Return the file from which a layer's volume can be opened again.

    The volume is from `volume_from_layer`; `at` are the positions along the layer's
    axes t and c. A `series` includes all time points. A `VolumeError` is raised if the
    layer was not opened from a file, or no longer matches it.
    """
    from napari_biomedparse.io import can_open

    known = known_of(layer)
    path = known.get("source") or layer.source.path
    if not path or not can_open(path):
        raise VolumeError(
            f"{layer.name} exists in memory only. Save it as OME-Zarr or TIFF and open "
            "that file."
        )
    found = Path(path).absolute()
    channel = known.get("channel", at.get("c"))
    time = None if series else at.get("t")
    choices = [
        FileChoice(found, one, time, axes=known.get("axes")) for one in (channel, None)
    ]
    steps = dict(zip(volume.axes, volume.spacing, strict=True))
    units = dict(zip(volume.axes, volume.units, strict=True))
    unit, *others = {units[axis] for axis in SPATIAL_AXES if axis in units}
    if not others and "x" in units:
        sizes = (repr(float(steps.get(axis, 1.0))) for axis in SPATIAL_AXES)
        size = ",".join(sizes) + unit
        choices += [replace(choice, voxel_size=size) for choice in choices]
    for choice in choices:
        if _is_alike(choice, volume, series=series):
            return choice
    raise VolumeError(
        f"{layer.name} no longer matches {found} in voxels, scale or channels. Save it "
        "as OME-Zarr or TIFF and open that file."
    )


def _is_alike(choice: FileChoice, volume: Volume, *, series: bool) -> bool:
    from napari_biomedparse.io import open_image

    try:
        opened = open_image(choice.path, choice.axes)
        opened = choose_channel(opened, choice.channel)
        if choice.voxel_size is not None:
            opened = with_voxel_size(opened, choice.voxel_size)
        if choice.time is not None:
            opened = opened.select(t=choice.time)
        if not series:
            opened = as_volume(opened)
    except BiomedParseError:
        return False
    same = all(
        getattr(opened, what) == getattr(volume, what)
        for what in ("shape", "dtype", "units")
    )
    return (
        same
        and np.allclose(opened.spacing, volume.spacing)
        and all(
            np.array_equal(_window(opened, where), _window(volume, where))
            for where in (0, volume.shape[0] // 2, volume.shape[0] - 1)
        )
    )


def _window(volume: Volume, first: int) -> Any:
    """Return a small central part of the volume at an index of its first axis."""
    where: list[Any] = [first]
    for size in volume.shape[1:]:
        edge = min(size, _WINDOW)
        where.append(slice((size - edge) // 2, (size + edge) // 2))
    return np.asarray(replace(volume, levels=()).data[tuple(where)])
