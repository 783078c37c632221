"""The command `evaluate`: images and truth to scores, on the terminal and as files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from napari_biomedparse.cli._options import Device, Scheduler, Workers, option
from napari_biomedparse.cli._parse import slice_range, to_number
from napari_biomedparse.cli._show import (
    bar_for,
    err,
    out,
    progress_bar,
    told_in_one_line,
)
from napari_biomedparse.data.options import SegmentOptions
from napari_biomedparse.data.prompts import parse_prompts

if TYPE_CHECKING:
    from napari_biomedparse.evaluation.run import Evaluation


def evaluate(
    images: Annotated[
        Path,
        typer.Option(
            metavar="DIR|FILE|PATTERN",
            help="Images: challenge .npz (imgs, text_prompts, spacing), TIFF, NIfTI or "
            "OME-Zarr.",
        ),
    ],
    labels: Annotated[
        Path,
        typer.Option(
            metavar="DIR|FILE|PATTERN",
            help="The truth: challenge .npz (gts) or label images, named as the images "
            "up to the ending.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER",
            help="For tables, pictures and the page; the same command goes on there "
            "after an interruption.",
        ),
    ],
    predictions: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR|FILE|PATTERN",
            help="Score these labels instead of a model's.",
        ),
    ] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            "--prompt",
            "-p",
            metavar="TEXT",
            help="What to find; the first is label 1, the second 2, and so on. Left "
            "out, the prompts stored with each image are used.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            metavar="NAME|FILE",
            help="v2, demo, tiny, or a weights file, also a fine-tuned one.",
        ),
    ] = None,
    tolerance: Annotated[
        float,
        typer.Option(
            help="Distance, in the unit of the spacing, up to which surfaces agree "
            "(NSD)."
        ),
    ] = 2.0,
    modality: Annotated[
        str, option(SegmentOptions, "modality", metavar="KIND")
    ] = SegmentOptions.modality,
    slices: Annotated[
        str | None,
        typer.Option(
            metavar="FIRST:END", help="Segment and score only these slices, from 0."
        ),
    ] = None,
    axis: Annotated[str | None, option(SegmentOptions, "axis", metavar="z|y|x")] = None,
    instances: Annotated[
        bool | None,
        typer.Option(
            "--instances/--no-instances",
            help="Score objects (F1) instead of classes (DSC, NSD). If not given, the "
            "file's instance_label decides.",
            show_default=False,
        ),
    ] = None,
    device: Device = "auto",
    batch_size: Annotated[
        str, option(SegmentOptions, "batch_size", metavar="auto|N")
    ] = "auto",
    scheduler: Scheduler = None,
    workers: Workers = None,
) -> None:
    """Score a model, or given predictions, on images whose truth is known."""
    with told_in_one_line():
        options = SegmentOptions(
            modality=modality,
            axis=None if axis is None else to_number(axis),
            slices=slice_range(slices),
            instances=instances,
            batch_size=to_number(batch_size),
        )
        from napari_biomedparse.evaluation.run import evaluate as run

        with progress_bar() as progress:
            bar = progress.add_task("Loading the model", total=None)

            def show(name: str, number: int, count: int) -> None:
                progress.update(bar, description=name, completed=number, total=count)

            result = run(
                images,
                labels,
                output,
                predictions=predictions,
                prompts=parse_prompts(prompt) if prompt else None,
                model=model,
                options=options,
                tolerance=tolerance,
                device=device,
                scheduler=scheduler,
                workers=workers,
                on_case=show,
                on_progress=bar_for(progress, "Slices"),
            )
        _show(result)


def _show(result: Evaluation) -> None:
    from napari_biomedparse.evaluation.run import PAGE
    from napari_biomedparse.evaluation.tables import TITLES

    metrics = [m for m in TITLES if any(line.metric == m for line in result.summary)]
    table = Table("label", "class", *(TITLES[m] for m in metrics), "cases")
    found = {(x.label, x.prompt, x.metric): x for x in result.summary}
    for label, prompt in dict.fromkeys((x.label, x.prompt) for x in result.summary):
        row = [found.get((label, prompt, metric)) for metric in metrics]
        table.add_row(
            "" if label is None else str(label),
            prompt,
            *("-" if line is None else f"{line.mean:.4f}" for line in row),
            str(max(line.cases for line in row if line)),
        )
    out.print(table)
    page = result.folder / PAGE
    message = f"{len(result.scores)} scored, {len(result.failures)} failed: {page}"
    out.print(message, highlight=False, soft_wrap=True)
    for name, reason in result.failures.items():
        err.print(f"{name}: {reason}", style="red", markup=False, soft_wrap=True)
    if result.failures:
        raise typer.Exit(1)
