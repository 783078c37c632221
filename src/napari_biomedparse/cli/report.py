"""The command `report`: a run on one page."""

from __future__ import annotations

from pathlib import Path

from napari_biomedparse.cli._show import say


def report(
    run: Path,
    *,
    output: Path | None = None,
    volume: Path | None = None,
    time: int = 0,
    overwrite: bool = False,
) -> None:
    """Write a page on a run: what was found, existence per slice, pictures, objects.

    Parameters
    ----------
    run : RUN
        Folder of a run, as written by segment -o FOLDER or by the widget.
    output : PAGE.html
        The page; by default report.html in the folder.
    volume
        Path of the volume, if it has been moved.
    time : T
        Time point of a series to show, from 0.
    """
    from napari_biomedparse.report.run_page import report_run

    path = report_run(run, output, volume=volume, time=time, overwrite=overwrite)
    say(f"The page is {path}")
