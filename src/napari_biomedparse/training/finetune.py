"""Fine-tuning: data and a checkpoint in, a checkpoint out."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, EarlyStopping
from lightning.pytorch.loggers import TensorBoardLogger

from napari_biomedparse.engine import find_device
from napari_biomedparse.errors import CheckpointError, VolumeError
from napari_biomedparse.runs.folder import writing
from napari_biomedparse.training.augment import Variation
from napari_biomedparse.training.cases import load_cases
from napari_biomedparse.training.folder import (
    BEST,
    CACHE,
    LAST,
    TENSORBOARD,
    describe_training,
    open_training,
    save_training,
)
from napari_biomedparse.training.keeper import Keeper
from napari_biomedparse.training.module import FinetuneData, FinetuneModule, prepare
from napari_biomedparse.training.options import FinetuneOptions
from napari_biomedparse.training.processed import is_processed, load_processed
from napari_biomedparse.training.slices import SliceBatches, Split, split
from napari_biomedparse.training.volumes import TrainingVolume, require_targets
from napari_biomedparse.weights import load_model

if TYPE_CHECKING:
    import torch

    from napari_biomedparse.model.biomedparse import BiomedParse
    from napari_biomedparse.training.progress import Progress

GAIN = 1e-4
"""Smaller gains of the held-out loss are none."""
_LOADED_BY_WORKERS = 4


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
        Folder for ``finetuned.safetensors``, ``last.ckpt`` and ``log.csv``; also for
        ``tensorboard``, if that is installed.
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
        Called after every batch, and when held-out slices have been measured.
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
        facts = describe_training(model, checkpoint, volumes, parts, options)
        finished = open_training(folder, facts)
        keeper = Keeper(folder, facts, on_progress, stop)
        if finished is None:
            _train(model, volumes, parts, options, folder, place, keeper)
            finished = {"step": keeper.step, "best": keeper.best}
            if not keeper.stopped:
                save_training(folder, facts, finished)
    return Finetuned(folder / BEST, int(finished["step"]), finished["best"], parts.how)


def _train(
    model: BiomedParse,
    volumes: Sequence[TrainingVolume],
    parts: Split,
    options: FinetuneOptions,
    folder: Path,
    place: torch.device,
    keeper: Keeper,
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
            logger=_tensorboard(folder),
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


def _tensorboard(folder: Path) -> TensorBoardLogger | None:
    """Log for TensorBoard, too, where that is installed."""
    if find_spec("tensorboard") is None:
        return None
    return TensorBoardLogger(folder, name=None, version=TENSORBOARD)


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
