"""What watches a training: checkpoints, the best weights, the log, progress."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_only

from napari_biomedparse.errors import OptionError
from napari_biomedparse.io.durable import atomic_write
from napari_biomedparse.networks.checkpoint import save_weights
from napari_biomedparse.training.adapters import merged_state_dict
from napari_biomedparse.training.folder import BEST, HELD_OUT, LAST, write_log
from napari_biomedparse.training.losses import Losses
from napari_biomedparse.training.progress import Progress

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

    from napari_biomedparse.networks.v2.biomedparse import BiomedParse

logger = logging.getLogger(__name__)


class ChunkKeeper(Callback):
    """Writes log and checkpoint after every chunk, see `ChunkedData`.

    Parameters
    ----------
    folder : Path
    """

    def __init__(self, folder: Path) -> None:
        self.step, self.chunks = 0, 1
        self.stopped = False
        self._folder = folder
        self._rows: list[dict[str, Any]] = []
        self._held_out: dict[str, float] = {}

    def state_dict(self) -> dict[str, Any]:
        """Return what is kept in a checkpoint."""
        return {"step": self.step, "rows": self._rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint; the log ends where that was written."""
        self.step, self._rows = int(state_dict["step"]), list(state_dict["rows"])
        logger.info("going on after step %d", self.step)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count."""
        self.step += 1

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Write log and checkpoint, which are whole or as they were before."""
        terms = torch.stack([torch.stack(tuple(x)) for x in pl_module.recent]).mean(0)
        terms = trainer.strategy.reduce(terms, reduce_op="mean")
        pl_module.recent.clear()
        if not terms.isfinite().all():
            raise OptionError(
                f"After {self.step} steps the loss is no number any more; choose a "
                "lower learning rate."
            )
        values = dict(zip(Losses._fields, terms.tolist(), strict=True))
        total = Losses(*terms).total(pl_module.learning.coefficients)
        values = {"loss": float(total), **values, **self._held_out}
        self._held_out = {}
        row = {"epoch": trainer.current_epoch // self.chunks, "step": self.step}
        self._rows.append(row | values)
        if trainer.is_global_zero:
            write_log(self._folder, self._rows)
        shown = ", ".join(f"{name} {value:.3f}" for name, value in values.items())
        logger.info("step %d: %s", self.step, shown)
        if trainer.logger is not None:
            trainer.logger.log_metrics(values, self.step)
        if self.stopped:  # in the middle: what it goes on from must be a whole chunk
            return
        if trainer.is_global_zero:
            with atomic_write(self._folder / LAST) as partial:
                trainer.save_checkpoint(partial)
        else:
            trainer.save_checkpoint(self._folder / LAST)


class Keeper(ChunkKeeper):
    """Also keeps the best weights of a fine-tuning, reports, and stops when asked.

    Parameters
    ----------
    folder : Path
    facts : mapping of str to str
        What the weights are made from; stored with them.
    on_progress, stop : callable, optional
        As for `finetune`.
    """

    def __init__(
        self,
        folder: Path,
        facts: Mapping[str, str],
        on_progress: Callable[[Progress], None] | None,
        stop: Callable[[], bool] | None,
    ) -> None:
        super().__init__(folder)
        self.best: dict[str, float] = {}
        self.steps, self._loss = 0, float("nan")
        self._facts, self._on_progress, self._stop = facts, on_progress, stop

    def state_dict(self) -> dict[str, Any]:
        """Return what is kept in a checkpoint."""
        return {**super().state_dict(), "best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        super().load_state_dict(state_dict)
        self.best = dict(state_dict["best"])

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Report, and stop if asked to."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        self._loss = float(pl_module.recent[-1].total())
        self._tell()
        asked = bool(self._stop and self._stop())
        if trainer.strategy.reduce_boolean_decision(asked, all=False):
            self.stopped = trainer.should_stop = True

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Keep the weights if they are the best so far."""
        measured = trainer.callback_metrics
        self._held_out = {name: float(measured[name]) for name in HELD_OUT}
        if self._held_out["val_loss"] < self.best.get("val_loss", float("inf")):
            self._keep(pl_module.model)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Write, and report what was measured."""
        measured = bool(self._held_out)
        super().on_train_epoch_end(trainer, pl_module)
        if measured:
            self._tell()

    def keep_last(self, model: BiomedParse) -> None:
        """Keep the last weights where nothing tells which are the best."""
        if "val_loss" not in self.best:
            self._keep(model)

    def _tell(self) -> None:
        """Report, with what is known of held-out slices, maybe since long ago."""
        if self._on_progress is None:
            return
        rows = [row for row in self._rows if HELD_OUT[0] in row]
        measured = {name: rows[-1][name] if rows else None for name in HELD_OUT}
        self._on_progress(Progress(self.step, self.steps, self._loss, **measured))

    @rank_zero_only
    def _keep(self, model: BiomedParse) -> None:
        self.best = {"step": float(self.step), **self._held_out}
        facts = {**self._facts, "best": json.dumps(self.best)}
        save_weights(self._folder / BEST, merged_state_dict(model), facts, model.config)
