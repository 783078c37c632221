"""The command `finetune`: one's own images and labels to a checkpoint."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from napari_biomedparse.cli._options import Device, option
from napari_biomedparse.cli._show import out, progress_bar, told_in_one_line
from napari_biomedparse.training import is_helper, load_finetune
from napari_biomedparse.training.options import FinetuneOptions

if TYPE_CHECKING:
    from napari_biomedparse.training.finetune import Finetuned
    from napari_biomedparse.training.progress import Progress


def finetune(
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA",
            help="Folder with imgs and gts (challenge .npz), or images and labels "
            "(TIFF, NIfTI, OME-Zarr) of the same names, or with OME-Zarr images that "
            "hold labels; and class_prompts.json: "
            '{"data set": {"1": ["wording", ...], "instance_label": 0}}.',
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            help="For finetuned.safetensors, the log and checkpoints; the same command "
            "goes on there after an interruption.",
        ),
    ],
    checkpoint: Annotated[
        str,
        typer.Option(
            "--checkpoint", "-c", metavar="NAME|FILE", help="v2, demo, or weights."
        ),
    ] = "v2",
    prompts: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The wordings, if they lie elsewhere."),
    ] = None,
    epochs: Annotated[int, option(FinetuneOptions, "epochs")] = FinetuneOptions.epochs,
    batch_size: Annotated[
        int, option(FinetuneOptions, "batch_size")
    ] = FinetuneOptions.batch_size,
    learning_rate: Annotated[
        float, option(FinetuneOptions, "learning_rate")
    ] = FinetuneOptions.learning_rate,
    validation: Annotated[
        float, option(FinetuneOptions, "validation")
    ] = FinetuneOptions.validation,
    patience: Annotated[
        int, option(FinetuneOptions, "patience")
    ] = FinetuneOptions.patience,
    modality: Annotated[
        str, option(FinetuneOptions, "modality", metavar="KIND")
    ] = FinetuneOptions.modality,
    device: Device = "auto",
    devices: Annotated[
        int,
        typer.Option(
            min=1,
            metavar="N",
            help="So many GPUs take a batch each and make each step together.",
        ),
    ] = 1,
    seed: Annotated[
        int, option(FinetuneOptions, "seed", fine=True)
    ] = FinetuneOptions.seed,
    prompts_a_batch: Annotated[
        int, option(FinetuneOptions, "prompts", fine=True)
    ] = FinetuneOptions.prompts,
    freeze: Annotated[
        str, option(FinetuneOptions, "freeze", fine=True, metavar="PART,PART|none")
    ] = ",".join(FinetuneOptions.freeze),
    rank: Annotated[
        int, option(FinetuneOptions, "rank", fine=True)
    ] = FinetuneOptions.rank,
    accumulate: Annotated[
        int, option(FinetuneOptions, "accumulate", fine=True)
    ] = FinetuneOptions.accumulate,
    checkpointing: Annotated[
        bool, option(FinetuneOptions, "checkpointing", "--checkpointing", fine=True)
    ] = FinetuneOptions.checkpointing,
    augment: Annotated[
        bool, option(FinetuneOptions, "augment", "--augment/--no-augment", fine=True)
    ] = FinetuneOptions.augment,
    max_steps: Annotated[
        int | None, option(FinetuneOptions, "max_steps", fine=True)
    ] = FinetuneOptions.max_steps,
    save_every: Annotated[
        int, option(FinetuneOptions, "save_every", fine=True)
    ] = FinetuneOptions.save_every,
) -> None:
    """Teach a network the targets of your own images."""
    with told_in_one_line():
        options = FinetuneOptions(
            epochs=epochs,
            batch_size=batch_size,
            prompts=prompts_a_batch,
            learning_rate=learning_rate,
            validation=validation,
            patience=patience,
            augment=augment,
            freeze=() if freeze == "none" else tuple(freeze.split(",")),
            rank=rank,
            accumulate=accumulate,
            checkpointing=checkpointing,
            max_steps=max_steps,
            save_every=save_every,
            modality=modality,
            seed=seed,
        )
        out.quiet = is_helper()  # the process that began it tells
        result = _run(data, output, checkpoint, options, prompts, device, devices)
        scores = ", ".join(f"{k} {v:.4g}" for k, v in result.best.items())
        out.print(
            f"{result.step} steps; held out: {result.held_out}. The best weights "
            f"({scores}) are in {result.checkpoint}",
            highlight=False,
            soft_wrap=True,
        )


def _run(
    data: Path,
    output: Path,
    checkpoint: str,
    options: FinetuneOptions,
    prompts: Path | None,
    device: str,
    devices: int,
) -> Finetuned:
    run = load_finetune()
    stopped = Event()
    with progress_bar() as progress, _interruption(stopped):
        bar = progress.add_task("Reading", total=None)

        def show_case(name: str, number: int, count: int) -> None:
            progress.update(bar, description=name, completed=number, total=count)

        def show_step(now: Progress) -> None:
            dice = "" if now.val_dice is None else f", held-out Dice {now.val_dice:.3f}"
            progress.update(
                bar,
                description=f"Training: loss {now.loss:.3f}{dice}",
                completed=now.step,
                total=now.steps,
            )

        return run(
            data,
            output,
            checkpoint,
            options,
            prompts=prompts,
            device=device,
            devices=devices,
            on_case=show_case,
            on_progress=show_step,
            stop=stopped.is_set,
        )


@contextmanager
def _interruption(stopped: Event) -> Iterator[None]:
    """Let Ctrl-C end training after the batch at hand, and a second one at once."""

    def ask(number: int, frame: FrameType | None) -> None:
        if stopped.is_set():
            raise KeyboardInterrupt
        stopped.set()

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
