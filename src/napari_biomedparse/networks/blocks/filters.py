"""Classical filters of slices and logits, which a taught head reads beside features.

Gaussian derivatives up to the second order at several scales, with scale-normalised
amplitudes (Lindeberg, "Feature Detection with Automatic Scale Selection", IJCV 1998):
a smoothed image, its gradient, its Laplacian and the eigenvalues of its Hessian. What
is smooth is computed in smaller maps, as in a pyramid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import reduce

import torch
from torch import Tensor
from torch.nn import functional as F

LARGEST = 512
"""Side of the largest maps, in pixels; of a larger square, they are smaller."""
SCALES = ((1, 2), (2,), (2, 4))
"""Standard deviations of the Gaussians, in pixels of maps of full, half and a quarter
of the size: 1, 2, 4, 8 and 16 pixels of the largest."""
FILTERS = (3 + 5 * 2, 5, 10)
CONTEXT = (1, 4, 8)
_REACH = 2
_SATURATED = 8.0
"""Logits beyond this say no more."""

Planes = tuple[Tensor, ...]
"""Maps [..., C, h, w] of a slice, of several sizes."""


def filter_slice(square: Tensor) -> Planes:
    """Filter a slice with its two neighbours or colours, [3, S, S].

    The first channel is filtered; all three take part as they are. There are `FILTERS`
    maps of R = `refined_size` pixels a side, and of half and a quarter of it.
    """
    planes = _shrunk(square.to(torch.float32), square.shape[-1] // refined_size(square))
    found = []
    for at, scales in enumerate(SCALES):
        first = _shrunk(planes[:1], 2**at)[0]
        maps = [] if at else list(planes)
        for scale in scales:
            maps += _derivatives(first, scale)
        found.append(torch.stack(maps))
    return tuple(found)


def refined_size(square: Tensor) -> int:
    """Side of the largest maps of a square [..., S, S]."""
    size = square.shape[-1]
    return size // -(-size // LARGEST)


def filter_logits(logits: Tensor) -> Planes:
    """Describe what surrounds each pixel in maps of logits, [P, R, R].

    Probabilities, their largest and smallest value nearby, and logits and
    probabilities blurred with 2, 4, 8, 16 and 32 pixels: maps [P, n, h, w], n of
    `CONTEXT`, of full, half and a quarter of the size.
    """
    mask = logits.sigmoid()
    clipped = logits.clamp(-_SATURATED, _SATURATED)
    half = _shrunk(torch.stack([clipped, mask]).flatten(0, 1), 2)
    quarter = _shrunk(half, 2)
    near = [_extreme(mask, torch.maximum), _extreme(mask, torch.minimum)]
    near += blurred(half, 1).chunk(2)
    wide = [maps for scale in (1, 2, 4, 8) for maps in blurred(quarter, scale).chunk(2)]
    return mask[:, None], torch.stack(near, dim=1), torch.stack(wide, dim=1)


def combine(weights: Tensor, planes: Planes, size: Sequence[int]) -> Tensor:
    """Sum maps with the weights of each prompt, [P, n] -> [P, *size].

    The maps [C, h, w], or [P, C, h, w] if each prompt has its own, are n together. The
    smaller ones are summed first, and then enlarged bilinearly.
    """
    sums: dict[Sequence[int], Tensor] = {}
    counts = [stack.shape[-3] for stack in planes]
    for part, stack in zip(torch.split(weights, counts, dim=-1), planes, strict=True):
        flat = stack.flatten(-2)
        if flat.ndim == 3:
            found = (part[:, None] @ flat)[:, 0]
        else:
            found = part @ flat
        shape = stack.shape[-2:]
        found = found.view(len(part), *shape)
        sums[shape] = sums[shape] + found if shape in sums else found
    return sum(enlarged(one, size) for one in sums.values())  # type: ignore[return-value]


def sample(
    planes: Planes, rows: Tensor, columns: Tensor, size: Sequence[int]
) -> Tensor:
    """Return the values [n, C] that `combine` would sum at pixels of a map of `size`.

    The maps are [C, h, w].
    """
    place = torch.stack(
        [(2 * columns + 1) / size[1] - 1, (2 * rows + 1) / size[0] - 1], dim=1
    )
    found = [
        F.grid_sample(
            stack[None],
            place[None, None].to(stack.dtype),
            padding_mode="border",
            align_corners=False,
        )[0, :, 0]
        for stack in planes
    ]
    return torch.cat(found).T


def enlarged(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Resize maps [C, h, w] bilinearly."""
    if maps.shape[-2:] == tuple(size):
        return maps
    large: Tensor = F.interpolate(maps[None], tuple(size), mode="bilinear")[0]
    return large


def blurred(maps: Tensor, scale: float) -> Tensor:
    """Convolve maps [C, h, w] with a Gaussian; beyond the border its values go on."""
    reach = round(3 * scale)
    place = torch.arange(-reach, reach + 1, dtype=torch.float64)
    kernel = torch.exp(-(place**2) / (2 * scale**2))
    weights = (kernel / kernel.sum()).tolist()
    for axis in (-2, -1):  # shifted and added: faster than a convolution of one channel
        parts = _shifted(maps, reach, axis)
        maps = next(parts) * weights[0]
        for part, weight in zip(parts, weights[1:], strict=True):
            maps.add_(part, alpha=weight)
    return maps


def _derivatives(plane: Tensor, scale: float) -> list[Tensor]:
    """Smooth a plane [h, w]; with its gradient, Laplacian and Hessian's eigenvalues."""
    (smooth,) = blurred(plane[None], scale)
    across, down = _gradient(smooth)
    xx, xy = _gradient(across)
    _, yy = _gradient(down)
    laplacian = (xx + yy) * scale**2
    spread = ((xx - yy) ** 2 / 4 + xy**2).sqrt() * scale**2
    highest, lowest = laplacian / 2 + spread, laplacian / 2 - spread
    return [smooth, (across**2 + down**2).sqrt() * scale, laplacian, highest, lowest]


def _shrunk(maps: Tensor, factor: int) -> Tensor:
    """Average maps [C, h, w] over squares."""
    return maps if factor == 1 else F.avg_pool2d(maps, factor)


def _extreme(maps: Tensor, larger: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Largest value near each pixel of half the maps, [P, h, w] -> [P, h / 2, w / 2].

    Of 10 x 10 pixels: pooling does the same at twenty times the cost.
    """
    found = larger(
        larger(maps[:, ::2, ::2], maps[:, 1::2, ::2]),
        larger(maps[:, ::2, 1::2], maps[:, 1::2, 1::2]),
    )
    for axis in (-2, -1):
        found = reduce(larger, _shifted(found, _REACH, axis))
    return found


def _shifted(maps: Tensor, reach: int, axis: int) -> Iterator[Tensor]:
    """Shift maps [C, h, w] along an axis, by -reach to reach; their border goes on."""
    pads = (0, 0, reach, reach) if axis == -2 else (reach, reach, 0, 0)
    wide = F.pad(maps, pads, "replicate")
    for at in range(2 * reach + 1):
        yield wide.narrow(axis, at, maps.shape[axis])


def _gradient(plane: Tensor) -> tuple[Tensor, Tensor]:
    """Central differences along columns and rows of [h, w]."""
    padded = F.pad(plane[None], (1, 1, 1, 1), "replicate")[0]
    across = (padded[1:-1, 2:] - padded[1:-1, :-2]) / 2
    return across, (padded[2:, 1:-1] - padded[:-2, 1:-1]) / 2
