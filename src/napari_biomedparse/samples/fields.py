"""Random fields and shapes that the phantoms are drawn with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int32]
Window = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Grid:
    """Positions of the voxels in units of the in-plane voxel size."""

    shape: tuple[int, int, int]  # z, y, x
    anisotropy: float  # distance between slices divided by that between pixels

    @property
    def extent(self) -> npt.NDArray[np.float64]:
        """Size along z, y, x in pixels, float64 of shape [3]."""
        return np.asarray(self.shape, np.float64) * self.scale

    @property
    def scale(self) -> npt.NDArray[np.float64]:
        """Size of a voxel along z, y, x in pixels, float64 of shape [3]."""
        return np.array([self.anisotropy, 1.0, 1.0])

    @property
    def area(self) -> float:
        """Size of a slice in units of 128 x 128 pixels."""
        return float(self.extent[1] * self.extent[2] / 128.0**2)

    def axes(self) -> tuple[Floats, Floats, Floats]:
        """Return z [Z,1,1], y [1,Y,1] and x [1,1,X] in pixels, float32."""
        z, y, x = np.ogrid[: self.shape[0], : self.shape[1], : self.shape[2]]
        scaled = z * np.float32(self.anisotropy)
        return scaled.astype(np.float32), y.astype(np.float32), x.astype(np.float32)

    def window(self, centre: Floats, reach: float) -> Window:
        """Cut out the voxels within `reach` pixels of `centre` along each axis."""
        low = np.floor((centre - reach) / self.scale).astype(int)
        high = np.ceil((centre + reach) / self.scale).astype(int) + 1
        z, y, x = (
            slice(max(0, int(a)), max(0, min(int(b), n)))
            for a, b, n in zip(low, high, self.shape, strict=True)
        )
        return z, y, x

    def offsets(self, centre: Floats, window: Window) -> tuple[Floats, Floats, Floats]:
        """Return dz, dy, dx from `centre` for the voxels of `window`, broadcastable."""
        z, y, x = self.axes()
        return (
            z[window[0]] - np.float32(centre[0]),
            y[:, window[1]] - np.float32(centre[1]),
            x[:, :, window[2]] - np.float32(centre[2]),
        )

    def squares(self, centre: Floats, window: Window) -> Floats:
        """Return the squared distance from `centre` of the voxels of `window`."""
        dz, dy, dx = self.offsets(centre, window)
        return dz**2 + dy**2 + dx**2


class Scene:
    """Tissue under construction: the instances of each target, and the image.

    Of the `targets` of its kind only those in `wanted` occur; `free` voxels are those
    that none has taken, `pixel` is the edge of a pixel in micrometers.
    """

    targets: ClassVar[tuple[str, ...]]
    pixel: ClassVar[float]
    image: Floats
    free: npt.NDArray[np.bool_]

    def __init__(
        self, rng: np.random.Generator, grid: Grid, wanted: frozenset[str]
    ) -> None:
        self.rng, self.grid, self.wanted = rng, grid, wanted
        self.objects: dict[str, Ids] = {
            name: np.zeros(grid.shape, np.int32) for name in self.targets
        }

    def add(self, steps: dict[str, Callable[[], None]]) -> None:
        """Add the wanted targets, in the order of the steps that do so."""
        for step in (steps[name] for name in steps if name in self.wanted):
            step()


def grey_levels(image: Floats) -> npt.NDArray[np.uint8]:
    """Turn values of 0 to 1 into grey levels."""
    return np.asarray(np.clip(image * 255.0, 0.0, 255.0).astype(np.uint8))


def smooth_noise(rng: np.random.Generator, grid: Grid, size: float) -> Floats:
    """Draw a smooth random field of mean about 0 and standard deviation about 1.

    `size` is that of the features in pixels (the distance of the control points).
    """
    steps = np.maximum(2, np.ceil(grid.extent / size).astype(int) + 1)
    field: npt.NDArray[np.float32] = rng.standard_normal(
        tuple(steps + 2), dtype=np.float32
    )
    offset = rng.random(3)
    for axis, (count, n) in enumerate(zip(steps, grid.shape, strict=True)):
        position = offset[axis] + np.linspace(0.0, count - 1.0, n)
        field = _spline_along(field, axis, position)
    return field * np.float32(1.6)


def _spline_along(
    field: Floats, axis: int, position: npt.NDArray[np.float64]
) -> Floats:
    """Interpolate along one axis with the quadratic B-spline, which is smooth."""
    base = np.clip(np.floor(position).astype(int), 0, field.shape[axis] - 3)
    t = position - base
    weights = np.zeros((len(position), field.shape[axis]), np.float32)
    rows = np.arange(len(position))
    weights[rows, base] = 0.5 * (1.0 - t) ** 2
    weights[rows, base + 1] = 0.5 + t - t**2
    weights[rows, base + 2] = 0.5 * t**2
    moved = np.moveaxis(field, axis, -1) @ weights.T
    return np.ascontiguousarray(np.moveaxis(moved, -1, axis))


def random_rotation(
    rng: np.random.Generator, tilt: float = 1.0
) -> npt.NDArray[np.float64]:
    """Draw three orthonormal rows; `tilt` 0 keeps the first one within the slice."""
    direction = rng.standard_normal(3) * np.array([tilt, 1.0, 1.0])
    first = direction / np.linalg.norm(direction)
    second = np.cross(first, rng.standard_normal(3))
    second /= np.linalg.norm(second)
    return np.stack([first, second, np.cross(first, second)])


def ellipsoid(
    grid: Grid,
    centre: Floats,
    radii: npt.NDArray[np.float64],
    rotation: npt.NDArray[np.float64],
    window: Window,
) -> tuple[Floats, Floats]:
    """Measure an ellipsoid inside `window`, with half axes `radii` along `rotation`.

    Returns the normalised distance, 0 in the middle and 1 on the surface, and the
    position along the first axis in pixels, both float32 in the shape of `window`.
    """
    dz, dy, dx = grid.offsets(centre, window)
    parts = [
        np.float32(row[0]) * dz + np.float32(row[1]) * dy + np.float32(row[2]) * dx
        for row in rotation
    ]
    squares = sum((p / np.float32(r)) ** 2 for p, r in zip(parts, radii, strict=True))
    return np.sqrt(squares).astype(np.float32), parts[0]


def scattered(
    rng: np.random.Generator, grid: Grid, distance: float, margin: float = 0.0
) -> Floats:
    """Draw points on a jittered lattice of about `distance` pixels, [N,3] float32."""
    low, high = -margin, grid.extent + margin
    lines = [np.arange(low, h + distance, distance) for h in high]
    lattice = np.stack(np.meshgrid(*lines, indexing="ij"), -1).reshape(-1, 3)
    lattice += rng.random(3) * distance * 0.5
    points = lattice + rng.uniform(-0.42, 0.42, lattice.shape) * distance
    return points.astype(np.float32)


def blurred(image: Floats, sigma: tuple[float, float, float]) -> Floats:
    """Blur with a Gaussian of `sigma` voxels along z, y, x."""
    return np.asarray(ndimage.gaussian_filter(image, sigma, truncate=3.0))
