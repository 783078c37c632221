"""The command line: parse, call the package, show. Errors are one line on stderr.

Every command has a module of its own; what several need is in `_show` and `_runs`.
"""

from __future__ import annotations

import os
import sys
import weakref
from multiprocessing import util
from typing import Any

import typer

from napari_biomedparse.cli import (
    demo,
    doctor,
    evaluate,
    finetune,
    info,
    measure,
    report,
    reproduce,
    segment,
    vocabulary,
)
from napari_biomedparse.cli._show import INTERRUPTED


class CommandLine(typer.Typer):
    """Ends as soon as it is interrupted, also while a disk is slow to answer.

    Python would wait for all threads, those that read a large chunk among them.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command that the arguments name."""
        try:
            return super().__call__(*args, **kwargs)
        except SystemExit as end:
            if end.code == INTERRUPTED:
                _leave_at_once()
            raise


def _leave_at_once() -> None:
    """Remove temporary files and semaphores, as Python does in the end, and no more."""
    weakref.finalize._exitfunc()  # type: ignore[attr-defined]
    util._run_finalizers(0)  # type: ignore[attr-defined]
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(INTERRUPTED)


app = CommandLine(
    name="napari-biomedparse",
    help="Find structures in biomedical volumes by describing them in words.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(segment.segment)
app.command()(reproduce.reproduce)
app.command()(doctor.doctor)
app.command()(info.info)
app.command()(measure.measure)
app.command()(report.report)
app.command()(vocabulary.vocabulary)
app.command()(evaluate.evaluate)
app.command()(finetune.finetune)
app.command()(demo.demo)
