"""Classical filters, against scipy's and against formulas."""

from __future__ import annotations

import numpy as np
import scipy.ndimage
import torch

from napari_biomedparse.networks.blocks.filters import (
    CONTEXT,
    CONTEXT_SCALES,
    FILTERS,
    SCALES,
    filter_logits,
    filter_slice,
)


def square(seed: int = 0) -> torch.Tensor:
    return torch.rand(3, 40, 48, generator=torch.Generator().manual_seed(seed)) * 255


def test_a_slice_and_its_neighbours_come_before_five_filters_of_each_scale() -> None:
    seen = square()
    found = filter_slice(seen)
    assert found.shape == (FILTERS, 40, 48)
    torch.testing.assert_close(found[:3], seen)
    for at, scale in enumerate(SCALES):
        smooth = scipy.ndimage.gaussian_filter(
            seen[0].double().numpy(), scale, mode="nearest", radius=3 * scale
        )
        mine = found[3 + 5 * at :][:5].double().numpy()
        np.testing.assert_allclose(mine[0], smooth, atol=1e-3)
        down, across = np.gradient(np.pad(smooth, 1, mode="edge"))
        down, across = down[1:-1, 1:-1], across[1:-1, 1:-1]
        np.testing.assert_allclose(mine[1], np.hypot(down, across) * scale, atol=1e-2)
        # Trace and eigenvalues of the Hessian belong together.
        np.testing.assert_allclose(mine[3] + mine[4], mine[2], atol=1e-2)
        assert (mine[3] >= mine[4]).all()


def test_a_parabola_has_constant_curvature() -> None:
    rows = torch.arange(120.0)[:, None].expand(120, 120)
    found = filter_slice(torch.stack([rows**2 / 100] * 3))
    for at, scale in enumerate(SCALES):
        inside = found[3 + 5 * at :][:5, 50:70, 50:70]
        curvature = torch.full_like(inside[2], scale**2 / 50)
        torch.testing.assert_close(inside[2], curvature, atol=2e-3 * scale**2, rtol=0)
        torch.testing.assert_close(inside[3], curvature, atol=2e-3 * scale**2, rtol=0)
        assert inside[4].abs().max() < 2e-3 * scale**2


def test_what_surrounds_a_logit_is_its_blurred_mask_and_the_extremes_nearby() -> None:
    logits = (square(1)[0] - 127) / 10
    found = filter_logits(logits).double().numpy()
    mask = logits.double().sigmoid().numpy()
    assert found.shape == (CONTEXT, 40, 48)
    np.testing.assert_allclose(found[0], mask, atol=1e-6)
    extremes = [scipy.ndimage.maximum_filter, scipy.ndimage.minimum_filter]
    for mine, extreme in zip(found[1:3], extremes, strict=True):
        np.testing.assert_allclose(mine, extreme(mask, 9, mode="nearest"), atol=1e-6)
    for at, scale in enumerate(CONTEXT_SCALES):
        for mine, plane in zip(
            found[3 + 2 * at :][:2],
            (logits.clamp(-8, 8).double().numpy(), mask),
            strict=True,
        ):
            smooth = scipy.ndimage.gaussian_filter(
                plane, scale, mode="nearest", radius=3 * scale
            )
            np.testing.assert_allclose(mine, smooth, atol=1e-4)
