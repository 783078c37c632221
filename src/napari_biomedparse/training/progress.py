"""How far a fine-tuning is; free of torch, for whoever watches from outside."""

from __future__ import annotations

from dataclasses import dataclass


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
