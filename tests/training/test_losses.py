"""The loss against float64 numpy written from its definition, gradients included."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from napari_biomedparse.training.losses import (
    Targets,
    dice_loss,
    instance_edges,
    segmentation_losses,
)

Floats = npt.NDArray[np.float64]
B, P, H, W = 2, 3, 5, 4
WEIGHT = 3.0
EXISTS = np.array([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]])
COUNTS = np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]])


def reference(mask: Floats, edge: Floats, exist: Floats, truth: Targets) -> Floats:
    """Compute the five terms with loops and plain formulas."""

    def sigmoid(x: Floats) -> Floats:
        return 1 / (1 + np.exp(-x))

    def dice(x: Floats, t: Floats) -> float:
        p = sigmoid(x)
        size = (p**2).sum() + (t**2).sum()
        return float(1 - (2 * (p * t).sum() + 1e-5) / (size + 1e-5))

    def bce(x: Floats, t: Floats) -> float:
        p = sigmoid(x)
        return float(-(t * np.log(p) + (1 - t) * np.log(1 - p)).mean())

    masks, edges, exists, counts = (part.numpy() for part in truth)
    terms = np.zeros(5)
    for b, p in np.argwhere(exists == 1):
        terms[0] += dice(mask[b, p], masks[b, p])
        terms[1] += bce(mask[b, p], masks[b, p])
        terms[2] += dice(edge[b, p], edges[b, p])
        terms[3] += bce(edge[b, p], edges[b, p])
    terms[:4] /= exists.size
    for b, p in np.argwhere(counts == 1):
        q = sigmoid(exist[b, p])
        terms[4] -= WEIGHT * exists[b, p] * np.log(q) + (1 - exists[b, p]) * np.log(
            1 - q
        )
    terms[4] /= counts.sum()
    return terms


def fixed() -> tuple[list[torch.Tensor], Targets]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return 2 * torch.randn(shape, generator=generator, dtype=torch.float64)

    logits = [normal(B, P, H, W), normal(B, P, H, W), normal(B, P)]
    masks = normal(B, P, H, W).clamp(0, 1)
    edges = normal(B, P, H, W).clamp(0, 1)
    truth = Targets(masks, edges, torch.from_numpy(EXISTS), torch.from_numpy(COUNTS))
    return logits, truth


def test_losses_equal_the_formulas_in_float64() -> None:
    logits, truth = fixed()
    terms = segmentation_losses(*logits, truth, WEIGHT)
    expected = reference(*(x.numpy() for x in logits), truth)
    np.testing.assert_allclose([float(term) for term in terms], expected, rtol=1e-12)


def test_losses_in_float32_stay_close() -> None:
    logits, truth = fixed()
    single = segmentation_losses(
        *(x.float() for x in logits), Targets(*(x.float() for x in truth)), WEIGHT
    )
    expected = reference(*(x.numpy() for x in logits), truth)
    np.testing.assert_allclose([float(term) for term in single], expected, rtol=2e-6)


def test_gradients_equal_finite_differences_of_the_formulas() -> None:
    logits, truth = fixed()
    leaves = [x.clone().requires_grad_() for x in logits]
    sum(segmentation_losses(*leaves, truth, WEIGHT)).backward()
    step = 1e-6
    for which, leaf in enumerate(leaves):
        assert leaf.grad is not None
        for index in np.ndindex(*leaf.shape):
            ends = []
            for sign in (1, -1):
                moved = [x.numpy().copy() for x in logits]
                moved[which][index] += sign * step
                ends.append(reference(*moved, truth).sum())
            slope = (ends[0] - ends[1]) / (2 * step)
            assert float(leaf.grad[index]) == pytest.approx(slope, rel=1e-5, abs=1e-8)


def test_absent_targets_teach_existence_only() -> None:
    logits, truth = fixed()
    leaves = [x.clone().requires_grad_() for x in logits]
    none = truth._replace(exists=torch.zeros_like(truth.exists))
    terms = segmentation_losses(*leaves, none, WEIGHT)
    assert not any(term.detach() for term in terms[:4])
    sum(terms).backward()
    assert leaves[0].grad is not None and not leaves[0].grad.any()
    assert leaves[2].grad is not None and bool((leaves[2].grad[COUNTS == 1] > 0).all())


def test_pairs_that_do_not_count_teach_nothing_of_existence() -> None:
    logits, truth = fixed()
    existence = logits[2].clone().requires_grad_()
    segmentation_losses(*logits[:2], existence, truth, WEIGHT).existence.backward()
    assert existence.grad is not None
    np.testing.assert_array_equal(existence.grad.numpy() != 0, COUNTS == 1)


def test_dice_is_0_for_the_truth_and_near_1_for_its_opposite() -> None:
    target = torch.zeros(4, 4)
    target[:2] = 1
    sure = 40 * (2 * target - 1)
    assert float(dice_loss(sure, target)) == pytest.approx(0.0, abs=1e-6)
    assert float(dice_loss(-sure, target)) == pytest.approx(1.0, abs=1e-5)


def test_edges_are_the_3x3_gradient() -> None:
    generator = torch.Generator().manual_seed(1)
    instances = torch.randint(0, 3, (2, 9, 8), generator=generator)
    edges = instance_edges(instances).numpy()
    values = instances.numpy()
    for b, y, x in np.ndindex(*values.shape):
        window = values[b, max(0, y - 1) : y + 2, max(0, x - 1) : x + 2]
        assert edges[b, y, x] == (window.max() != window.min())
