"""What is trained: it learns by the schedule, and each slice has a field of its own."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from napari_biomedparse.networks.config import TINY
from napari_biomedparse.networks.v2.biomedparse import BiomedParse
from napari_biomedparse.training.chunks import Numbered
from napari_biomedparse.training.data import Batches, Case, Question, question
from napari_biomedparse.training.module import Learning, TrainingModule, rate_at
from napari_biomedparse.training.predict import DrawnField


def squares() -> Batches:
    image = np.full((3, 64, 64), 60, np.uint8)
    image[:, 16:40, 16:40] = 200
    found = image == 200
    case = Case("a", image, found.astype(np.uint8), found.astype(np.uint16))

    def ask(rng: np.random.Generator) -> list[Question]:
        return [question("square", {"a": 1}), question("circle", {})]

    return Batches([case], ask, size=64, slices=2, seed=0)


def model() -> BiomedParse:
    torch.manual_seed(0)
    return BiomedParse(TINY)


def test_the_loss_falls_and_only_matrices_and_kernels_decay() -> None:
    module = TrainingModule(model(), Learning(3e-3, weight_decay=0.1))
    optimizer = module.configure_optimizers()
    assert isinstance(optimizer, torch.optim.AdamW)
    decayed, spared = optimizer.param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
    assert all(p.ndim > 1 for p in decayed["params"])
    table = module.model.mask_decoder.language_encoder.encoder_transformer
    assert any(p is table.token_embedding.weight for p in spared["params"])
    batches, losses = squares(), []
    for step in range(8):
        loss = module.training_step(Numbered(step, batches[step]), step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]


def test_the_loss_is_weighed_as_told() -> None:
    network, batch = model(), Numbered(0, squares()[0])
    plain = TrainingModule(network, Learning(1e-3))
    plain.training_step(batch, 0)
    weights = (0.5, 2.0, 0.0, 1.0, 3.0)
    weighed = TrainingModule(network, Learning(1e-3, coefficients=weights))
    expected = np.dot(weights, [float(term) for term in plain.recent[0]])
    assert float(weighed.training_step(batch, 0).detach()) == pytest.approx(
        expected, rel=1e-5
    )


def test_the_learning_rate_rises_then_falls_to_a_hundredth() -> None:
    module = TrainingModule(model(), Learning(2.0, schedule=200))
    made = module.configure_optimizers()
    assert isinstance(made, dict)
    optimizer = made["optimizer"]
    rates = []
    for _ in range(200):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        made["lr_scheduler"]["scheduler"].step()  # type: ignore[typeddict-item,union-attr]
    assert rates == sorted(rates[:7]) + sorted(rates[7:], reverse=True)
    assert rates[0] == pytest.approx(0.02) and max(rates) == pytest.approx(2.0)
    middle = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (100 / 200 - 0.03) / 0.97))
    assert rates[100] == pytest.approx(2.0 * middle)
    assert rate_at(1.0) == pytest.approx(0.01)


def test_each_slice_of_a_batch_has_a_field_of_its_own() -> None:
    network = model().eval()
    slices = torch.randint(0, 255, (2, 3, 64, 64)).float()
    device = torch.device("cpu")
    drawn: list[torch.Tensor] = []
    field = DrawnField(
        torch.Generator().manual_seed(0), 2, TINY.heads, TINY.queries, device
    )

    def remembered(call: int, keys: int) -> torch.Tensor:
        drawn.append(field(call, keys))
        return drawn[-1]

    with torch.no_grad():
        tokens = network.encode_prompts(torch.randint(1000, 2000, (3, 5)))
        both = network.decode(network.encode_image(slices), tokens, remembered)
        for at in range(2):
            alone = network.decode(
                network.encode_image(slices[at : at + 1]),
                tokens,
                lambda call, keys, at=at: drawn[call][at, 0],  # type: ignore[misc]
            )
            torch.testing.assert_close(both.mask_logits[at], alone.mask_logits[0])
            torch.testing.assert_close(both.existence[at], alone.existence[0])
    assert not torch.equal(drawn[0][0], drawn[0][1])
