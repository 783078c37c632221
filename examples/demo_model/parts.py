"""One part of the demo model's training: its network, data and schedule."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from batches import Augmentation, Batches
from deepen import deepened
from learning import ScheduledModule
from lightning.pytorch.callbacks import WeightAveraging
from phantom_cases import ask_about_phantoms
from torch import Tensor

from napari_biomedparse.networks.checkpoint import save_weights
from napari_biomedparse.networks.v2.biomedparse import BiomedParse
from napari_biomedparse.networks.weights import load_model
from napari_biomedparse.training.chunks import ChunkedData
from napari_biomedparse.training.fit import fit
from napari_biomedparse.training.folder import open_training, save_training
from napari_biomedparse.training.keeper import Keeper
from napari_biomedparse.training.module import predict
from napari_biomedparse.training.options import FinetuneOptions

if TYPE_CHECKING:
    from batches import Case

    from napari_biomedparse.networks.config import BiomedParseConfig
    from napari_biomedparse.training.slices import Batch

AVERAGED = "averaged.safetensors"
"""What a part leaves: the running average of its weights."""
CLIP = 1.0
DECAY = 0.998
"""Of the running average; early on it follows more closely."""
SAVE_EVERY = 100
"""Most batches between checkpoints."""


@dataclass(frozen=True)
class Part:
    """One part of the recipe.

    Parameters
    ----------
    name : str
        Of its folder.
    config : BiomedParseConfig
        Sizes of the network, which may have more decoder layers and larger slices than
        in the part before.
    slices : int
        In a batch.
    steps : int
        Batches, which is also the length of the schedule.
    learning_rate : float
        The largest.
    coefficients : tuple of float
        Of the terms of `Losses`.
    edge_weight : float
        See `ScheduledModule`.
    seed : int
        Added to that of the training.
    again : tuple of (str, int)
        Kind and label of what is shown more often, see `Batches`.
    """

    name: str
    config: BiomedParseConfig
    slices: int
    steps: int
    learning_rate: float
    coefficients: tuple[float, ...]
    edge_weight: float = 7.0
    seed: int = 0
    again: tuple[tuple[str, int], ...] = ()

    def module(self, model: BiomedParse, seed: int) -> ScheduledModule:
        """Return what Lightning trains in this part.

        Every slice gets as many absent targets as present ones: no need to weigh.
        """
        options = FinetuneOptions(
            epochs=1,
            learning_rate=self.learning_rate,
            clip=CLIP,
            existence_weight=1.0,
            seed=seed + self.seed,
        )
        return ScheduledModule(
            model,
            options,
            schedule=self.steps,
            coefficients=self.coefficients,
            edge_weight=self.edge_weight,
        )


class Averaging(WeightAveraging):
    """The running average of the weights, which is what is kept of them."""

    def __init__(self) -> None:
        super().__init__(use_buffers=False, multi_avg_fn=_move)

    @property
    def model(self) -> BiomedParse:
        """The network with averaged weights, once training has begun."""
        assert self._average_model is not None
        module = self._average_model.module
        assert isinstance(module, ScheduledModule)
        return module.model


def _move(means: Sequence[Tensor], weights: Sequence[Tensor], count: Tensor) -> None:
    """Move averages of `count` steps towards the weights."""
    n = int(count)
    share = 1.0 - min(DECAY, (1 + n) / (10 + n))
    torch._foreach_lerp_(list(means), list(weights), share)


def train_part(
    part: Part,
    before: BiomedParse,
    cases: Sequence[Case],
    folder: Path,
    *,
    seed: int,
    device: torch.device,
) -> BiomedParse:
    """Train a part or resume it, or read its result if it has finished.

    Parameters
    ----------
    part : Part
    before : BiomedParse
        What it begins with.
    cases : sequence of Case
        Phantoms.
    folder : Path
        Of this part: for ``last.ckpt``, ``log.csv`` and `AVERAGED`.
    seed : int
        Of the training.
    device : torch.device

    Returns
    -------
    BiomedParse
        With averaged weights, on the CPU.

    Raises
    ------
    OutputError
        If the folder holds a different training.
    """
    folder.mkdir(parents=True, exist_ok=True)
    facts = {
        "program": "examples/demo_model",
        "part": json.dumps(asdict(part)),
        "seed": str(seed),
        "phantoms": str(len(cases)),
    }
    if open_training(folder, facts) is None:
        batches = Batches(
            cases,
            ask_about_phantoms,
            size=part.config.image_size,
            slices=part.slices,
            seed=seed + part.seed,
            augmentation=Augmentation(),
            again=part.again,
        )
        model = deepened(before, part.config, lambda m: _probe(m, batches[0], seed))
        keeper, averaging = Keeper(folder), Averaging()
        fit(
            part.module(model, seed),
            ChunkedData(_Steps(batches, part.steps), save_every=SAVE_EVERY),
            keeper,
            device,
            callbacks=[averaging],
        )
        weights = averaging.model.state_dict()
        save_weights(folder / AVERAGED, weights, facts, part.config)
        save_training(folder, facts, {"step": keeper.step})
    trained = load_model(folder / AVERAGED)
    assert isinstance(trained, BiomedParse)
    return trained


def _probe(model: BiomedParse, batch: Batch, seed: int) -> None:
    """Run a network on typical data."""
    generator = torch.Generator().manual_seed(seed)
    predict(model, batch, generator, torch.device("cpu"))


class _Steps:
    """Batches as one epoch of a given length."""

    def __init__(self, batches: Batches, steps: int) -> None:
        self._batches, self._steps = batches, steps

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, number: int) -> Batch:
        """Make a batch."""
        return self._batches[number]
