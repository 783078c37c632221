"""The command `reproduce`: a recorded run once more."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from napari_biomedparse.cli._options import Moved, to_path, weights
from napari_biomedparse.cli._show import bar_for, complain, progress_bar, say


def reproduce(
    record: Annotated[
        Path,
        typer.Argument(
            metavar="RUN.json", help="The manifest.json of a run, or the run's folder."
        ),
    ],
    output: Annotated[Path, to_path("FOLDER", "Folder for the new run.")],
    volume: Moved = None,
    model: Annotated[
        str | None, weights("Where the weights are now, if they have been moved.")
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(help="Where to compute; by default the recorded kind of device."),
    ] = None,
) -> None:
    """Repeat a recorded run and check that the labels are identical."""
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
    say(f"Labels are in {run.labels_path}")
    if differences:
        for difference in differences:
            complain(difference)
        raise typer.Exit(1)
    say("Equal to the recorded run, to the bit.")
