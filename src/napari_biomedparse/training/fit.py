"""Run Lightning's trainer."""

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
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import TensorBoardLogger
from torch import distributed

from napari_biomedparse.errors import CheckpointError, DeviceError
from napari_biomedparse.training.folder import LAST, TENSORBOARD
from napari_biomedparse.training.progress import is_helper

if TYPE_CHECKING:
    from lightning.pytorch.callbacks import Callback

    from napari_biomedparse.training.chunks import ChunkedData
    from napari_biomedparse.training.keeper import Keeper
    from napari_biomedparse.training.module import TrainingModule

GAIN = 1e-4
"""Smaller improvements of the held-out loss are ignored."""


def fit(
    module: TrainingModule,
    data: ChunkedData,
    keeper: Keeper,
    device: torch.device,
    *,
    half: bool = False,
    devices: int = 1,
    callbacks: Sequence[Callback] = (),
) -> None:
    """Train in place, or resume from the last checkpoint in the keeper's folder.

    `half` uses bf16 where it suffices. Each of the `devices` takes one batch per step;
    processes that Lightning started for further ones exit when training ends.
    `callbacks` are called before the keeper, which writes the checkpoints and the log.
    A `CheckpointError` is raised if the checkpoint in the folder does not fit.
    """
    options, last = module.options, keeper.folder / LAST
    keeper.chunks, keeper.steps = data.chunks, options.epochs * data.steps(devices)
    most = options.epochs * data.steps(devices * options.accumulate)
    module.steps = min(most, options.max_steps or most)
    early = EarlyStopping(
        "val_loss",
        min_delta=GAIN,
        patience=options.patience,
        check_on_train_epoch_end=False,  # not every chunk ends with validation
    )
    with warnings.catch_warnings(), _quiet(), _together(devices):
        # Few workers, short epochs, reloaded data and views are intended.
        warnings.filterwarnings("ignore", module=r"lightning\.")
        warnings.filterwarnings("ignore", ".*lightning.*")
        warnings.filterwarnings("ignore", "Grad strides do not match")
        warnings.filterwarnings("ignore", category=FutureWarning)
        trainer = Trainer(
            accelerator=device.type.replace("cuda", "gpu"),
            devices=devices if device.index is None else [device.index],
            strategy="auto" if devices == 1 else module.strategy,
            precision="bf16-mixed" if half else "32-true",
            max_epochs=options.epochs * data.chunks,
            max_steps=options.max_steps or -1,
            accumulate_grad_batches=options.accumulate,
            gradient_clip_val=options.clip,
            check_val_every_n_epoch=data.chunks,
            num_sanity_val_steps=-1 if data.holds_out and not last.exists() else 0,
            limit_val_batches=1.0 if data.holds_out else 0,
            reload_dataloaders_every_n_epochs=1,
            callbacks=[*callbacks, *([early] if data.holds_out else []), keeper],
            logger=TensorBoardLogger(keeper.folder, name=None, version=TENSORBOARD)
            if find_spec("tensorboard")
            else False,  # None is a logger of its own
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=keeper.folder,
        )
        try:
            begun = last if last.exists() else None
            trainer.fit(module, data, ckpt_path=begun, weights_only=True)
        except (KeyError, RuntimeError) as error:
            if not last.exists() or keeper.step > 0:
                raise
            raise CheckpointError(
                f"Cannot resume from {last} ({error}). Delete it to start again."
            ) from error


def share(device: torch.device, count: int) -> torch.device:
    """Return the device to train on with `count` of its kind, without a number if > 1.

    A `DeviceError` is raised if this machine has fewer, or for a numbered one other
    than the first.
    """
    if count == 1:
        return device
    there = {"cuda": torch.cuda.device_count(), "cpu": os.cpu_count() or 1}
    if not 1 < count <= there.get(device.type, 1):
        raise DeviceError(
            f"Training on {count} devices of type {device.type} is not possible: this "
            f"machine has {there.get(device.type, 1)}."
        )
    if device.index:
        raise DeviceError(f"{device} is one device, not {count}. Choose cuda.")
    return torch.device(device.type)


@contextmanager
def _together(devices: int) -> Iterator[None]:
    """Clean up after training on several devices.

    With Lightning's environment variables and connections left, a second training would
    wait for processes of the first, which would go on to run the calling script.
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


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Lightning's messages about the machine, and its advertisements."""
    loggers = [logging.getLogger(f"lightning.{part}") for part in ("pytorch", "fabric")]
    levels = {one: one.level for one in loggers}
    for one in loggers:
        one.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for one, level in levels.items():
            one.setLevel(level)
