"""The demo model's loss and schedule, where they differ from those of fine-tuning."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from batches import Batch, Batches, Case, Question, question
from learning import ScheduledModule, rate_at

from napari_biomedparse.networks.config import TINY
from napari_biomedparse.networks.v2.biomedparse import BiomedParse
from napari_biomedparse.training.losses import Losses, Targets, segmentation_losses
from napari_biomedparse.training.options import FinetuneOptions

B, P, H, W = 2, 3, 5, 4
EXISTS = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]], dtype=torch.float64)
COUNTS = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]], dtype=torch.float64)


def squares() -> Batch:
    image = np.full((3, 64, 64), 60, np.uint8)
    image[:, 16:40, 16:40] = 200
    found = image == 200
    case = Case("a", image, found.astype(np.uint8), found.astype(np.uint16))

    def ask(rng: np.random.Generator) -> list[Question]:
        return [question("square", {"a": 1}), question("circle", {})]

    return Batches([case], ask, size=64, slices=2, seed=0)[0]


def module(
    learning_rate: float = 1e-3,
    schedule: int = 1,
    coefficients: tuple[float, ...] = (1.0,) * 5,
    edge_weight: float = 1.0,
) -> ScheduledModule:
    torch.manual_seed(0)
    return ScheduledModule(
        BiomedParse(TINY),
        FinetuneOptions(learning_rate=learning_rate),
        schedule=schedule,
        coefficients=coefficients,
        edge_weight=edge_weight,
    )


def fixed() -> tuple[list[torch.Tensor], Targets]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return 2 * torch.randn(shape, generator=generator, dtype=torch.float64)

    logits = [normal(B, P, H, W), normal(B, P, H, W), normal(B, P)]
    masks = normal(B, P, H, W).clamp(0, 1) * EXISTS[..., None, None]
    return logits, Targets(masks, normal(B, P, H, W).clamp(0, 1), EXISTS, COUNTS)


def test_masks_of_absent_targets_count() -> None:
    logits, truth = fixed()
    plain = segmentation_losses(*logits, truth, 3.0, over_all=False)
    terms = module().compare(*logits, truth)
    pairs = torch.argwhere((EXISTS == 0) & (COUNTS == 1))
    empty = [torch.nn.functional.softplus(logits[0][b, p]).mean() for b, p in pairs]
    expected = float(plain.mask_bce) + float(np.mean(empty))
    assert float(terms.mask_bce) == pytest.approx(expected, rel=1e-12)
    for name in ("mask_dice", "edge_dice", "edge_bce", "existence"):
        assert float(getattr(terms, name)) == pytest.approx(float(getattr(plain, name)))


def test_missed_edges_cost_more() -> None:
    logits, truth = fixed()
    terms = module(edge_weight=3.0).compare(*logits, truth)
    x, t = logits[1].numpy(), truth.edges.numpy()
    pixels = 3.0 * t * np.log1p(np.exp(-x)) + (1.0 - t) * np.log1p(np.exp(x))
    expected = pixels.mean(axis=(2, 3))[EXISTS.numpy() == 1].mean()
    assert float(terms.edge_bce) == pytest.approx(expected, rel=1e-12)


def test_the_loss_is_weighted() -> None:
    weights = (0.5, 2.0, 0.0, 1.0, 3.0)
    weighted = module(coefficients=weights)
    losses, _ = weighted.losses_and_masks(squares())
    loss = weighted.total(losses)
    expected = np.dot(weights, [float(term.detach()) for term in losses])
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)
    terms = Losses(*torch.arange(1.0, 6.0))
    assert float(weighted.total(terms)) == 0.5 + 4 + 4 + 15


def test_the_learning_rate_rises_then_falls_to_a_hundredth() -> None:
    made = module(learning_rate=0.2, schedule=200).configure_optimizers()
    assert isinstance(made, dict)
    optimizer = made["optimizer"]
    rates = []
    for _ in range(200):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        made["lr_scheduler"]["scheduler"].step()  # type: ignore[typeddict-item,union-attr]
    assert rates == sorted(rates[:7]) + sorted(rates[7:], reverse=True)
    assert rates[0] == pytest.approx(0.002) and max(rates) == pytest.approx(0.2)
    middle = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (100 / 200 - 0.03) / 0.97))
    assert rates[100] == pytest.approx(0.2 * middle)
    assert rate_at(1.0) == pytest.approx(0.01)
