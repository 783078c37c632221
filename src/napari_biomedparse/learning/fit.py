"""Fit the head of a prompt to corrected slices: a convex problem, nearly.

Binary cross-entropy and half a soft Dice loss of the logits of `refine`, with the
squared weights of standardised features as regularisation, minimised by L-BFGS
(docs/teach.md). The second stage reads what surrounds a pixel in the first one's mask
(auto-context; Tu and Bai, IEEE TPAMI 2010).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from napari_biomedparse.networks.blocks.filters import filter_logits
from napari_biomedparse.networks.taught import refine

PIXELS = 16_000
"""Pixels of all examples together that a fit looks at."""
RARE = 0.1
"""A target with fewer pixels than this share of those drawn is taken whole."""
STAGES = 2
STEPS = 40
DICE = 0.5


class Example(NamedTuple):
    """What the network sees and finds of one prompt in a square, and what is true."""

    group: int  # number of the slice
    logits: Tensor  # float32 [h, w], of the text alone
    exists: bool  # by the text alone
    features: Tensor  # float32 [C, h, w]
    filters: Tensor  # float32 [FILTERS, S, S]
    truth: Tensor  # bool [S, S]
    known: Tensor  # bool [S, S], where the truth is known


def fit_head(examples: Sequence[Example], strength: float, *, seed: int = 0) -> Tensor:
    """Fit all stages of a head, float32 [STAGES, 2 + C + FILTERS + CONTEXT].

    `strength` is that of the regularisation.
    """
    generator = torch.Generator().manual_seed(seed)
    head = examples[0].logits.new_zeros(0, 0)
    for _ in range(STAGES):
        each = [_sample(one, head, len(examples), generator) for one in examples]
        values, truth, weight = map(torch.cat, zip(*each, strict=True))
        row = _fit(values, truth, weight, strength)
        head = torch.cat([head.view(-1, len(row)), row[None]])
    return head


def apply_head(head: Tensor, example: Example) -> Tensor:
    """Correct the mask of an example: logits [S, S]."""
    return refine(head, example.logits, example.features, example.filters)


def dice(logits: Sequence[Tensor], examples: Sequence[Example]) -> float:
    """Dice coefficient, 0 to 1, of masks where the logits [S, S] are positive.

    Of all examples together, where the truth is known; 1 if there is nothing.
    """
    shared = both = 0
    for one, example in zip(logits, examples, strict=True):
        found, truth = (one > 0) & example.known, example.truth & example.known
        shared += int((found & truth).sum())
        both += int(found.sum() + truth.sum())
    return 2 * shared / both if both else 1.0


def _sample(
    example: Example, head: Tensor, among: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw known pixels: features [n, 1 + ...], truths [n] and weights [n].

    The first feature is the logit of the stages before.
    """
    size = example.filters.shape[-2:]
    before = apply_head(head, example)
    known = example.known.flatten().nonzero()[:, 0]
    some = PIXELS // among
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
    planes = torch.cat([example.filters, filter_logits(before)]).flatten(1)[:, picked]
    rows, columns = picked // size[1], picked % size[1]
    place = torch.stack([(2 * columns + 1) / size[1], (2 * rows + 1) / size[0]], dim=1)
    features = F.grid_sample(
        example.features[None], place[None, None] - 1,
        padding_mode="border", align_corners=False,
    )[0, :, 0]  # fmt: skip
    values = torch.cat([before.flatten()[None, picked], features, planes]).T
    return values, truth[picked].float(), weight


def _fit(values: Tensor, truth: Tensor, weight: Tensor, strength: float) -> Tensor:
    """Minimise the loss over the pixels; returns a row of `refine`."""
    weight = weight / weight.mean()
    mean, spread = values[:, 1:].mean(0), values[:, 1:].std(0) + 1e-3
    columns = [
        values[:, :1],
        torch.ones(len(values), 1),
        (values[:, 1:] - mean) / spread,
    ]
    design = torch.cat(columns, dim=1)
    row = torch.zeros(design.shape[1])
    row[0] = 1.0
    row.requires_grad_()
    optimiser = torch.optim.LBFGS(
        [row], max_iter=STEPS, history_size=10, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimiser.zero_grad()
        logits = design @ row
        found = logits.sigmoid()
        entropy = F.binary_cross_entropy_with_logits(logits, truth, weight=weight)
        shared, both = (weight * found * truth).sum(), (weight * (found + truth)).sum()
        dice = 1 - (2 * shared + 1) / (both + 1)
        total: Tensor = entropy + DICE * dice + strength * (row[2:] ** 2).sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    with torch.enable_grad():
        optimiser.step(loss)  # type: ignore[no-untyped-call]
    weights = row.detach()[2:] / spread
    constant = row.detach()[1] - (weights * mean).sum()
    return torch.cat([row.detach()[:1], constant[None], weights])
