"""The fit of a head: its optimum, rare targets, what is unknown."""

from __future__ import annotations

import numpy as np
import scipy.optimize
import torch

from napari_biomedparse.learning.fit import (
    DICE,
    Example,
    _fit,
    apply_head,
    dice,
    fit_head,
)
from napari_biomedparse.networks.blocks.filters import FILTERS, filter_slice


def example(seed: int = 0, *, size: int = 64, group: int = 0) -> Example:
    """Make bright blobs whose text logits say nothing."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = torch.meshgrid(
        torch.arange(size), torch.arange(size), indexing="ij"
    )
    truth = torch.zeros(size, size, dtype=torch.bool)
    for y, x in torch.randint(8, size - 8, (5, 2), generator=generator).tolist():
        truth |= (rows - y) ** 2 + (columns - x) ** 2 < 25
    noise = torch.randn(3, size, size, generator=generator) * 20
    grey = 100 + 80 * truth + noise
    features = torch.randn(6, size // 4, size // 4, generator=generator)
    logits = torch.randn(size // 4, size // 4, generator=generator) * 0.1
    planes = (features, *filter_slice(grey))
    return Example(group, logits, True, planes, truth, torch.ones_like(truth))


def test_the_fit_is_the_optimum_that_scipy_finds_in_float64() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(400, 5)) * [1, 3, 0.5, 1, 2] + [0, 1, 0, -2, 0]
    truth = (values @ [0.5, 1, -2, 0, 0.3] + rng.normal(size=400) > 0).astype(float)
    weight = rng.uniform(0.5, 2, 400)
    weight /= weight.mean()
    strength = 0.01
    spread = values[:, 1:].std(axis=0, ddof=1) + 1e-3
    design = np.column_stack(
        [values[:, 0], np.ones(400), (values[:, 1:] - values[:, 1:].mean(0)) / spread]
    )

    def loss(row: np.ndarray) -> float:
        logits = design @ row
        found = 1 / (1 + np.exp(-logits))
        entropy = np.mean(weight * (np.logaddexp(0, logits) - truth * logits))
        shared, both = (weight * found * truth).sum(), (weight * (found + truth)).sum()
        soft = 1 - (2 * shared + 1) / (both + 1)
        return float(entropy + DICE * soft + strength * (row[2:] ** 2).sum())

    best = scipy.optimize.minimize(loss, np.eye(len(design[0]))[0])
    row = _fit(
        *(torch.from_numpy(x).float() for x in (values, truth, weight)), strength
    ).numpy()
    mine = design @ np.concatenate(
        [row[:1], [row[1] + values[:, 1:].mean(0) @ row[2:]], row[2:] * spread]
    )
    direct = row[0] * values[:, 0] + row[1] + values[:, 1:] @ row[2:]
    np.testing.assert_allclose(mine, direct, atol=1e-4)
    standardised = np.concatenate(
        [row[:1], [row[1] + values[:, 1:].mean(0) @ row[2:]], row[2:] * spread]
    )
    assert loss(standardised) <= best.fun + 1e-4


def test_what_is_learned_from_one_slice_holds_in_another() -> None:
    one, other = example(1), example(2)
    before = dice([torch.randn(64, 64)], [other])
    after = dice([apply_head(fit_head([one], 0.003), other)], [other])
    assert before < 0.3
    assert after > 0.8


def test_a_rare_target_is_not_lost() -> None:
    one = example(3, size=128)
    rare = torch.zeros_like(one.truth)
    rows, columns = one.truth.nonzero()[0].tolist()
    rare[rows : rows + 4, columns - 2 : columns + 2] = True
    features, fine, *coarse = one.planes
    fine = fine.clone()
    fine[:3, rare] += 300
    one = one._replace(truth=rare, planes=(features, fine, *coarse))
    assert dice([apply_head(fit_head([one], 0.003), one)], [one]) > 0.8


def test_what_is_unknown_takes_no_part() -> None:
    one = example(4)
    unknown = torch.zeros_like(one.known)
    unknown[:, :32] = True
    wrong = one._replace(truth=one.truth ^ unknown, known=~unknown)
    right = one._replace(known=~unknown)
    assert torch.equal(fit_head([wrong], 0.003), fit_head([right], 0.003))
    assert dice([torch.ones(64, 64)], [one._replace(known=unknown & False)]) == 1.0


def test_filters_have_their_place_in_a_head() -> None:
    head = fit_head([example(5)], 0.003)
    grey = head[0, 2 + 6 : 2 + 6 + sum(FILTERS)]
    assert grey.abs().max() > 0
