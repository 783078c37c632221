"""Classical filters of slices and logits, which a taught head reads beside features.

Gaussian derivatives up to the second order at several scales, with scale-normalised
amplitudes (Lindeberg, "Feature Detection with Automatic Scale Selection", IJCV 1998):
a smoothed image, its gradient, its Laplacian and the eigenvalues of its Hessian.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

SCALES = (1, 2, 4, 8)
"""Standard deviations of the Gaussians, in network pixels."""
FILTERS = 1 + 5 * len(SCALES) + 2
CONTEXT_SCALES = (2, 4, 8, 16)
CONTEXT = 3 + 2 * len(CONTEXT_SCALES)
_REACH = 4
_SATURATED = 8.0
"""Logits beyond this say no more."""


def filter_slice(square: Tensor) -> Tensor:
    """Filter a slice with its two neighbours or colours, [3, S, S] -> [FILTERS, S, S].

    The first channel is filtered; all three take part as they are.
    """
    planes = square.to(torch.float32)
    found = list(planes)
    for scale in SCALES:
        smooth = _blurred(planes[0], scale)
        across, down = _gradient(smooth)
        xx, xy = _gradient(across)
        _, yy = _gradient(down)
        laplacian = (xx + yy) * scale**2
        spread = ((xx - yy) ** 2 / 4 + xy**2).sqrt() * scale**2
        found += [smooth, (across**2 + down**2).sqrt() * scale, laplacian]
        found += [laplacian / 2 + spread, laplacian / 2 - spread]
    return torch.stack(found)


def filter_logits(logits: Tensor) -> Tensor:
    """Describe what surrounds each pixel in a map of logits, [S, S] -> [CONTEXT, S, S].

    Probabilities, their largest and smallest value nearby, and both blurred.
    """
    mask, clipped = logits.sigmoid(), logits.clamp(-_SATURATED, _SATURATED)
    highest, lowest = _highest(mask), 1 - _highest(1 - mask)
    blurred = [
        _blurred(plane, scale) for scale in CONTEXT_SCALES for plane in (clipped, mask)
    ]
    return torch.stack([mask, highest, lowest, *blurred])


def _highest(plane: Tensor) -> Tensor:
    """Largest value in the neighbourhood of each pixel of [S, S]."""
    return F.max_pool2d(plane[None], 2 * _REACH + 1, stride=1, padding=_REACH)[0]


def _blurred(plane: Tensor, scale: float) -> Tensor:
    """Convolve [S, S] with a Gaussian; beyond the border its last values go on."""
    reach = round(3 * scale)
    place = torch.arange(-reach, reach + 1, dtype=plane.dtype, device=plane.device)
    kernel = torch.exp(-(place**2) / (2 * scale**2))
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1)
    image = F.conv2d(
        F.pad(plane[None, None], (reach, reach, 0, 0), "replicate"), kernel
    )
    image = F.pad(image, (0, 0, reach, reach), "replicate")
    blurred: Tensor = F.conv2d(image, kernel.mT)[0, 0]
    return blurred


def _gradient(plane: Tensor) -> tuple[Tensor, Tensor]:
    """Central differences along columns and rows of [S, S]."""
    padded = F.pad(plane[None], (1, 1, 1, 1), "replicate")[0]
    across = (padded[1:-1, 2:] - padded[1:-1, :-2]) / 2
    return across, (padded[2:, 1:-1] - padded[:-2, 1:-1]) / 2
