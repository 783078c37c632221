"""The command `report`: a run on one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from napari_biomedparse.cli._options import Moved, Overwrite, to_path
from napari_biomedparse.cli._show import say


def report(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN",
            help="Folder of a run, as written by segment -o FOLDER or by the widget.",
        ),
    ],
    output: Annotated[
        Path | None,
        to_path("PAGE.html", "The page; by default report.html in the folder."),
    ] = None,
    volume: Moved = None,
    time: Annotated[
        int, typer.Option(metavar="T", help="Time point of a series to show, from 0.")
    ] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Write a page on a run: what was found, existence per slice, pictures, objects."""
    from napari_biomedparse.report.run_page import report_run

    path = report_run(run, output, volume=volume, time=time, overwrite=overwrite)
    say(f"The page is {path}")
