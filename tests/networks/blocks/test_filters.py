"""Classical filters, against scipy's and against formulas."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import scipy.ndimage
import torch
from torch.nn import functional as F

from napari_biomedparse.networks.blocks.filters import (
    CONTEXT,
    FILTERS,
    LARGEST,
    SCALES,
    combine,
    filter_logits,
    filter_slice,
    refined_size,
    sample,
)

Plane = npt.NDArray[np.float64]


def square(size: int = 48, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(3, size, size, generator=generator) * 255


def smoothed(plane: Plane, scale: int) -> Plane:
    return scipy.ndimage.gaussian_filter(plane, scale, mode="nearest", radius=3 * scale)


def shrunk(plane: Plane, factor: int) -> Plane:
    height, width = plane.shape
    parts = plane.reshape(height // factor, factor, width // factor, factor)
    return parts.mean(axis=(1, 3))


def test_a_slice_and_its_neighbours_come_before_five_filters_of_each_scale() -> None:
    seen = square()
    found = filter_slice(seen)
    assert tuple(len(maps) for maps in found) == FILTERS
    torch.testing.assert_close(found[0][:3], seen)
    for level, scales in enumerate(SCALES):
        plane = shrunk(seen[0].double().numpy(), 2**level)
        skipped = 0 if level else 3
        for at, scale in enumerate(scales):
            smooth = smoothed(plane, scale)
            mine = found[level][skipped + 5 * at :][:5].double().numpy()
            np.testing.assert_allclose(mine[0], smooth, atol=1e-3)
            down, across = np.gradient(np.pad(smooth, 1, mode="edge"))
            down, across = down[1:-1, 1:-1], across[1:-1, 1:-1]
            np.testing.assert_allclose(
                mine[1], np.hypot(down, across) * scale, atol=1e-2
            )
            # Trace and eigenvalues of the Hessian belong together.
            np.testing.assert_allclose(mine[3] + mine[4], mine[2], atol=1e-2)
            assert (mine[3] >= mine[4]).all()


def test_large_squares_are_filtered_at_half_their_size() -> None:
    large = square(2 * LARGEST)[:, :, :]
    assert refined_size(large) == LARGEST
    assert refined_size(square()) == 48
    small = F.avg_pool2d(large, 2)
    for one, other in zip(filter_slice(large), filter_slice(small), strict=True):
        torch.testing.assert_close(one, other)


def test_context_is_what_surrounds_each_pixel() -> None:
    logits = (square(seed=1)[:2] - 127) / 20
    fine, half, quarter = filter_logits(logits)
    assert tuple(maps.shape[1] for maps in (fine, half, quarter)) == CONTEXT
    assert half.shape == (2, CONTEXT[1], 24, 24)
    assert quarter.shape == (2, CONTEXT[2], 12, 12)
    for at in range(2):
        clipped = logits[at].double().clamp(-8, 8).numpy()
        mask = 1 / (1 + np.exp(-logits[at].double().numpy()))
        np.testing.assert_allclose(fine[at, 0], mask, atol=1e-6)
        blocks = mask.reshape(24, 2, 24, 2)
        highest = scipy.ndimage.maximum_filter(blocks.max(axis=(1, 3)), 5)
        lowest = scipy.ndimage.minimum_filter(blocks.min(axis=(1, 3)), 5)
        np.testing.assert_allclose(half[at, 0], highest, atol=1e-6)
        np.testing.assert_allclose(half[at, 1], lowest, atol=1e-6)
        for plane, mine in ((clipped, half[at, 2]), (mask, half[at, 3])):
            np.testing.assert_allclose(mine, smoothed(shrunk(plane, 2), 1), atol=1e-5)
        for place, scale in enumerate((1, 2, 4, 8)):
            for mine, plane in enumerate((clipped, mask), start=2 * place):
                blurred = smoothed(shrunk(plane, 4), scale)
                np.testing.assert_allclose(quarter[at, mine], blurred, atol=1e-5)


@pytest.mark.parametrize("own", [False, True])
def test_sums_of_maps_are_those_of_their_enlarged_maps(*, own: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    sizes = ((2, 16, 16), (3, 8, 8), (1, 8, 8), (2, 4, 4))
    more = (5,) if own else ()
    planes = tuple(torch.randn(*more, *size, generator=generator) for size in sizes)
    weights = torch.randn(5, 8, generator=generator)
    found = combine(weights, planes, (16, 16))
    for at in range(5):
        mine = [stack[at] if own else stack for stack in planes]
        wide = torch.cat(
            [F.interpolate(one[None], (16, 16), mode="bilinear")[0] for one in mine]
        )
        expected = torch.einsum("n,nhw->hw", weights[at], wide)
        torch.testing.assert_close(found[at], expected, atol=1e-5, rtol=1e-5)
        rows, columns = torch.tensor([0, 3, 15]), torch.tensor([15, 0, 7])
        values = sample(tuple(mine), rows, columns, (16, 16))
        torch.testing.assert_close(
            values, wide[:, rows, columns].T, atol=1e-5, rtol=1e-5
        )
