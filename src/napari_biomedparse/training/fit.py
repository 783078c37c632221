"""Lightning's trainer as every training here uses it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from napari_biomedparse.errors import CheckpointError
from napari_biomedparse.training.folder import LAST, TENSORBOARD

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from lightning.pytorch.callbacks import Callback

    from napari_biomedparse.training.chunks import ChunkedData
    from napari_biomedparse.training.keeper import ChunkKeeper
    from napari_biomedparse.training.module import TrainingModule


def fit(
    module: TrainingModule,
    data: ChunkedData,
    keeper: ChunkKeeper,
    folder: Path,
    device: torch.device,
    *,
    clip: float,
    epochs: int = 1,
    max_steps: int | None = None,
    accumulate: int = 1,
    half: bool = False,
    callbacks: Sequence[Callback] = (),
) -> None:
    """Train, or go on from the last checkpoint in the folder.

    Parameters
    ----------
    module : TrainingModule
        Trained in place.
    data : ChunkedData
    keeper : ChunkKeeper
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
    with warnings.catch_warnings(), _quiet():
        # Few workers, short epochs, reloaded data: all of it is meant so.
        warnings.filterwarnings("ignore", module=r"lightning\.")
        warnings.filterwarnings("ignore", ".*lightning.*")
        warnings.filterwarnings("ignore", category=FutureWarning)
        trainer = Trainer(
            accelerator=device.type.replace("cuda", "gpu"),
            devices=1 if device.index is None else [device.index],
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
