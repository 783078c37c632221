"""The grounding loss against float64 numpy written from its description."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from itertools import permutations
from pathlib import Path

import golden_v1_pure
import numpy as np
import numpy.typing as npt
import pytest
import torch

from napari_biomedparse.networks.v1.mask_decoder import Head
from napari_biomedparse.training.grounding import (
    Sought,
    choice_loss,
    grounding_losses,
    match,
)

Floats = npt.NDArray[np.float64]
QUERIES, POINTS = 5, 16


def sampled(image: Floats, points: Floats) -> Floats:
    """Bilinear at x, y in [0, 1] across the image, zeros outside."""

    def value(row: int, column: int) -> float:
        inside = 0 <= row < image.shape[0] and 0 <= column < image.shape[1]
        return float(image[row, column]) if inside else 0.0

    found = []
    for x, y in points:
        column, row = x * image.shape[1] - 0.5, y * image.shape[0] - 0.5
        left, top = int(np.floor(column)), int(np.floor(row))
        right, down = column - left, row - top
        found.append(
            (1 - down) * (1 - right) * value(top, left)
            + (1 - down) * right * value(top, left + 1)
            + down * (1 - right) * value(top + 1, left)
            + down * right * value(top + 1, left + 1)
        )
    return np.array(found)


def bce_and_dice(x: Floats, y: Floats) -> tuple[float, float]:
    p = 1 / (1 + np.exp(-x))
    bce = -(y * np.log(p) + (1 - y) * np.log(1 - p)).mean()
    return float(bce), float(1 - (2 * (p * y).sum() + 1) / (p.sum() + y.sum() + 1))


def reference(
    masks: Floats, vectors: Floats, sought: list[Sought], scale: float, draws: Draws
) -> Floats:
    """Compute the three terms with loops; all assignments of queries are tried."""
    pairs, choices = [], []
    for image, own in enumerate(sought):
        truth, ends = own.masks.numpy(), own.ends.numpy()
        if not len(truth):
            continue
        points = draws(1, POINTS)[0].numpy()
        similar = np.zeros((QUERIES, len(truth)))
        cost = np.zeros_like(similar)
        for q, p in np.ndindex(*similar.shape):
            v, k = vectors[image, q], ends[p]
            lengths = (np.linalg.norm(v) + 1e-7) * (np.linalg.norm(k) + 1e-7)
            similar[q, p] = min(np.exp(scale), 100) * (v @ k) / lengths
        share = np.exp(similar) / np.exp(similar).sum(axis=0)
        for q, p in np.ndindex(*similar.shape):
            terms = bce_and_dice(
                sampled(masks[image, q], points), sampled(truth[p], points)
            )
            cost[q, p] = 5 * sum(terms) - 2 * share[q, p]
        best = min(
            permutations(range(QUERIES), len(truth)),
            key=lambda some: sum(cost[q, p] for p, q in enumerate(some)),
        )
        pairs += sorted((q, image, p) for p, q in enumerate(best))
        entropy = 0.0
        for p, text in enumerate(own.texts.tolist()):
            equal = [
                q for q, t in zip(best, own.texts.tolist(), strict=True) if t == text
            ]
            entropy -= sum(np.log(share[q, p]) for q in equal) / len(equal)
        choices.append(2.0 * entropy / len(truth))
    candidates, more = draws(len(pairs), 3 * POINTS), draws(len(pairs), POINTS // 4)
    totals = np.zeros(2)
    for number, (q, image, p) in enumerate(pairs):
        at = candidates[number].numpy()
        doubt = np.abs(sampled(masks[image, q], at))
        chosen = at[np.argsort(doubt)[: POINTS * 3 // 4]]
        at = np.concatenate([chosen, more[number].numpy()])
        truth = sought[image].masks[p].numpy()
        totals += bce_and_dice(sampled(masks[image, q], at), sampled(truth, at))
    return np.array([*(totals / len(pairs)), np.mean(choices)])


Draws = Callable[[int, int], torch.Tensor]


def draws_of(seed: int) -> Draws:
    generator = torch.Generator().manual_seed(seed)
    return lambda masks, points: torch.rand(
        (masks, points, 2), generator=generator, dtype=torch.float64
    )


def made(seed: int) -> tuple[Head, list[Sought]]:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    sought = [
        Sought((normal(n, 8, 7) > 0).double(), normal(n, 6), torch.arange(n))
        for n in (3, 0, 1)
    ]
    sought[0].texts[2] = 0
    return Head(2 * normal(3, QUERIES, 4, 5), normal(3, QUERIES, 6)), sought


@pytest.mark.parametrize(("seed", "scale"), [(0, 1.0), (1, -0.5), (2, 9.0)])
def test_losses_equal_the_formulas_in_float64(seed: int, scale: float) -> None:
    head, sought = made(seed)
    factor = torch.tensor(scale, dtype=torch.float64)
    found = grounding_losses(head, sought, factor, draws_of(seed), POINTS)
    plain = (head.masks.numpy(), head.vectors.numpy())
    expected = reference(*plain, sought, scale, draws_of(seed))
    np.testing.assert_allclose([float(x) for x in found], expected, rtol=1e-9)


def test_equal_prompts_share_their_queries() -> None:
    similar = torch.zeros(4, 3)
    queries, prompts = torch.tensor([1, 3, 0]), torch.tensor([0, 1, 2])
    texts, apart = torch.tensor([5, 5, 6]), torch.arange(3)
    similar[1, 0] = similar[3, 0] = similar[1, 1] = similar[3, 1] = 20.0
    similar[0, 2] = 40.0
    shared = float(choice_loss(similar, queries, prompts, texts))
    assert shared == pytest.approx(2 * (2 * np.log(2)) / 3)
    assert float(choice_loss(similar, queries, prompts, apart)) == pytest.approx(shared)
    similar[3, :2] = 0  # the query of the other prompt is less like it
    assert float(choice_loss(similar, queries, prompts, texts)) > 10


def test_images_without_a_prompt_teach_nothing() -> None:
    head, sought = made(0)
    leaves = Head(*(x.requires_grad_() for x in head))
    scale = torch.ones((), dtype=torch.float64)
    terms = grounding_losses(leaves, [sought[1]] * 3, scale, draws_of(0), POINTS)
    assert [float(x.detach()) for x in terms] == [0, 0, 0]
    sum(terms).backward()
    assert all(x.grad is not None and not x.grad.any() for x in leaves)


def test_numbers_that_are_none_are_matched_nevertheless() -> None:
    head, sought = made(0)
    own, points = sought[0], draws_of(0)(1, POINTS)
    nothing = torch.full_like(head.masks[0], torch.nan)
    queries, prompts = match(nothing, nothing[:, 0, :3], own.masks, points)
    assert len(set(queries.tolist())) == 3 and sorted(prompts.tolist()) == [0, 1, 2]


def test_the_golden_loss(shared: Path, tmp_path: Path) -> None:
    shutil.copy(shared / "reference_v1" / "pure_loss.npz", tmp_path)
    results = list(golden_v1_pure.loss(tmp_path))
    assert len(results) == 7 and all(result.passed for result in results), results
