"""Lightning's trainer as every training here uses it."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import distributed

from napari_biomedparse.errors import CheckpointError, DeviceError
from napari_biomedparse.training import is_helper
from napari_biomedparse.training.folder import LAST, TENSORBOARD

if TYPE_CHECKING:
    from pathlib import Path

    from lightning.pytorch.callbacks import Callback

    from napari_biomedparse.training.chunks import ChunkedData
    from napari_biomedparse.training.keeper import Keeper
    from napari_biomedparse.training.module import TrainingModule


def fit(
    module: TrainingModule,
    data: ChunkedData,
    keeper: Keeper,
    folder: Path,
    device: torch.device,
    *,
    clip: float,
    epochs: int = 1,
    max_steps: int | None = None,
    accumulate: int = 1,
    half: bool = False,
    devices: int = 1,
    callbacks: Sequence[Callback] = (),
) -> None:
    """Train, or go on from the last checkpoint in the folder.

    Parameters
    ----------
    module : TrainingModule
        Trained in place.
    data : ChunkedData
    keeper : Keeper
        Writes the checkpoints and the log.
    folder : Path
    device : torch.device
    clip : float
        Largest norm of the gradient.
    epochs : int
        Of the data.
    max_steps : int, optional
        Stop after so many.
    accumulate : int
        Batches whose gradients are added up.
    half : bool
        Use bf16 where that is enough.
    devices : int
        So many take a batch each and make each step together. Processes that Lightning
        started for further ones end when the training does.
    callbacks : sequence of Callback
        Called before the keeper.

    Raises
    ------
    CheckpointError
        If the checkpoint in the folder is of something else.
    OptionError
        If the learning rate is so high that the loss is no number any more.
    """
    last = folder / LAST
    keeper.chunks = data.chunks
    with warnings.catch_warnings(), _quiet(), _together(devices):
        # Few workers, short epochs, reloaded data, views: all of it is meant so.
        warnings.filterwarnings("ignore", module=r"lightning\.")
        warnings.filterwarnings("ignore", ".*lightning.*")
        warnings.filterwarnings("ignore", "Grad strides do not match")
        warnings.filterwarnings("ignore", category=FutureWarning)
        trainer = Trainer(
            accelerator=device.type.replace("cuda", "gpu"),
            devices=devices if device.index is None else [device.index],
            # Where nothing occurs, nothing is learned of masks and edges.
            strategy="auto" if devices == 1 else "ddp_find_unused_parameters_true",
            precision="bf16-mixed" if half else "32-true",
            max_epochs=epochs * data.chunks,
            max_steps=max_steps or -1,
            accumulate_grad_batches=accumulate,
            gradient_clip_val=clip,
            check_val_every_n_epoch=data.chunks,
            num_sanity_val_steps=0,
            limit_val_batches=1.0 if data.holds_out else 0,
            reload_dataloaders_every_n_epochs=1,
            callbacks=[*callbacks, keeper],
            logger=_tensorboard(folder) or False,  # None is a logger of its own
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
        )
        try:
            trainer.fit(
                module,
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


def share(device: torch.device, count: int) -> torch.device:
    """Find the device of which several are to train together.

    Parameters
    ----------
    device : torch.device
    count : int

    Returns
    -------
    torch.device
        Without a number if there are several.

    Raises
    ------
    DeviceError
        If this machine has not so many, or a later one was chosen.
    """
    if count == 1:
        return device
    there = {"cuda": torch.cuda.device_count(), "cpu": os.cpu_count() or 1}
    if not 1 < count <= there.get(device.type, 1):
        raise DeviceError(
            f"{count} devices of kind {device.type} cannot train together on this "
            f"machine, which has {there.get(device.type, 1)}."
        )
    if device.index:
        raise DeviceError(f"{count} devices cannot all be {device}; choose cuda.")
    return torch.device(device.type)


@contextmanager
def _together(devices: int) -> Iterator[None]:
    """Leave nothing behind of a training on several devices.

    Lightning's variables in the environment and its connections would have a second
    training wait for processes of the first; and these would go on with whatever
    script called this.
    """
    before = set(os.environ)
    try:
        yield
    finally:
        for name in set(os.environ) - before:
            del os.environ[name]
        if devices > 1 and distributed.is_initialized():
            distributed.destroy_process_group()
    if devices > 1 and is_helper():
        sys.exit()


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
