"""Watches a training: checkpoints, best weights, log and progress."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_only

from napari_biomedparse.errors import OptionError
from napari_biomedparse.io.durable import atomic_write
from napari_biomedparse.networks.checkpoint import save_weights
from napari_biomedparse.training.adapters import merged_state_dict
from napari_biomedparse.training.folder import BEST, HELD_OUT, LAST, write_log
from napari_biomedparse.training.progress import Progress

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

    from napari_biomedparse.networks.network import Network

logger = logging.getLogger(__name__)


class Keeper(Callback):
    """Write log and checkpoint after every chunk, keep the best weights, report.

    `facts` say what the weights are made from, and are stored with the best ones; see
    `ChunkedData` for the chunks, and `finetune` for `on_progress` and `stop`.
    """

    def __init__(
        self,
        folder: Path,
        facts: Mapping[str, str] | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> None:
        self.step, self.steps, self.chunks = 0, 0, 1
        self.stopped = False
        self.best: dict[str, float] = {}
        self.before: dict[str, float] = {}
        self.folder, self._facts = folder, dict(facts or {})
        self._on_progress, self._stop = on_progress, stop
        self._loss = float("nan")
        self._rows: list[dict[str, Any]] = []
        self._held_out: dict[str, float] = {}

    def state_dict(self) -> dict[str, Any]:
        """Return what is kept in a checkpoint."""
        kept = {"best": self.best, "before": self.before}
        return {"step": self.step, "rows": self._rows, **kept}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume from a checkpoint; the log ends where that was written."""
        self.step, self._rows = int(state_dict["step"]), list(state_dict["rows"])
        self.best = dict(state_dict["best"])
        self.before = dict(state_dict.get("before", {}))
        logger.info("Resuming after step %d", self.step)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count, report, and stop if requested."""
        self.step += 1
        self._loss = float(outputs["loss"]) * trainer.accumulate_grad_batches
        self._report()
        stop = bool(self._stop and self._stop())
        if trainer.strategy.reduce_boolean_decision(stop, all=False):
            self.stopped = trainer.should_stop = True

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Keep the weights if they are the best so far; log those of before."""
        found = trainer.callback_metrics
        dice = found["dice_sum"] / found["masks"].clamp(min=1)
        measured = {"val_loss": float(found["val_loss"]), "val_dice": float(dice)}
        if trainer.sanity_checking:  # before the first batch
            self.before = measured
            self._rows = [{"epoch": -1, "step": 0, **measured}]
            if trainer.is_global_zero:
                write_log(self.folder, self._rows, pl_module.terms)
            if trainer.logger is not None:
                trainer.logger.log_metrics(measured, 0)
            self._report()
            return
        self._held_out = measured
        if self._held_out["val_loss"] < self.best.get("val_loss", float("inf")):
            self._keep(pl_module.model)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Write log and checkpoint, which are whole or as they were before."""
        found = trainer.callback_metrics
        values = {name: float(found[name]) for name in ("loss", *pl_module.terms)}
        if not all(map(math.isfinite, values.values())):
            raise OptionError(
                f"The loss became NaN or infinite within {self.step} steps. Choose a "
                "lower learning rate."
            )
        measured, self._held_out = self._held_out, {}
        values |= measured
        row = {"epoch": trainer.current_epoch // self.chunks, "step": self.step}
        self._rows.append(row | values)
        if trainer.is_global_zero:
            write_log(self.folder, self._rows, pl_module.terms)
        shown = ", ".join(f"{name} {value:.3f}" for name, value in values.items())
        logger.info("Step %d: %s", self.step, shown)
        if trainer.logger is not None:
            trainer.logger.log_metrics(values, self.step)
        if not self.stopped:  # else in the middle: only whole chunks can be resumed
            last = self.folder / LAST
            whole = atomic_write(last) if trainer.is_global_zero else nullcontext(last)
            with whole as path:
                trainer.save_checkpoint(path)
        if measured:
            self._report()

    def keep_last(self, model: Network) -> None:
        """Keep the last weights where nothing tells which are the best."""
        if "val_loss" not in self.best:
            self._keep(model)

    def _report(self) -> None:
        """Report, with what is known of held-out slices, maybe since long ago."""
        if self._on_progress is None:
            return
        rows = [row for row in self._rows if HELD_OUT[0] in row]
        measured = {name: rows[-1][name] if rows else None for name in HELD_OUT}
        self._on_progress(Progress(self.step, self.steps, self._loss, **measured))

    @rank_zero_only
    def _keep(self, model: Network) -> None:
        self.best = {"step": float(self.step), **self._held_out}
        facts = {**self._facts, "best": json.dumps(self.best)}
        save_weights(self.folder / BEST, merged_state_dict(model), facts, model.config)
