"""What watches a fine-tuning: checkpoints, the best weights, the log, progress."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.callbacks import Callback

from napari_biomedparse.errors import OptionError
from napari_biomedparse.model.checkpoint import save_weights
from napari_biomedparse.training.adapters import merged_state_dict
from napari_biomedparse.training.folder import BEST, HELD_OUT, LAST, write_log
from napari_biomedparse.training.losses import Losses
from napari_biomedparse.training.progress import Progress

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

    from napari_biomedparse.model.biomedparse import BiomedParse

logger = logging.getLogger(__name__)


class Keeper(Callback):
    """Writes checkpoints, best weights and the log; reports; stops when asked.

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
        self.best: dict[str, float] = {}
        self.step, self.steps, self.chunks = 0, 0, 1
        self.stopped, self._loss = False, float("nan")
        self._rows: list[dict[str, Any]] = []
        self._held_out: dict[str, float] = {}
        self._folder, self._facts = folder, facts
        self._on_progress, self._stop = on_progress, stop

    def state_dict(self) -> dict[str, Any]:
        """Return what is kept in a checkpoint."""
        return {"best": self.best, "step": self.step, "rows": self._rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint; the log ends where that was written."""
        self.best, self.step = dict(state_dict["best"]), int(state_dict["step"])
        self._rows = list(state_dict["rows"])
        logger.info("going on after step %d", self.step)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Report, and stop if asked to."""
        self.step += 1
        self._loss = float(pl_module.recent[-1].total())
        self._tell()
        if self._stop and self._stop():
            self.stopped = trainer.should_stop = True

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Keep the weights if they are the best so far."""
        measured = trainer.callback_metrics
        self._held_out = {name: float(measured[name]) for name in HELD_OUT}
        if self._held_out["val_loss"] < self.best.get("val_loss", float("inf")):
            self._keep(pl_module.model)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Write log and checkpoint, which are whole or as they were before."""
        terms = torch.stack([torch.stack(tuple(x)) for x in pl_module.recent]).mean(0)
        pl_module.recent.clear()
        if not terms.isfinite().all():
            raise OptionError(
                f"After {self.step} steps the loss is no number any more; choose a "
                "lower learning rate."
            )
        values = dict(zip(Losses._fields, terms.tolist(), strict=True))
        values = {"loss": float(terms.sum()), **values, **self._held_out}
        row = {"epoch": trainer.current_epoch // self.chunks, "step": self.step}
        self._rows.append(row | values)
        if self._held_out:
            self._held_out = {}
            self._tell()
        write_log(self._folder, self._rows)
        if trainer.logger is not None:
            trainer.logger.log_metrics(values, self.step)
        if self.stopped:  # in the middle: what it goes on from must be a whole chunk
            return
        part = self._folder / f"{LAST}.part"
        trainer.save_checkpoint(part)
        part.replace(self._folder / LAST)

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Keep the last weights where nothing tells which are the best."""
        if not self.best or "val_loss" not in self.best:
            self._keep(pl_module.model)

    def _tell(self) -> None:
        """Report, with what is known of held-out slices, maybe since long ago."""
        if self._on_progress is None:
            return
        rows = [row for row in self._rows if HELD_OUT[0] in row]
        measured = {name: rows[-1][name] if rows else None for name in HELD_OUT}
        self._on_progress(Progress(self.step, self.steps, self._loss, **measured))

    def _keep(self, model: BiomedParse) -> None:
        self.best = {"step": float(self.step), **self._held_out}
        facts = {**self._facts, "best": json.dumps(self.best)}
        save_weights(self._folder / BEST, merged_state_dict(model), facts, model.config)
