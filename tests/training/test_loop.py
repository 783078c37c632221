"""The loop: it learns, goes on after a cut as if there had been none, and says so."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from napari_biomedparse.errors import CheckpointError
from napari_biomedparse.model.biomedparse import BiomedParse
from napari_biomedparse.model.config import TINY
from napari_biomedparse.training.data import Batches, Case, Question, question
from napari_biomedparse.training.loop import (
    CHECKPOINT,
    DrawnField,
    Trainer,
    TrainOptions,
)


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


def options(steps: int, **changes: float) -> TrainOptions:
    return TrainOptions(steps=steps, learning_rate=3e-3, log_every=2, **changes)  # type: ignore[arg-type]


def test_the_loss_falls(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    Trainer(model(), squares(), options(12), tmp_path).run()
    losses = [float(r.getMessage().split()[-1]) for r in caplog.records]
    assert len(losses) == 6
    assert losses[-1] < losses[0]


def test_a_run_that_was_cut_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    whole = Trainer(model(), squares(), options(4), tmp_path / "whole").run()
    cut = Trainer(model(), squares(), options(4), tmp_path / "cut")
    for _ in range(2):
        cut._learn(cut._batches[cut.step], torch.device("cpu"))
        cut.step += 1
    cut.save()
    resumed = Trainer(model(), squares(), options(4), tmp_path / "cut")
    assert resumed.step == 2
    again = resumed.run()
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, msg=name)


def test_the_watcher_sees_the_averaged_weights(tmp_path: Path) -> None:
    seen: list[int] = []

    def watch(averaged: BiomedParse, step: int) -> None:
        assert not averaged.training
        seen.append(step)

    trainer = Trainer(model(), squares(), options(2), tmp_path, watch)
    kept = trainer.run()
    assert seen == [2]
    weight, mean = (m.mask_decoder.classifier.weight for m in (trainer.model, kept))
    assert not torch.equal(weight, mean)


def test_a_foreign_checkpoint_is_named(tmp_path: Path) -> None:
    torch.save({"step": 3}, tmp_path / CHECKPOINT)
    with pytest.raises(CheckpointError, match="choose another output folder"):
        Trainer(model(), squares(), options(1), tmp_path)


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
