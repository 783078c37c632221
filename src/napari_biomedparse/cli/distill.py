"""The command `distill`: a large network teaches a light one on one's own volumes."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from threading import Event

from rich.table import Table

from napari_biomedparse.cli._options import takes_options
from napari_biomedparse.cli._runs import model_named
from napari_biomedparse.cli._show import out, progress_bar, say
from napari_biomedparse.cli.finetune import (
    COMMON,
    FLAGS,
    interruption,
    show_training,
)
from napari_biomedparse.data.options import SegmentOptions
from napari_biomedparse.errors import needs_extra
from napari_biomedparse.io.inputs import find_files
from napari_biomedparse.training.options import DistillOptions


@takes_options(DistillOptions, common=COMMON, flags=FLAGS)
def distill(
    volumes: list[Path],
    *,
    prompt: list[str],
    output: Path,
    student: str = "v2-lite",
    model: str | None = None,
    options: DistillOptions,
    device: str = "auto",
) -> None:
    """Have a large network teach a light one on volumes without labels.

    Parameters
    ----------
    volumes : IN...
        Files, folders of files, and patterns such as "scans/*.tif".
    output : DIR
        Folder for finetuned.safetensors, the log, and what the teacher said. After an
        interruption the same command resumes there.
    student : NAME|FILE
        Light network: v2-light, v2-lite, demo-lite, or a weights file.
    model : NAME|FILE
        The teacher: v2, demo, or a weights file.
    """
    with needs_extra("train", "Training and fine-tuning"):
        from napari_biomedparse.learning.distill import distill as teach

    stopped = Event()
    with progress_bar() as progress, interruption(stopped), model_named(model) as name:
        bar = progress.add_task("The teacher", total=None)
        result = teach(
            find_files(volumes),
            prompt,
            output,
            student,
            teacher=name,
            options=options,
            reading=SegmentOptions(modality=options.modality),
            device=device,
            on_target=lambda done, count: progress.update(
                bar, completed=done, total=count
            ),
            on_progress=partial(show_training, progress, bar),
            stop=stopped.is_set,
        )
    if not result.agreement:
        say(f"Stopped; the same command resumes in {output}")
        return
    shown = Table("prompt", "agreement with the teacher (Dice)")
    for text, score in result.agreement.items():
        shown.add_row(text, f"{score:.3f}")
    out.print(shown)
    say(
        f"{result.step} steps; held out: {result.held_out}. The student is "
        f"{result.speed:.1f} times as fast as the teacher here. Use it with --model "
        f"{result.checkpoint}"
    )
