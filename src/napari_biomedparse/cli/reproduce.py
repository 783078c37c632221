"""The command `reproduce`: a recorded run once more."""

from __future__ import annotations

from pathlib import Path

import typer

from napari_biomedparse.cli._show import bar_for, complain, progress_bar, say


def reproduce(
    record: Path,
    *,
    output: Path,
    volume: Path | None = None,
    model: str | None = None,
    device: str | None = None,
) -> None:
    """Repeat a recorded run and check that the labels are identical.

    Parameters
    ----------
    record : RUN.json
        The manifest.json of a run, or the run's folder.
    output : FOLDER
        Folder for the new run.
    volume
        Path of the volume, if it has been moved.
    model : NAME|FILE
        Where the weights are now, if they have been moved.
    device
        Where to compute; by default the recorded kind of device.
    """
    from napari_biomedparse.runs.reproduce import reproduce as run_again

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
