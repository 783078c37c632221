"""Procedural light-sheet fluorescence microscopy: nuclei, vessels and plaques."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from napari_biomedparse.samples.fields import (
    Floats,
    Scene,
    blurred,
    ellipsoid,
    grey_levels,
    random_rotation,
    smooth_noise,
)


class LightSheetScene(Scene):
    """Tissue under a light-sheet microscope; `image` is fluorescence, 0 to about 1."""

    targets = ("nuclei", "vessels", "plaques")
    pixel = 0.8

    def draw(self) -> None:
        """Draw the tissue and all that is wanted in it."""
        rng, grid = self.rng, self.grid
        level = rng.uniform(0.04, 0.2)
        ripple = 0.25 * smooth_noise(rng, grid, 40.0) + 0.1 * smooth_noise(rng, grid, 5)
        self.image = (level * np.clip(1.0 + ripple, 0.2, 2.0)).astype(np.float32)
        self.free = np.ones(grid.shape, bool)
        vessels, plaques = self._add_vessels, self._add_plaques
        self.add({"vessels": vessels, "plaques": plaques, "nuclei": self._add_nuclei})

    def _add_vessels(self) -> None:
        rng, grid = self.rng, self.grid
        centre_line = np.zeros(grid.shape, bool)
        thickness = np.zeros(grid.shape, np.float32)
        number = np.zeros(grid.shape, np.int32)
        for vessel in range(1, 2 + rng.poisson(1.5 * grid.area)):
            radius = rng.uniform(3.2, 6.5)
            path = self._walk()
            voxels = np.round(path / grid.scale).astype(int)
            kept = ((voxels >= 0) & (voxels < np.array(grid.shape))).all(axis=1)
            z, y, x = voxels[kept].T
            centre_line[z, y, x] = True
            thickness[z, y, x] = radius
            number[z, y, x] = vessel
        if not centre_line.any():
            return
        distance, nearest = ndimage.distance_transform_edt(
            ~centre_line, sampling=grid.scale, return_indices=True
        )
        index = tuple(nearest)
        relative = (distance / np.maximum(thickness[index], 1.0)).astype(np.float32)
        inside = relative < 1.0
        glow = rng.uniform(0.35, 0.8)
        hollow = rng.random() < 0.3
        profile = 0.35 + 0.65 * relative**2 if hollow else 1.0 - 0.25 * relative**2
        self.image[inside] = (glow * profile)[inside]
        self.objects["vessels"][inside] = number[index][inside]
        self.free[relative < 1.25] = False

    def _walk(self) -> npt.NDArray[np.float64]:
        """Draw a smooth curve, mostly within slices, float64 [N,3] in pixels."""
        rng, grid = self.rng, self.grid
        steps = int(2.2 * grid.extent[1:].max())
        heading = rng.uniform(0.0, 2.0 * np.pi)
        turns = ndimage.gaussian_filter1d(rng.normal(0.0, 1.0, steps), 12.0)
        angle = heading + np.cumsum(turns) * rng.uniform(0.05, 0.2)
        climb = ndimage.gaussian_filter1d(rng.normal(0.0, 1.0, steps), 20.0)
        rise = rng.normal(0.0, 0.12) + climb
        step = np.stack([0.5 * rise, np.sin(angle), np.cos(angle)], axis=1) * 0.8
        path = np.cumsum(step, axis=0)
        through = rng.uniform(0.15, 0.85, 3) * grid.extent
        return np.asarray(path - path[steps // 2] + through)

    def _add_plaques(self) -> None:
        rng, grid = self.rng, self.grid
        bumps = smooth_noise(rng, grid, 6.0)
        grain = smooth_noise(rng, grid, 2.5)
        glow = rng.uniform(0.65, 1.1)
        for number in range(1, 2 + rng.poisson(2.0 * grid.area)):
            centre = (rng.uniform(0.05, 0.95, 3) * grid.extent).astype(np.float32)
            radius = rng.uniform(10.0, 19.0)
            window = grid.window(centre, 1.7 * radius)
            distance = np.sqrt(grid.squares(centre, window)) / radius
            ragged = distance + 0.16 * bumps[window]
            inside = (ragged < 1.0) & self.free[window]
            body = 0.45 + 0.55 * np.exp(-((distance / 0.45) ** 2))
            body = np.clip(body + 0.2 * grain[window], 0.15, None)
            image = self.image[window]
            image[inside] = (glow * body)[inside]
            halo = (ragged >= 1.0) & (ragged < 1.35) & self.free[window]
            image[halo] += 0.06
            self.objects["plaques"][window][inside] = number
            self.free[window][ragged < 1.15] = False

    def _add_nuclei(self) -> None:
        rng, grid = self.rng, self.grid
        typical = rng.uniform(5.5, 14.0)
        fill = rng.uniform(0.12, 0.45)
        area = float(np.prod(grid.extent))
        count = int(fill * area / (4.2 * typical**3)) + 2
        best = np.full(grid.shape, np.inf, np.float32)
        target = self.objects["nuclei"]
        profile = np.zeros(grid.shape, np.float32)
        lumps = smooth_noise(rng, grid, 3.5)
        spread, dim = rng.uniform(0.05, 0.3), rng.uniform(0.25, 0.55)
        middles: list[Floats] = []
        for number in range(1, count + 1):
            centre = self._place_nucleus(middles, typical)
            if centre is None:
                continue
            radii = typical * rng.uniform(0.8, 1.2, 3)
            window = grid.window(centre, float(radii.max()) + 1.0)
            if any(s.stop <= s.start for s in window):
                continue
            rotation = random_rotation(rng)
            distance, _ = ellipsoid(grid, centre, radii, rotation, window)
            closer = (distance < np.minimum(best[window], 1.0)) & self.free[window]
            if closer.sum() < 20:
                continue
            middles.append(centre)
            glow = np.clip(rng.normal(0.7, spread), 0.25, 1.1)
            target[window][closer] = number
            best[window][closer] = distance[closer]
            profile[window][closer] = glow * (1.0 - dim * distance[closer] ** 2)
        inside = target > 0
        texture = 1.0 + np.float32(rng.uniform(0.02, 0.12)) * lumps
        self.image[inside] += (profile * texture)[inside]

    def _place_nucleus(self, middles: list[Floats], typical: float) -> Floats | None:
        """Choose a place, often beside another nucleus so that the two touch."""
        rng, grid = self.rng, self.grid
        for _ in range(12):
            if middles and rng.random() < 0.5:
                direction = rng.standard_normal(3) * np.array([0.5, 1.0, 1.0])
                direction *= typical / np.linalg.norm(direction)
                direction *= rng.uniform(1.55, 1.9)
                centre = middles[rng.integers(len(middles))] + direction
            else:
                centre = rng.random(3) * grid.extent
            gaps = [np.linalg.norm(centre - other) for other in middles]
            if not gaps or min(gaps) > 1.5 * typical:
                return np.asarray(centre, np.float32)
        return None

    def render(self) -> npt.NDArray[np.uint8]:
        """Add the PSF, shadows and shot noise."""
        rng, grid = self.rng, self.grid
        width = rng.uniform(0.6, 2.0)
        along = rng.uniform(1.0, 2.6) / grid.anisotropy
        image = blurred(self.image, (along, width, width)) * self._shadows()
        photons = rng.uniform(40.0, 400.0)
        counts = rng.poisson(np.clip(image, 0.0, None) * photons)
        image = counts.astype(np.float32) / np.float32(photons)
        amount = np.float32(rng.uniform(0.0, 0.03))
        image += amount * rng.standard_normal(grid.shape, dtype=np.float32)
        low = rng.uniform(0.0, 0.08)
        high = np.percentile(image[:, ::4, ::4], rng.uniform(98.5, 99.9)) + 0.05
        curve = np.clip(image / high, 0.0, 1.0) ** rng.uniform(0.7, 1.2)
        return grey_levels(low + (1.0 - low) * curve)

    def _shadows(self) -> Floats:
        """Draw the light that is left along x, from one side: fall-off and stripes."""
        rng, (depth, height, width) = self.rng, self.grid.shape
        x = np.linspace(0.0, 1.0, width, dtype=np.float32)
        if rng.random() < 0.5:
            x = x[::-1]
        light = np.exp(-rng.uniform(0.0, 0.6) * x)[None, None, :]
        stripes = ndimage.gaussian_filter(
            rng.standard_normal((depth, height)), (1.0, rng.uniform(1.0, 3.0))
        )
        stripes /= stripes.std() + 1e-6
        depthness = rng.choice([0.0, rng.uniform(0.03, 0.12)])
        shade = 1.0 - depthness * np.clip(stripes, 0.0, 2.5)
        return np.asarray(light * shade[:, :, None], np.float32)
