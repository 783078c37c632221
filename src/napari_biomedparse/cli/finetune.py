"""The command `finetune`: one's own images and labels to a checkpoint."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Event
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from napari_biomedparse.cli._options import COUNT, takes_options, warn_renamed
from napari_biomedparse.cli._show import out, progress_bar, say
from napari_biomedparse.training import load_finetune
from napari_biomedparse.training.options import FinetuneOptions
from napari_biomedparse.training.progress import is_helper

if TYPE_CHECKING:
    from rich.progress import Progress as ProgressBar, TaskID

    from napari_biomedparse.training.progress import Progress


COMMON = (
    "epochs", "batch_size", "learning_rate", "validation", "patience", "modality",
)  # fmt: skip
FLAGS = {"prompts": "prompts_a_batch"}


@takes_options(FinetuneOptions, common=COMMON, flags=FLAGS)
def finetune(
    data: Path,
    *,
    output: Path,
    model: str | None = None,
    network: str | None = None,
    backbone: Path | None = None,
    checkpoint: Annotated[
        str | None, typer.Option("--checkpoint", "-c", hidden=True)
    ] = None,
    prompts: Path | None = None,
    options: FinetuneOptions,
    device: str = "auto",
    devices: Annotated[int, COUNT] = 1,
) -> None:
    """Train a network on your own images and labels.

    Parameters
    ----------
    data : DATA
        Folder with imgs and gts (challenge .npz), with images and labels (TIFF, NIfTI,
        OME-Zarr) of the same names, or with OME-Zarr images that contain labels; and
        class_prompts.json: {"data set": {"1": ["wording", ...], "instance_label": 0}}.
        Or with train/NAME_MODALITY_SITE.png and
        train_mask/NAME_MODALITY_SITE_TARGET.png.
    output : DIR
        Folder for finetuned.safetensors, the log and checkpoints. After an
        interruption the same command resumes there.
    model : NAME|FILE
        Network to start from: v2 (by default), v1, demo, or a weights file.
    network : NAME
        Train another network from the beginning: focal-l, hiera-s or hiera-bp
        (BoltzFormer), v2-light, v2-lite or demo-lite. Where it fits, it takes over all
        but the backbone from --model, if that is given.
    backbone : FILE
        Pretrained backbone of that network, of SAM 2 or X-Decoder.
    prompts : FILE
        class_prompts.json, if it is not in the data folder.
    devices : N
        Number of GPUs to train on; each takes one batch per step.
    """
    if checkpoint is not None:
        warn_renamed("--checkpoint", "--model")
        model = checkpoint
    out.quiet = is_helper()  # the process that started it reports
    stopped = Event()
    with progress_bar() as progress, interruption(stopped):
        bar = progress.add_task("Reading", total=None)
        result = load_finetune()(
            data,
            output,
            model,
            options,
            prompts=prompts,
            network=network,
            backbone=backbone,
            device=device,
            devices=devices,
            on_case=lambda name, number, count: progress.update(
                bar, description=name, completed=number, total=count
            ),
            on_progress=partial(show_training, progress, bar),
            stop=stopped.is_set,
        )
    scores = ", ".join(f"{k} {v:.4g}" for k, v in result.best.items())
    say(
        f"{result.step} steps; held out: {result.held_out}. The best weights "
        f"({scores}) are in {result.checkpoint}"
    )
    if result.gain:
        say(result.gain)


def show_training(progress: ProgressBar, bar: TaskID, now: Progress) -> None:
    """Show where a training is."""
    dice = "" if now.val_dice is None else f", held-out Dice {now.val_dice:.3f}"
    told = f"loss {now.loss:.3f}" if now.step else "before the first batch"
    text = f"Training: {told}{dice}"
    progress.update(bar, description=text, completed=now.step, total=now.steps)


@contextmanager
def interruption(stopped: Event) -> Iterator[None]:
    """Let Ctrl-C end training after the current batch, and a second one at once."""

    def stop(number: int, frame: FrameType | None) -> None:
        if stopped.is_set():
            raise KeyboardInterrupt
        stopped.set()

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
