"""`Volume`: image data with the meaning of its axes. No file access here."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeAlias, cast, runtime_checkable

import numpy as np
import numpy.typing as npt

from napari_biomedparse.data.options import parse_axes
from napari_biomedparse.errors import VolumeError

SPATIAL_AXES = ("z", "y", "x")
COLOURS = ("red", "green", "blue", "alpha")  # channel names of a color image
PER_AXIS = ("axes", "spacing", "units", "origin")
_IF_KNOWN = ("matrix", "directions")
RGB = "rgb"  # name that selects all three channels, as colors


@runtime_checkable
class ArrayLike(Protocol):
    """Image data: numpy, dask and zarr arrays all qualify."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Size along each axis."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of one voxel."""

    def __getitem__(self, index: Any, /) -> Any:
        """Return the selected part, lazy or as an array."""


@dataclass(frozen=True)
class Volume:
    """Image data together with what its axes mean.

    Parameters
    ----------
    data : array, any rank
        numpy, dask or zarr array; never loaded as a whole by this package.
    axes : tuple of str
        One lower-case letter per axis of `data`, of ``t c z y x`` (``t`` also for
        an unknown stacking axis that is not spatial).
    spacing : tuple of float
        Distance between neighboring samples per axis, in `units`; 1.0 if unknown.
    units : tuple of str
        Unit name per axis as in pint ("micrometer", "second"), or "pixel".
    origin : tuple of float
        Position of the first sample per axis, in `units`.
    name : str
        Short name to display.
    source : Path, optional
        File or folder of the data.
    channel_names : tuple of str
        One name per channel, or empty.
    levels : tuple of array
        Coarser versions of `data`, finest first, without `data` itself.
    flat : bool
        Whether the first axis was added to a single image, to make it a volume of
        one slice; its labels do not have that axis.
    header : bytes, optional
        Header of the NIfTI file, with the orientation of the data; labels written as
        NIfTI get the same header.
    cut_at : mapping, optional
        First position of a box within the file, by axis; None for whole data.
    matrix : tuple of tuple of float, optional
        Where the axes are rotated, sheared or mirrored: column i is the step from one
        sample to the next along axis i, in `units`; its length is the spacing.
    directions : tuple of tuple of float
        Of each axis in a patient, a unit vector towards left, posterior and superior as
        in DICOM, or zeros; empty if unknown.
    """

    data: ArrayLike
    axes: tuple[str, ...]
    spacing: tuple[float, ...]
    units: tuple[str, ...]
    origin: tuple[float, ...]
    name: str = "volume"
    source: Path | None = None
    channel_names: tuple[str, ...] = ()
    levels: tuple[ArrayLike, ...] = ()
    flat: bool = False
    header: bytes | None = None
    cut_at: Mapping[str, int] | None = None
    matrix: tuple[tuple[float, ...], ...] | None = None
    directions: tuple[tuple[float, ...], ...] = ()

    def __post_init__(self) -> None:
        """Refuse a description that does not fit the data."""
        rank = len(self.data.shape)
        for what in (*PER_AXIS, *filter(self.__getattribute__, _IF_KNOWN)):
            if len(getattr(self, what)) != rank:
                raise VolumeError(
                    f"{self.name}: {len(getattr(self, what))} {what} are given for an "
                    f"array with {rank} axes; give one per axis."
                )

    @property
    def shape(self) -> tuple[int, ...]:
        """Size along each axis."""
        return tuple(int(n) for n in self.data.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of one voxel."""
        return np.dtype(self.data.dtype)

    @property
    def is_colour(self) -> bool:
        """Whether this is a volume of color slices: its last axis is R, G, B."""
        return len(self.axes) == 4 and self.axes[-1] == "c" and self.shape[-1] == 3

    @property
    def steps(self) -> npt.NDArray[np.float64]:
        """The matrix, float64; the spacing on its diagonal if there is none."""
        return np.array(np.diag(self.spacing) if self.matrix is None else self.matrix)

    @property
    def grid(self) -> tuple[int, ...]:
        """Size along each axis but that of the colors: the shape of the labels."""
        return self.shape[:-1] if self.is_colour else self.shape

    @property
    def channels(self) -> tuple[str, ...]:
        """The name of each channel, or its number from 0; empty without channels."""
        return self.channel_names or tuple(map(str, range(self.size("c"))))

    def size(self, axis: str) -> int:
        """Return the size along a named axis, 0 if there is no such axis."""
        return self.shape[self.axes.index(axis)] if axis in self.axes else 0

    def select(self, **index: int) -> Volume:
        """Select one position along named axes, as in ``select(c=1, t=0)``.

        The result has the remaining axes, and is still lazy. A `VolumeError` is raised
        if there is no such axis or position.
        """
        for axis, position in index.items():
            if axis not in self.axes:
                raise VolumeError(
                    f"{self.name} has no axis {axis!r}; its axes are "
                    f"{', '.join(self.axes)}."
                )
            if not 0 <= position < self.size(axis):
                raise VolumeError(
                    f"{self.name} has no position {position} along axis {axis!r}; "
                    f"choose 0 to {self.size(axis) - 1}."
                )
        taken = tuple(index.get(axis, slice(None)) for axis in self.axes)
        kept = [i for i, axis in enumerate(self.axes) if axis not in index]
        return replace(
            self,
            data=_lazy(self.data)[taken],
            levels=tuple(_lazy(level)[taken] for level in self.levels),
            channel_names=() if "c" in index else self.channel_names,
            **self.described(kept),
        )

    def described(self, axes: Iterable[int]) -> dict[str, Any]:
        """Return what describes some of the axes, in that order."""
        kept = list(axes)
        known: dict[str, Any] = {
            what: tuple(getattr(self, what)[i] for i in kept) for what in PER_AXIS
        }
        if self.matrix is not None:
            rows = (self.matrix[i] for i in kept)
            known["matrix"] = tuple(tuple(row[i] for i in kept) for row in rows)
        if self.directions:
            known["directions"] = tuple(self.directions[i] for i in kept)
        return known

    def crop(self, **box: tuple[int, int]) -> Volume:
        """Crop to a box, as in ``crop(y=(100, 400), x=(0, 200))``, end not included.

        The result has all axes and is still lazy. It keeps its position in the world
        by a shifted origin, but has no coarser levels. A `VolumeError` is raised if
        there is no such axis or range, or the axis is that of channels.
        """
        for axis, (start, stop) in box.items():
            if axis not in self.axes or axis == "c":
                names = ", ".join(name for name in self.axes if name != "c")
                raise VolumeError(
                    f"{self.name} cannot be cropped along {axis!r}; choose from its "
                    f"axes {names}."
                )
            size = self.size(axis)
            if not 0 <= start < stop <= size:
                raise VolumeError(
                    f"{self.name} has {size} positions along axis {axis!r}, but the "
                    f"range is {start} to {stop}; choose one within 0 to {size}, end "
                    "not included."
                )
        ranges = [
            box.get(axis, (0, n)) for axis, n in zip(self.axes, self.shape, strict=True)
        ]
        return replace(
            self,
            data=_lazy(self.data)[tuple(slice(*pair) for pair in ranges)],
            levels=(),
            cut_at={
                axis: (self.cut_at or {}).get(axis, 0) + start
                for axis, (start, _) in zip(self.axes, ranges, strict=True)
            },
            origin=tuple(
                (self.origin + self.steps @ [start for start, _ in ranges]).tolist()
            ),
        )


VolumeLike: TypeAlias = ArrayLike | Volume
"""An image: a numpy, dask or zarr array, or a `Volume` with axes and voxel size."""


def as_volume(source: VolumeLike, *, axes: str | None = None) -> Volume:
    """Return an array or a `Volume` as a volume that can be segmented.

    It has three axes, or a single image two, which becomes a volume of one slice.
    Channel and time axes of size one are removed. It may be in color: with three or
    four channels named red, green, blue (and alpha, which is removed), or without
    names, as a last axis of size three or four. Then the result has four axes, of which
    the last is red, green and blue.

    `axes` are those of a bare array, see `volume_of`. A `VolumeError` is raised if the
    axes are unsuitable, the volume is empty, or voxels are not real numbers.
    """
    volume = _colours_last(without_singles(volume_of(source, axes)))
    rgb = volume.axes[2:] == ("c",) and volume.shape[2] == 3
    if sorted(volume.axes[:2]) == ["x", "y"] and (len(volume.axes) == 2 or rgb):
        volume = as_one_slice(volume)
    if not volume.is_colour and (len(volume.axes) != 3 or "c" in volume.axes):
        raise VolumeError(_rank_message(volume))
    if 0 in volume.shape:
        raise VolumeError(f"{volume.name} is empty: its shape is {volume.shape}.")
    if volume.dtype.kind == "b":
        raise VolumeError(
            f"{volume.name} contains True and False only, so it is a mask; give the "
            "grey-level image it was made from."
        )
    if volume.dtype.kind not in "uif":
        raise VolumeError(
            f"{volume.name} has voxels of type {volume.dtype}; integers or real "
            "floating-point numbers are required."
        )
    if volume.is_colour and not _may_be_colour(volume.dtype):
        raise VolumeError(
            f"{volume.name} is in color with values of type {volume.dtype}; 8-bit "
            "colors (0 to 255) or floating-point ones (0 to 1) are required. Convert "
            "it, or choose one channel."
        )
    return volume


def volume_of(array: VolumeLike, letters: str | None = None) -> Volume:
    """Name the axes of a bare array by letters such as ``CZYX``, or else by its rank.

    By its rank they are the last of t, c, z, y, x. The last axis is color if its size
    is three or four, the axes before it are longer, and values are uint8 or floating
    point. Nested sequences are taken too. The volume may have any rank, and has no
    spacing. A `VolumeError` is raised for no regular array, or not a letter per axis.
    """
    if isinstance(array, Volume):
        return array  # it names its own axes
    if isinstance(array, str | os.PathLike):
        raise VolumeError(
            f"{os.fspath(array)} is a path, not an image; open it with open_volume."
        )
    if not isinstance(array, ArrayLike):
        try:
            array = np.asarray(array)
        except ValueError as error:
            raise VolumeError(f"This is not a regular array: {error}.") from error
    rank = len(array.shape)
    axes: tuple[str, ...] = ("?",) * rank
    if letters is not None:
        axes = parse_axes(letters)
        if len(axes) != rank:
            raise VolumeError(
                f"The array has {rank} axes with the sizes "
                f"{', '.join(map(str, array.shape))}, which cannot be named {letters}."
            )
    elif _looks_coloured(array):
        axes = (*("t", *SPATIAL_AXES)[1 - rank :], "c")
    elif 0 < rank <= 5:
        axes = ("t", "c", *SPATIAL_AXES)[-rank:]
    return Volume(array, axes, (1.0,) * rank, ("pixel",) * rank, (0.0,) * rank)


def choose_channel(volume: Volume, channel: int | str | None) -> Volume:
    """Select one channel of a volume of any rank, or its colors.

    A channel is a number (from 0), a name, or "rgb" for three (or four) channels that
    are red, green and blue. None is enough where there is no choice. The result has no
    channel axis, or the colors as the last axis. A `VolumeError` is raised if the
    choice is missing or impossible.
    """
    if "c" not in volume.axes:
        if channel not in (None, 0):
            raise VolumeError(
                f"{volume.name} has one channel only, not {channel!r}; omit the "
                "channel."
            )
        return volume
    count, names = volume.size("c"), volume.channels
    if channel == RGB and channel not in names and count in (3, 4):
        return _colours_last(replace(volume, channel_names=COLOURS[:count]))
    if channel is None and _is_coloured(volume):
        return _colours_last(volume)
    if channel is None and count == 1:
        return volume.select(c=0)
    if isinstance(channel, int) and 0 <= channel < count:
        return volume.select(c=channel)
    if str(channel) in names:  # also a number, a wavelength for example
        return volume.select(c=names.index(str(channel)))
    found = "no channel was chosen" if channel is None else f"{channel!r} is not one"
    flat = "z" not in volume.axes and not volume.channel_names
    choices = ", ".join(f"{i} ({name})" for i, name in enumerate(names))
    raise VolumeError(
        f"{volume.name} has {count} channels and {found}; choose one of "
        f"{choices if volume.channel_names else ', '.join(names)}"
        f"{f', or {RGB} for all as colors' if count in (3, 4) else ''}."
        + (" If they are slices, name the axes, such as ZYX (axes)." * flat)
    )


def colours_of(volume: Volume) -> Volume | None:
    """Return a volume whose channels are colors with these as its last axis.

    Without alpha. None if its channels, if any, are not colors that can be segmented:
    these have the names red, green and blue, or none and the last axis.
    """
    usable = _is_coloured(volume) and _may_be_colour(volume.dtype)
    return _colours_last(volume) if usable else None


def has_time_points(volume: Volume) -> bool:
    """Return whether a volume has several time points and three spatial axes."""
    return volume.size("t") > 1 and set(SPATIAL_AXES) <= set(volume.axes)


def _may_be_colour(dtype: np.dtype[Any]) -> bool:
    return dtype == np.uint8 or dtype.kind == "f"


def _looks_coloured(array: ArrayLike) -> bool:
    """Whether a bare array ends in an axis of colors."""
    shape = tuple(array.shape)
    return (
        3 <= len(shape) <= 5
        and shape[-1] in (3, 4)
        and min(shape[-3:-1]) > len(COLOURS)
        and _may_be_colour(np.dtype(array.dtype))
    )


def _is_coloured(volume: Volume) -> bool:
    """Whether the channels are colors: by their names, or else as the last axis."""
    count = volume.size("c")
    if volume.channel_names:
        return count in (3, 4) and volume.channel_names == COLOURS[:count]
    return count in (3, 4) and volume.axes[-1] == "c"


def _colours_last(volume: Volume) -> Volume:
    """Move color channels to the end, without alpha; leave other volumes alone."""
    if not _is_coloured(volume):
        return volume
    at = volume.axes.index("c")
    if at == len(volume.axes) - 1 and volume.shape[at] == 3:
        return volume
    data: Any = _lazy(volume.data)
    order = [*(i for i in range(len(volume.axes)) if i != at), at]
    return replace(
        volume,
        data=data.transpose(order)[..., :3],
        levels=(),
        channel_names=COLOURS[:3],
        **volume.described(order),
    )


def without_singles(volume: Volume) -> Volume:
    """Remove channel and time axes of size one, time only from more than three axes."""
    for axis, least in (("c", 3), ("t", 4)):
        if len(volume.axes) >= least and volume.size(axis) == 1:
            volume = volume.select(**{axis: 0})
    return volume


def as_one_slice(volume: Volume) -> Volume:
    """Make a volume of one slice from a single image."""
    data, *levels = (_lazy(array)[None] for array in (volume.data, *volume.levels))
    slices = with_axis(volume, "z", data, unit=volume.units[0])
    return replace(slices, levels=tuple(levels), flat=True)


def with_axis(
    volume: Volume,
    axis: str,
    data: ArrayLike,
    step: float = 1.0,
    unit: str = "pixel",
    start: float = 0.0,
) -> Volume:
    """Return `data` as a volume like another, but with one more axis in front."""
    rows = volume.matrix
    return replace(
        volume,
        data=data,
        axes=(axis, *volume.axes),
        spacing=(step, *volume.spacing),
        units=(unit, *volume.units),
        origin=(start, *volume.origin),
        matrix=rows and ((step, *(0.0 for _ in rows)), *((0.0, *row) for row in rows)),
        directions=volume.directions and ((0.0, 0.0, 0.0), *volume.directions),
    )


def _lazy(array: ArrayLike) -> ArrayLike:
    """Return `array` so that indexing it reads nothing yet."""
    if isinstance(array, np.ndarray) or hasattr(array, "dask"):
        return array
    import dask.array as da

    return cast(ArrayLike, da.from_array(array))  # type: ignore[no-untyped-call]


def _rank_message(volume: Volume) -> str:
    sizes = ", ".join(
        f"{axis} {size}" for axis, size in zip(volume.axes, volume.shape, strict=True)
    )
    found = f"{volume.name} has {len(volume.axes)} axes ({sizes})"
    extra = [axis for axis in ("c", "t") if axis in volume.axes]
    if not extra or len(set(volume.axes) & set(SPATIAL_AXES)) < 2:
        return (
            f"{found}; a volume with three axes (z, y, x) or an image with two is "
            "required."
        )
    words = {"c": "one channel", "t": "one time point"}
    choice = " and ".join(words[axis] for axis in extra)
    example = ", ".join(f"{axis}=0" for axis in extra)
    return (
        f"{found}; choose {choice}, as in volume.select({example}). Only segment "
        "without a consensus takes several time points."
    )
