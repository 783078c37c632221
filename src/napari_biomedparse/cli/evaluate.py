"""The command `evaluate`: images and truth to scores, on the terminal and as files."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from napari_biomedparse.cli._options import COUNT, takes_options
from napari_biomedparse.cli._runs import model_named
from napari_biomedparse.cli._show import bar_for, complain, out, progress_bar, say
from napari_biomedparse.data.options import SegmentOptions
from napari_biomedparse.data.prompts import parse_prompts

if TYPE_CHECKING:
    from napari_biomedparse.evaluation.run import Evaluation


@takes_options(
    SegmentOptions,
    common=("modality", "axis", "slices", "instances", "batch_size"),
    without=("region", "axes", "voxel_size"),
)
def evaluate(
    *,
    images: Path,
    labels: Path | None = None,
    output: Path,
    predictions: Path | None = None,
    prompt: list[str] | None = None,
    model: str | None = None,
    tolerance: float | None = None,
    options: SegmentOptions,
    device: str = "auto",
    scheduler: str | None = None,
    workers: Annotated[int | None, COUNT] = None,
) -> None:
    """Score a model, or given predictions, on images whose truth is known.

    Parameters
    ----------
    images : DIR|FILE|PATTERN
        Images: challenge .npz (imgs, text_prompts, spacing), TIFF, NIfTI, OME-Zarr or
        pictures; or a folder of PNG files as published with BiomedParse v1 (test and
        test_mask, or train and train_mask), of which each mask is a case.
    labels : DIR|FILE|PATTERN
        The truth: challenge .npz (gts), label images or masks with the names of the
        images, except for the extension. Not needed for a folder as published.
    output : FOLDER
        Folder for tables, pictures and the page. After an interruption the same
        command resumes there.
    predictions : DIR|FILE|PATTERN
        Score these labels instead of those of a model.
    tolerance
        Distance up to which surfaces agree (NSD), in the unit of the spacing. By
        default twice the smallest side of a voxel; the challenge used 2.
    slices
        Segment and score only these slices, counted from 0.
    instances
        Score objects (F1) instead of classes (DSC, NSD). By default the file's
        instance_label decides.
    """
    from napari_biomedparse.evaluation.run import evaluate as run

    scored: AbstractContextManager[str | None]
    scored = nullcontext() if predictions else model_named(model)
    with scored as chosen:
        with progress_bar() as progress:
            bar = progress.add_task("Loading the model", total=None)
            result = run(
                images,
                labels,
                output,
                predictions=predictions,
                prompts=parse_prompts(prompt) if prompt else None,
                model=chosen,
                options=options,
                tolerance=tolerance,
                device=device,
                scheduler=scheduler,
                workers=workers,
                on_case=lambda name, number, count: progress.update(
                    bar, description=name, completed=number, total=count
                ),
                on_progress=bar_for(progress, "Slices"),
            )
        _show(result)


def _show(result: Evaluation) -> None:
    from napari_biomedparse.evaluation.run import PAGE, tolerance_text
    from napari_biomedparse.evaluation.scores import METRICS, pairs_text, table_of

    metrics, classes = table_of(result.summary)
    table = Table("label", "class", *(METRICS[m] for m in metrics), "cases")
    for label, prompt, row in classes:
        table.add_row(
            "" if label is None else str(label),
            prompt,
            *("-" if line is None else f"{line.mean:.4f}" for line in row),
            str(max(line.cases for line in row if line)),
        )
    out.print(table)
    if pairs := pairs_text(result.summary):
        out.print(pairs)
    page = result.folder / PAGE
    say(f"{len(result.scores)} scored, {len(result.failures)} failed: {page}")
    say(f"Tolerance of NSD: {tolerance_text(result.scores)}")
    for name, reason in result.failures.items():
        complain(f"{name}: {reason}")
    if result.failures:
        raise typer.Exit(1)
