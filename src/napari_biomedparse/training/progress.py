"""Progress and result of a fine-tuning; imports no torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Progress:
    """Progress of a training."""

    step: int  # batches done
    steps: int  # the most there will be
    loss: float  # of the last batch; NaN before the first one
    val_loss: float | None  # these two on held-out slices, as last measured
    val_dice: float | None


@dataclass(frozen=True)
class Finetuned:
    """Result of fine-tuning."""

    checkpoint: Path  # the best weights; `load_model` takes the path
    step: int  # number of training steps
    best: Mapping[str, float]  # step, loss and Dice of the best weights, if measured
    held_out: str  # what was held out from training
    before: Mapping[str, float] = field(default_factory=dict)
    """Loss and Dice of the model before training, if measured."""

    @property
    def gain(self) -> str:
        """Whether it helped, in a sentence; empty if it was not measured."""
        if not {"val_dice"} <= self.best.keys() & self.before.keys():
            return ""
        before, after = self.before["val_dice"], self.best["val_dice"]
        scores = f"held-out Dice {before:.3f} before, {after:.3f} after."
        if after > before:
            return f"It helped: {scores}"
        return (
            f"It did not help: {scores} Use the model from before; or try a lower "
            "learning rate, more epochs or more data."
        )


def is_helper() -> bool:
    """Return whether Lightning started this process as a helper of another one."""
    return os.environ.get("LOCAL_RANK", "0") != "0"
