"""The command `reproduce`: a recorded run once more."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from napari_biomedparse.cli._show import (
    bar_for,
    err,
    out,
    progress_bar,
    told_in_one_line,
)


def reproduce(
    record: Annotated[
        Path,
        typer.Argument(
            metavar="RUN.json", help="A run's manifest.json, or the run's folder."
        ),
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FOLDER", help="For the new run."),
    ],
    volume: Annotated[
        Path | None,
        typer.Option(help="Where the volume is now, if it was moved."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="Where the weights are now."),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="By default the kind that was recorded.")
    ] = None,
) -> None:
    """Do a recorded run again and say whether the labels are equal to the bit."""
    with told_in_one_line():
        from napari_biomedparse.runs.run import reproduce as run_again

        with progress_bar() as progress:
            run, differences = run_again(
                record,
                output,
                volume=volume,
                model=model,
                device=device,
                on_progress=bar_for(progress, "Slices"),
            )
        out.print(f"Labels are in {run.labels_path}", highlight=False, soft_wrap=True)
        if differences:
            for difference in differences:
                err.print(difference, style="red", markup=False, soft_wrap=True)
            raise typer.Exit(1)
        out.print("Equal to the recorded run, to the bit.")
