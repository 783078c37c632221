"""The command `reproduce`: a recorded run once more."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from napari_biomedparse.cli._options import Moved
from napari_biomedparse.cli._show import (
    bar_for,
    err,
    one_line_errors,
    out,
    progress_bar,
)


def reproduce(
    record: Annotated[
        Path,
        typer.Argument(
            metavar="RUN.json", help="The manifest.json of a run, or the run's folder."
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="FOLDER", help="Folder for the new run."
        ),
    ],
    volume: Moved = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            metavar="NAME|FILE",
            help="Where the weights are now, if they have been moved.",
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(help="Where to compute; by default the recorded kind of device."),
    ] = None,
) -> None:
    """Repeat a recorded run and check that the labels are identical."""
    with one_line_errors():
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
