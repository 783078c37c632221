"""The command `report`: a run on one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from napari_biomedparse.cli._show import out, told_in_one_line


def report(
    run: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="A run's folder (segment --run-folder)."),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="PAGE.html",
            help="By default report.html in the folder.",
        ),
    ] = None,
    volume: Annotated[
        Path | None,
        typer.Option(help="Where the volume is now, if it was moved."),
    ] = None,
    time: Annotated[
        int, typer.Option(help="Time point of a series to show, from 0.")
    ] = 0,
) -> None:
    """Write a page with pictures, existence plot, objects and how they were made."""
    with told_in_one_line():
        from napari_biomedparse.report.run_page import report_run

        path = report_run(run, output, volume=volume, time=time)
        out.print(f"The page is {path}", highlight=False, soft_wrap=True)
