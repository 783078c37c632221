"""How far fine-tuning is, and its result; nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Progress:
    """How far training is.

    Parameters
    ----------
    step, steps : int
        Batches that were learned from, and at most.
    loss : float
        Of the last batch.
    val_loss, val_dice : float or None
        On what is held out, as last measured.
    """

    step: int
    steps: int
    loss: float
    val_loss: float | None
    val_dice: float | None


@dataclass(frozen=True)
class Finetuned:
    """Result of fine-tuning.

    Parameters
    ----------
    checkpoint : Path
        The best weights; `load_model` takes the path.
    step : int
        Number of training steps.
    best : mapping of str to float
        Step, loss and Dice of the best weights, as far as they were measured.
    held_out : str
        What was held out from training.
    """

    checkpoint: Path
    step: int
    best: Mapping[str, float]
    held_out: str
