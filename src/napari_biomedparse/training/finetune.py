"""Fine-tuning: data and a checkpoint in, a checkpoint out."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, EarlyStopping

from napari_biomedparse.engine import find_device
from napari_biomedparse.errors import (
    CheckpointError,
    OptionError,
    OutputError,
    VolumeError,
)
from napari_biomedparse.model.checkpoint import read_checkpoint, save_weights
from napari_biomedparse.runs.durable import write_durably
from napari_biomedparse.runs.folder import writing
from napari_biomedparse.training.adapters import merged_state_dict
from napari_biomedparse.training.augment import Variation
from napari_biomedparse.training.cases import (
    TrainingVolume,
    load_cases,
    require_targets,
)
from napari_biomedparse.training.losses import Losses
from napari_biomedparse.training.module import FinetuneData, FinetuneModule, prepare
from napari_biomedparse.training.options import FinetuneOptions
from napari_biomedparse.training.processed import is_processed, load_processed
from napari_biomedparse.training.slices import SliceBatches, Split, split
from napari_biomedparse.weights import PUBLISHED, load_model, model_identity

if TYPE_CHECKING:
    from napari_biomedparse.model.biomedparse import BiomedParse

logger = logging.getLogger(__name__)

BEST, LAST, LOG, RUN, CACHE = (
    "finetuned.safetensors", "last.ckpt", "log.csv", "run.json", "cache",
)  # fmt: skip
COLUMNS = ("epoch", "step", "loss", *Losses._fields, "val_loss", "val_dice")
GAIN = 1e-4
"""Smaller gains of the held-out loss are none."""
_LOADED_BY_WORKERS = 4


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
    """What came out.

    Parameters
    ----------
    checkpoint : Path
        The best weights; `load_model` takes the path.
    step : int
        Steps that were made.
    best : mapping of str to float
        Step, loss and Dice of the best weights, as far as they were measured.
    held_out : str
        What was not trained on.
    """

    checkpoint: Path
    step: int
    best: Mapping[str, float]
    held_out: str


def finetune(
    data: str | os.PathLike[str] | Sequence[TrainingVolume],
    output: str | os.PathLike[str],
    checkpoint: str | os.PathLike[str] = "v2",
    options: FinetuneOptions | None = None,
    *,
    prompts: str | os.PathLike[str] | None = None,
    device: str = "auto",
    on_case: Callable[[str, int, int], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Finetuned:
    """Teach a network the targets of one's own images.

    Cut off, the same call goes on from the last checkpoint with the data that it would
    have seen. The best weights so far are in the folder at any time after the first
    epoch. They remember what they were made from.

    Parameters
    ----------
    data : path or sequence of TrainingVolume
        A folder; see `load_cases`, and `load_processed` for the original's PNGs.
    output : path
        Folder for ``finetuned.safetensors``, ``last.ckpt`` and ``log.csv``.
    checkpoint : str or path
        As for `load_model`.
    options : FinetuneOptions, optional
    prompts : path, optional
        File with the wordings; see `read_wordings`.
    device : str
        "auto", "cpu", "cuda", ... On CUDA bf16 is used where it is enough.
    on_case : callable, optional
        Called before each case is read with its name, its number from 0, how many.
    on_progress : callable, optional
        Called after every batch.
    stop : callable, optional
        Asked after every batch whether to stop; the best weights are kept.

    Returns
    -------
    Finetuned

    Raises
    ------
    FormatError, VolumeError, PromptError
        If the data cannot be used; all problems are named before training starts.
    CheckpointError, DeviceError
        If the network cannot be loaded, or not on that device.
    OptionError
        If the learning rate is so high that the loss is no number any more.
    OutputError
        If the folder holds another training, or cannot be written.
    """
    options = options or FinetuneOptions()
    folder, place = Path(output), find_device(device)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if isinstance(data, str | os.PathLike):
            if is_processed(Path(data)):
                volumes = load_processed(Path(data), on_case)
            else:
                volumes = load_cases(
                    Path(data),
                    folder / CACHE,
                    prompts=None if prompts is None else Path(prompts),
                    modality=options.modality,
                    on_case=on_case,
                )
        else:
            volumes = tuple(data)
            require_targets(volumes)
        parts = split(volumes, options.validation, options.seed)
        if not parts.train:
            raise VolumeError(
                f"Nothing is left to train on, as {parts.how} are held out; give more "
                "slices or volumes, or hold out less."
            )
        model = load_model(checkpoint)
        facts = _provenance(model, checkpoint, volumes, parts, options)
        finished = _open_run(folder, facts)
        keeper = _Keeper(folder, facts, on_progress, stop)
        if finished is None:
            _train(model, volumes, parts, options, folder, place, keeper)
            finished = {"step": keeper.step, "best": keeper.best}
            if not keeper.stopped:
                _save_run(folder, facts, finished)
    return Finetuned(folder / BEST, int(finished["step"]), finished["best"], parts.how)


def _train(
    model: BiomedParse,
    volumes: Sequence[TrainingVolume],
    parts: Split,
    options: FinetuneOptions,
    folder: Path,
    place: torch.device,
    keeper: _Keeper,
) -> None:
    prepare(model, options)
    data = _make_data(model, volumes, parts, options, place)
    last = folder / LAST
    callbacks: list[Callback] = [keeper]
    if parts.validation:
        early = EarlyStopping(
            "val_loss",
            min_delta=GAIN,
            patience=options.patience,
            check_on_train_epoch_end=False,  # a chunk that ends early has no validation
        )
        callbacks.insert(0, early)
    with warnings.catch_warnings(), _quiet():
        # Few workers, short epochs, reloaded data: all of it is meant so.
        warnings.filterwarnings("ignore", module=r"lightning\.")
        warnings.filterwarnings("ignore", ".*lightning.*")
        warnings.filterwarnings("ignore", category=FutureWarning)
        trainer = Trainer(
            accelerator=place.type.replace("cuda", "gpu"),
            devices=1 if place.index is None else _devices(place),
            precision="bf16-mixed" if place.type == "cuda" else "32-true",
            max_epochs=options.epochs * data.chunks,
            max_steps=options.max_steps or -1,
            accumulate_grad_batches=options.accumulate,
            gradient_clip_val=options.clip,
            check_val_every_n_epoch=data.chunks,
            num_sanity_val_steps=0,
            limit_val_batches=1.0 if parts.validation else 0,
            reload_dataloaders_every_n_epochs=1,
            callbacks=callbacks,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
        )
        keeper.steps = options.epochs * data.batches
        keeper.chunks = data.chunks
        try:
            trainer.fit(
                FinetuneModule(model, options),
                data,
                ckpt_path=last if last.exists() else None,
                weights_only=True,
            )
        except (KeyError, RuntimeError) as error:
            if not last.exists() or keeper.step > 0:
                raise
            raise CheckpointError(
                f"{last} cannot be gone on from ({error}); delete it to start anew."
            ) from error


def _make_data(
    model: BiomedParse,
    volumes: Sequence[TrainingVolume],
    parts: Split,
    options: FinetuneOptions,
    place: torch.device,
) -> FinetuneData:
    train, validation = (
        SliceBatches(
            volumes,
            samples,
            size=model.config.image_size,
            slices=options.batch_size,
            prompts=options.prompts,
            seed=options.seed,
            variation=variation,
        )
        for samples, variation in (
            (parts.train, Variation() if options.augment else Variation(chance=0.0)),
            (parts.validation, None),
        )
    )
    return FinetuneData(
        train,
        validation,
        save_every=options.save_every,
        workers=_LOADED_BY_WORKERS if place.type == "cuda" else 0,
    )


class _Keeper(Callback):
    """Writes checkpoints, best weights and the log; reports; stops when asked."""

    def __init__(
        self,
        folder: Path,
        facts: Mapping[str, str],
        on_progress: Callable[[Progress], None] | None,
        stop: Callable[[], bool] | None,
    ) -> None:
        self.best: dict[str, float] = {}
        self.step, self.steps, self.chunks = 0, 0, 1
        self.stopped = False
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
        if self._on_progress:
            loss = float(pl_module.recent[-1].total())
            val = self._held_out
            self._on_progress(
                Progress(
                    self.step,
                    self.steps,
                    loss,
                    val.get("val_loss"),
                    val.get("val_dice"),
                )
            )
        if self._stop and self._stop():
            self.stopped = trainer.should_stop = True

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Keep the weights if they are the best so far."""
        names = ("val_loss", "val_dice")
        self._held_out = {n: float(trainer.callback_metrics[n]) for n in names}
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
        row = {"epoch": trainer.current_epoch // self.chunks, "step": self.step}
        self._rows.append(
            {**row, "loss": float(terms.sum()), **values, **self._held_out}
        )
        self._held_out = {}
        write_durably(self._folder / LOG, _csv(self._rows))
        if self.stopped:  # in the middle: what it goes on from must be a whole chunk
            return
        part = self._folder / f"{LAST}.part"
        trainer.save_checkpoint(part)
        part.replace(self._folder / LAST)

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Keep the last weights where nothing tells which are the best."""
        if not self.best or "val_loss" not in self.best:
            self._keep(pl_module.model)

    def _keep(self, model: BiomedParse) -> None:
        self.best = {"step": float(self.step), **self._held_out}
        facts = {**self._facts, "best": json.dumps(self.best)}
        save_weights(self._folder / BEST, merged_state_dict(model), facts, model.config)


def _provenance(
    model: BiomedParse,
    checkpoint: str | os.PathLike[str],
    volumes: Sequence[TrainingVolume],
    parts: Split,
    options: FinetuneOptions,
) -> dict[str, str]:
    """Say what the weights are made from, as text."""
    classes: dict[str, dict[str, str]] = {}
    for volume in volumes:
        texts = volume.wordings.texts
        classes.setdefault(
            volume.dataset, {str(k): texts[k][0] for k in volume.wordings.classes}
        )
    return {
        "name": "fine-tuned BiomedParse",
        "base": model_identity(model),
        "base_licence": _licence(checkpoint),
        "data": json.dumps([volume.name for volume in volumes]),
        "classes": json.dumps(classes),
        "held_out": parts.how,
        "options": json.dumps(asdict(options)),
        "napari_biomedparse": version("napari-biomedparse"),
    }


def _licence(checkpoint: str | os.PathLike[str]) -> str:
    if checkpoint == "v2":
        return PUBLISHED.licence
    path = Path(checkpoint)
    if checkpoint == "demo":
        path = Path(str(files("napari_biomedparse"))) / "_data" / "demo.safetensors"
    if not path.is_file():
        return "unknown"
    return read_checkpoint(path).metadata.get("licence", "unknown")


def _open_run(folder: Path, facts: Mapping[str, str]) -> dict[str, Any] | None:
    """Begin a training, or go on with one; return how it ended if it did."""
    path = folder / RUN
    if not path.exists():
        _save_run(folder, facts, None)
        return None
    stored = json.loads(path.read_text("utf-8"))
    different = [k for k, value in facts.items() if stored["facts"].get(k) != value]
    if different:
        raise OutputError(
            f"{folder} holds another training, which differs in "
            f"{', '.join(different)}; choose another folder, or delete it."
        )
    finished: dict[str, Any] | None = stored["finished"]
    return finished


def _save_run(
    folder: Path, facts: Mapping[str, str], finished: Mapping[str, Any] | None
) -> None:
    content = {"facts": dict(facts), "finished": finished}
    write_durably(folder / RUN, json.dumps(content, indent=1))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Lightning from telling what it found on the machine, and advertising."""
    loggers = [logging.getLogger(f"lightning.{part}") for part in ("pytorch", "fabric")]
    levels = [one.level for one in loggers]
    for one in loggers:
        one.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for one, level in zip(loggers, levels, strict=True):
            one.setLevel(level)


def _devices(place: torch.device) -> list[int]:
    return [place.index or 0]


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    table.writeheader()
    for row in rows:
        table.writerow(
            {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()}
        )
    return text.getvalue()
