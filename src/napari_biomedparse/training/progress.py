"""Progress and result of a fine-tuning; imports no torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Progress:
    """Progress of a training.

    Parameters
    ----------
    step, steps : int
        Batches done, and the most there will be.
    loss : float
        Loss of the last batch.
    val_loss, val_dice : float or None
        On held-out slices, as last measured.
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


def is_helper() -> bool:
    """Return whether Lightning started this process as a helper of another one."""
    return os.environ.get("LOCAL_RANK", "0") != "0"
