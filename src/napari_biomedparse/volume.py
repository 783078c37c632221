"""The noun `Volume`: image data with the meaning of its axes. No file access here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
import numpy.typing as npt

from napari_biomedparse.errors import VolumeError

SPATIAL_AXES = ("z", "y", "x")


@runtime_checkable
class ArrayLike(Protocol):
    """What is asked of image data: numpy, dask and zarr arrays all qualify."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Size along each axis."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of one voxel."""

    def __getitem__(self, index: Any, /) -> Any:
        """Return the selected part, lazily or as an array."""


@dataclass(frozen=True)
class Volume:
    """Image data together with what its axes mean.

    Parameters
    ----------
    data : array, any rank
        numpy, dask or zarr array; never loaded as a whole by this package.
    axes : tuple of str
        One lower-case letter per axis of `data`, of ``t c z y x`` (``t`` also for
        an unknown stacking axis that is not space).
    spacing : tuple of float
        Distance between neighbouring samples per axis, in `units`; 1.0 if unknown.
    units : tuple of str
        Unit name per axis as pint knows it ("micrometer", "second"), or "pixel".
    origin : tuple of float
        Position of the first sample per axis, in `units`.
    name : str
        Short name for people.
    source : Path, optional
        File or folder the data come from.
    channel_names : tuple of str
        One name per channel, or empty.
    levels : tuple of array
        Coarser versions of `data`, finest first, `data` itself left out.
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

    def __post_init__(self) -> None:
        """Refuse a description that does not fit the data."""
        rank = len(self.data.shape)
        for what in ("axes", "spacing", "units", "origin"):
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

    def select(self, **index: int) -> Volume:
        """Pick one position along named axes, which drops them.

        Parameters
        ----------
        **index : int
            Axis letter and position, for example ``select(c=1, t=0)``.

        Returns
        -------
        Volume
            The remaining axes, still lazy.

        Raises
        ------
        VolumeError
            If there is no such axis or position.
        """
        for axis, position in index.items():
            if axis not in self.axes:
                raise VolumeError(
                    f"{self.name} has no axis {axis!r}; its axes are "
                    f"{', '.join(self.axes)}."
                )
            size = self.shape[self.axes.index(axis)]
            if not 0 <= position < size:
                raise VolumeError(
                    f"{self.name} has no position {position} along axis {axis!r}; "
                    f"choose 0 to {size - 1}."
                )
        taken = tuple(index.get(axis, slice(None)) for axis in self.axes)
        kept = [i for i, axis in enumerate(self.axes) if axis not in index]
        return replace(
            self,
            data=_lazy(self.data)[taken],
            levels=tuple(_lazy(level)[taken] for level in self.levels),
            axes=tuple(self.axes[i] for i in kept),
            spacing=tuple(self.spacing[i] for i in kept),
            units=tuple(self.units[i] for i in kept),
            origin=tuple(self.origin[i] for i in kept),
            channel_names=() if "c" in index else self.channel_names,
        )


def as_volume(source: Any, *, name: str = "volume") -> Volume:
    """Take an array or a `Volume` and return a 3-D `Volume` fit to be segmented.

    Parameters
    ----------
    source : array or Volume
        Three axes; axes of size one before the last three are dropped.
    name : str
        Name for a bare array.

    Returns
    -------
    Volume
        With exactly three axes.

    Raises
    ------
    VolumeError
        For a wrong rank, an empty volume, or voxels that are not real numbers.
    """
    volume = source if isinstance(source, Volume) else _from_array(source, name)
    spare = volume.axes[:-3] if len(volume.axes) > 3 else ()
    singles = {a: 0 for a in spare if volume.shape[volume.axes.index(a)] == 1}
    if singles:
        volume = volume.select(**singles)
    if len(volume.axes) != 3:
        raise VolumeError(_rank_message(volume))
    if 0 in volume.shape:
        raise VolumeError(f"{volume.name} is empty: its shape is {volume.shape}.")
    if volume.dtype.kind == "b":
        raise VolumeError(
            f"{volume.name} holds True and False only, which is a mask and not an "
            "image; give the grey-level image it was made from."
        )
    if volume.dtype.kind not in "uif":
        raise VolumeError(
            f"{volume.name} has voxels of type {volume.dtype}; integers or real "
            "floating-point numbers are needed."
        )
    return volume


def _from_array(array: Any, name: str) -> Volume:
    if not isinstance(array, ArrayLike):
        array = _plain_array(array, name)
    rank = len(array.shape)
    axes = ("t", "c", *SPATIAL_AXES)[-rank:] if 0 < rank <= 5 else ("?",) * rank
    return Volume(array, axes, (1.0,) * rank, ("pixel",) * rank, (0.0,) * rank, name)


def _plain_array(values: Any, name: str) -> npt.NDArray[Any]:
    try:
        return np.asarray(values)
    except ValueError as error:
        raise VolumeError(f"{name} is not a regular array: {error}.") from error


def _lazy(array: ArrayLike) -> ArrayLike:
    """Return `array` such that indexing it reads nothing yet."""
    if isinstance(array, np.ndarray) or hasattr(array, "dask"):
        return array
    import dask.array as da

    return cast(ArrayLike, da.from_array(array))  # type: ignore[no-untyped-call]


def _rank_message(volume: Volume) -> str:
    found = f"{volume.name} has {len(volume.axes)} axes of sizes {volume.shape}"
    if len(volume.axes) < 3:
        return (
            f"{found}; a volume of three is needed. Give a single image as "
            "a volume of one slice: image[None]."
        )
    if volume.shape[-1] in (3, 4):
        return (
            f"{found}, which looks like a colour image (RGB); a volume of three axes "
            "is needed. Give one channel, for example image[..., 0]."
        )
    return (
        f"{found} ({', '.join(volume.axes)}); a volume of three is needed. Choose one "
        "channel and one time point."
    )
