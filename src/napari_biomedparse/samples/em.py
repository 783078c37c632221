"""Procedural electron microscopy: cells with organelles."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial import cKDTree

from napari_biomedparse.samples.fields import (
    Floats,
    Scene,
    blurred,
    ellipsoid,
    grey_levels,
    random_rotation,
    scattered,
    smooth_noise,
)


class EMScene(Scene):
    """Cells under an electron microscope; `image` is what remains of the beam.

    0 is the densest stain and 1 is empty resin.
    """

    targets = ("membrane", "mitochondria", "nucleus", "vesicles", "synaptic cleft")
    pixel = 0.012

    def draw(self) -> None:
        """Draw the cells and all that is wanted in them."""
        self.synapses: list[Floats] = []
        self._grow_cells()
        self.free = self.wall > self.thickness
        self._paint_cytoplasm()
        self.add(
            {
                "nucleus": self._add_nuclei,
                "synaptic cleft": self._add_clefts,
                "mitochondria": self._add_mitochondria,
                "vesicles": self._add_vesicles,
                "membrane": self._add_membranes,
            }
        )

    def _grow_cells(self) -> None:
        """Divide space among cells: `cell` ids and `wall`, the distance to a border."""
        rng, grid = self.rng, self.grid
        self.thickness = rng.uniform(1.8, 3.4)
        size = rng.uniform(26.0, 50.0)
        points = scattered(rng, grid, size, margin=size)
        z, y, x = grid.axes()
        bend = [smooth_noise(rng, grid, s) for s in (size, size, 14.0, 14.0)]
        wave = rng.uniform(2.0, 6.0)
        place = np.stack(
            [
                np.broadcast_to(z, grid.shape),
                y + wave * bend[0] + rng.uniform(0.3, 1.2) * bend[2],
                x + wave * bend[1] + rng.uniform(0.3, 1.2) * bend[3],
            ],
            axis=-1,
        )
        reach, owner = cKDTree(points).query(place.reshape(-1, 3), eps=0.02)
        self.cell = owner.reshape(grid.shape).astype(np.int32)
        self.place = place
        self.big: list[tuple[Floats, float]] = []
        if "nucleus" in self.wanted:
            self._swell(reach.reshape(grid.shape), len(points))
        border = np.zeros(grid.shape, bool)
        border[:, 1:] |= self.cell[:, 1:] != self.cell[:, :-1]
        border[:, :, 1:] |= self.cell[:, :, 1:] != self.cell[:, :, :-1]
        self.wall = np.stack(
            [ndimage.distance_transform_edt(~plane) for plane in border]
        ).astype(np.float32)

    def _swell(self, near: Floats, count: int) -> None:
        """Let a few large cells (for the nuclei) push the others away."""
        number = self.rng.poisson(self.grid.area) + 1
        bent = max(
            float(np.abs(self.place[..., i] - axis).max())
            for i, axis in enumerate(self.grid.axes())
        )
        farthest = float(near.max()) + bent  # beyond that, and its radius, none wins
        for k in range(number):
            centre = (self.rng.uniform(0.05, 0.95, 3) * self.grid.extent).astype("f4")
            radius = self.rng.uniform(26.0, 40.0)
            if any(np.linalg.norm(centre - c) < radius + r for c, r in self.big):
                continue
            self.big.append((centre, radius))
            window = self.grid.window(centre, radius + farthest)
            field = np.linalg.norm(self.place[window] - centre, axis=-1) - radius
            wins = field < near[window]
            near[window][wins] = field[wins]
            self.cell[window][wins] = count + k

    def _paint_cytoplasm(self) -> None:
        rng, grid = self.rng, self.grid
        base = rng.uniform(0.62, 0.85)
        shades = base + rng.normal(0.0, 0.05, int(self.cell.max()) + 1)
        self.image = shades.astype(np.float32)[self.cell]
        grain = rng.uniform(0.02, 0.1)
        self.image += np.float32(grain) * smooth_noise(rng, grid, rng.uniform(2, 4))
        specks = smooth_noise(rng, grid, 2.2) > rng.uniform(1.5, 3.0)
        self.image[specks] -= np.float32(rng.uniform(0.05, 0.25))
        self.line = rng.uniform(0.12, 0.32)

    def _add_nuclei(self) -> None:
        rng, grid = self.rng, self.grid
        texture = smooth_noise(rng, grid, 7.0) + 0.6 * smooth_noise(rng, grid, 3.5)
        shift = rng.choice([-1.0, 1.0]) * rng.uniform(0.06, 0.12)
        for number, (centre, radius) in enumerate(self.big, start=1):
            inner = radius * rng.uniform(0.62, 0.78)
            stretch = inner * rng.uniform(0.8, 1.2, 3)
            rotation = random_rotation(rng)
            window = grid.window(centre, 2.4 * inner)
            if any(s.stop <= s.start for s in window):
                continue
            offset = self.place[window] - centre
            distance = np.linalg.norm(offset @ rotation.T / stretch, axis=-1)
            inside = (distance < 1.0) & self.free[window]
            rim = np.abs(distance - 1.0) * inner < rng.uniform(1.1, 1.8)
            image = self.image[window]
            chromatin = np.where(texture[window] > 0.5, -0.13, 0.05)
            edge = np.where(distance > 0.82, -0.07, 0.0)
            image[inside] = (0.64 + shift + chromatin + edge)[inside]
            image[rim & self.free[window]] = self.line + 0.1
            self.objects["nucleus"][window][inside] = number
            self.free[window][distance < 1.1] = False

    def _add_clefts(self) -> None:
        rng, grid = self.rng, self.grid
        spots = np.argwhere((self.wall < 0.5) & (self.objects["nucleus"] == 0))
        if not len(spots):
            return
        for number in range(1, 2 + rng.poisson(4.0 * grid.area)):
            spot = spots[rng.integers(len(spots))]
            centre = (spot * grid.scale).astype(np.float32)
            reach = rng.uniform(10.0, 16.0)
            window = grid.window(centre, reach)
            close = grid.squares(centre, window) < reach**2
            half = max(self.thickness + 1.0, rng.uniform(3.0, 4.2))
            band = close & (self.wall[window] < half)
            side = self.cell[window] == self.cell[tuple(spot)]
            haze = close & (self.wall[window] < half + 2.0) & side
            self.image[window][haze] -= 0.15
            self.image[window][band] = rng.uniform(0.0, 0.08)
            self.objects["synaptic cleft"][window][band] = number
            self.free[window][band | haze] = False
            self.synapses.append(centre)

    def _add_mitochondria(self) -> None:
        rng, grid = self.rng, self.grid
        target = self.objects["mitochondria"]
        tone, rim_tone = rng.uniform(0.3, 0.48), rng.uniform(0.08, 0.24)
        period = rng.uniform(3.8, 5.2)
        ripple = 1.3 * smooth_noise(rng, grid, 8.0)
        centres = scattered(rng, grid, rng.uniform(14.0, 22.0))
        number = 0
        for centre in centres:
            radii = np.array([rng.uniform(8.0, 19.0), *rng.uniform(5.0, 9.5, 2)])
            rotation = random_rotation(rng, tilt=0.8)
            window = grid.window(centre, radii[0] + 1.0)
            distance, along = ellipsoid(grid, centre, radii, rotation, window)
            room = self.free[window] & (self.wall[window] > self.thickness + 1.0)
            whole = distance < 1.0
            if whole.sum() < 40 or room[whole].mean() < 0.72:
                continue
            inside = whole & room
            number += 1
            image = self.image[window]
            phase = 2.0 * np.pi * (along + ripple[window]) / period
            cristae = 0.5 + 0.5 * np.sin(phase)
            matrix = tone + rng.normal(0.0, 0.03) - 0.16 * cristae
            rim = inside & ((1.0 - distance) * radii[1:].mean() < 1.5)
            image[inside] = matrix[inside]
            image[rim] = rim_tone
            target[window][inside] = number
            self.free[window][distance < 1.2] = False

    def _add_vesicles(self) -> None:
        rng, grid = self.rng, self.grid
        radius = rng.uniform(3.8, 5.2)
        lumen = rng.uniform(0.85, 1.0)
        clusters = list(self.synapses)
        for _ in range(3 + rng.poisson(5.0 * grid.area)):
            clusters.append((rng.random(3) * grid.extent).astype(np.float32))
        number = 0
        for middle in clusters:
            spread = rng.uniform(9.0, 15.0)
            tries = middle + rng.normal(0.0, spread, (60, 3)) * [1.2, 1.0, 1.0]
            for centre in tries.astype(np.float32):
                window = grid.window(centre, radius + 1.0)
                distance = np.sqrt(grid.squares(centre, window))
                ball = distance < radius
                room = self.free[window] & (self.wall[window] > self.thickness + 0.6)
                if ball.sum() < 12 or room[ball].mean() < 0.97:
                    continue
                number += 1
                image = self.image[window]
                image[ball & room] = self.line
                image[(distance < radius - 1.5) & room] = lumen
                self.objects["vesicles"][window][ball & room] = number
                self.free[window][distance < radius + 0.5] = False

    def _add_membranes(self) -> None:
        taken = self.objects["synaptic cleft"] > 0
        band = (self.wall < self.thickness) & ~taken
        self.image[band] = self.line
        self.objects["membrane"][band] = 1

    def render(self) -> npt.NDArray[np.uint8]:
        """Add focus, noise, charging and uneven exposure."""
        rng, grid = self.rng, self.grid
        image = blurred(self.image, (0.0, *(rng.uniform(0.5, 1.3),) * 2))
        contrast = np.float32(rng.uniform(0.7, 1.1))
        image = (image - 0.5) * contrast + np.float32(rng.uniform(0.42, 0.58))
        image += np.float32(rng.uniform(0.01, 0.05)) * smooth_noise(rng, grid, 60.0)
        exposure = rng.normal(0.0, rng.uniform(0.0, 0.03), (grid.shape[0], 1, 1))
        image += exposure.astype(np.float32)
        self._charge(image)
        grain = rng.standard_normal(grid.shape, dtype=np.float32)
        image += np.float32(rng.uniform(0.02, 0.09)) * grain
        soft = rng.standard_normal(grid.shape, dtype=np.float32)
        soft = blurred(soft, (0.0, 1.0, 1.0))
        image += np.float32(rng.uniform(0.0, 0.12)) * soft
        return grey_levels(1.0 - image if rng.random() < 0.06 else image)

    def _charge(self, image: Floats) -> None:
        """Add bright horizontal streaks behind charged spots, in place."""
        rng, (_, height, width) = self.rng, image.shape
        strength = rng.choice([0.0, rng.uniform(0.03, 0.15)])
        if strength == 0.0:
            return
        for plane in image:
            for _ in range(rng.poisson(1.0)):
                row, column = rng.integers(height), rng.integers(width)
                rows = slice(row, row + int(rng.integers(2, 9)))
                tail = np.exp(-np.arange(width - column) / (0.3 * width))
                plane[rows, column:] += (strength * tail).astype(np.float32)
