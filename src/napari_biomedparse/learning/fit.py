"""Fit the head of a prompt to corrected slices: a convex problem, nearly.

Binary cross-entropy and half a soft Dice loss of the logits of `refine`, with the
squared weights of standardised features as regularisation, minimised by BFGS
(docs/teach.md). The second stage reads what surrounds a pixel in the first one's mask
(auto-context; Tu and Bai, IEEE TPAMI 2010).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import expit
from torch import Tensor

from napari_biomedparse.networks.blocks.filters import enlarged, filter_logits, sample
from napari_biomedparse.networks.taught import refine

if TYPE_CHECKING:
    import numpy.typing as npt

    from napari_biomedparse.networks.blocks.filters import Planes

PIXELS = 16_000
"""Pixels of all examples together that a fit looks at."""
RARE = 0.1
"""A target with fewer pixels than this share of those drawn is taken whole."""
STAGES = 2
STEPS = 60
DICE = 0.5


class Example(NamedTuple):
    """What the network sees and finds of one prompt in a square, and what is true."""

    group: int  # number of the slice
    logits: Tensor  # float32 [h, w], of the text alone
    exists: bool  # by the text alone
    planes: Planes  # features [K, h, w] and filters
    truth: Tensor  # bool [R, R]
    known: Tensor  # bool [R, R], where the truth is known


def fit_head(
    examples: Sequence[Example], strength: float, *, pixels: int = PIXELS, seed: int = 0
) -> Tensor:
    """Fit all stages of a head, float32 [STAGES, n]; see `refine`.

    `strength` is that of the regularisation.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = [_draw(one, pixels // len(examples), generator) for one in examples]
    weight = torch.cat([weight for _, _, weight in drawn])
    truth = torch.cat([truth for _, truth, _ in drawn]).float()
    head = truth.new_zeros(0, 0)
    for _ in range(STAGES):
        values = [
            _values(head, one, picked)
            for one, (picked, _, _) in zip(examples, drawn, strict=True)
        ]
        row = _fit(torch.cat(values), truth, weight, strength)
        head = torch.cat([head.view(-1, len(row)), row[None]])
    return head


def apply_head(head: Tensor, example: Example) -> Tensor:
    """Correct the mask of an example: logits [R, R]."""
    size = example.known.shape
    logits = example.logits[None]
    if not len(head):
        return enlarged(logits, size)[0]
    return refine(head[None], logits, example.planes, size)[0]


def dice(logits: Sequence[Tensor], examples: Sequence[Example]) -> float:
    """Dice coefficient, 0 to 1, of masks where the logits [R, R] are positive.

    Of all examples together, where the truth is known; 1 if there is nothing.
    """
    shared = both = 0
    for one, example in zip(logits, examples, strict=True):
        found, truth = (one > 0) & example.known, example.truth & example.known
        shared += int((found & truth).sum())
        both += int(found.sum() + truth.sum())
    return 2 * shared / both if both else 1.0


def _draw(
    example: Example, some: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw known pixels: their places [n] in the flat truth, truths and weights."""
    known = example.known.flatten().nonzero()[:, 0]
    picked = known[torch.randperm(len(known), generator=generator)[:some]]
    weight = torch.full((len(picked),), len(known) / max(1, len(picked)))
    truth = example.truth.flatten()
    inside = known[truth[known]]
    if 0 < len(inside) < RARE * some:
        outside = picked[~truth[picked]]
        share = (len(known) - len(inside)) / max(1, len(outside))
        picked = torch.cat([outside, inside])
        weight = torch.ones(len(picked))
        weight[: len(outside)] = share
    return picked, truth[picked], weight


def _values(head: Tensor, example: Example, picked: Tensor) -> Tensor:
    """Return the features [n, 1 + ...] of pixels; the first are logits up to now."""
    size = example.known.shape
    before = apply_head(head, example)
    around = (stack[0] for stack in filter_logits(before[None]))
    planes = (before[None], *example.planes, *around)
    return sample(planes, picked // size[1], picked % size[1], size)


def _fit(values: Tensor, truth: Tensor, weight: Tensor, strength: float) -> Tensor:
    """Minimise the loss over the pixels; returns a row of `refine`."""
    mean, spread = values[:, 1:].mean(0), values[:, 1:].std(0) + 1e-3
    columns = [values[:, :1], torch.ones_like(values[:, :1])]
    design = torch.cat([*columns, (values[:, 1:] - mean) / spread], dim=1).numpy()
    y, w = truth.numpy(), (weight / weight.mean()).numpy()

    def loss(row: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        """Return the loss and its gradient."""
        logits = design @ row.astype(np.float32)
        found = expit(logits)
        entropy = np.mean(w * (np.logaddexp(0, logits) - y * logits))
        shared, both = 2 * (w * found * y).sum() + 1, (w * (found + y)).sum() + 1
        total = entropy + DICE * (1 - shared / both) + strength * (row[2:] ** 2).sum()
        slope = w * (found - y) / len(y)
        slope += DICE * w * (shared / both - 2 * y) / both * found * (1 - found)
        gradient = (slope @ design).astype(np.float64)
        gradient[2:] += 2 * strength * row[2:]
        return float(total), gradient

    begin = np.eye(1, design.shape[1])[0]  # the text alone
    # Products of scipy's L-BFGS wait for threads: ten times the time.
    limits = {"maxiter": STEPS}
    best = minimize(loss, begin, jac=True, method="BFGS", options=limits).x
    row = torch.from_numpy(best.astype(np.float32))
    weights = row[2:] / spread
    return torch.cat([row[:1], row[1:2] - weights @ mean, weights])
