"""The command line: parse, call the package, show. Errors are one line on stderr.

Every command has a module of its own; its help is in its docstring (see `_options`).
"""

from __future__ import annotations

import os
import sys
import weakref
from multiprocessing import util
from typing import Annotated, Any

try:
    import typer

    from napari_biomedparse.cli import (
        demo,
        distill,
        doctor,
        evaluate,
        finetune,
        info,
        measure,
        recognize,
        report,
        reproduce,
        segment,
        teach,
        vocabulary,
    )
    from napari_biomedparse.cli._options import described
    from napari_biomedparse.cli._show import (
        INTERRUPTED,
        one_line_errors,
        print_any_letter,
        say,
        warnings_shown,
    )
    from napari_biomedparse.version import __version__
except KeyboardInterrupt:  # a disk or network may be slow
    raise SystemExit(130) from None


class CommandLine(typer.Typer):
    """Exits as soon as it is interrupted, also while a disk is slow to respond.

    Python would wait for all threads, those that read a large chunk among them.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command that the arguments name."""
        print_any_letter()
        try:
            return super().__call__(*args, **kwargs)
        except SystemExit as end:
            if end.code == INTERRUPTED:
                _leave_at_once()
            raise


def _leave_at_once() -> None:
    """Remove temporary files and semaphores, as Python does at exit, and no more."""
    weakref.finalize._exitfunc()  # type: ignore[attr-defined]
    util._run_finalizers(0)  # type: ignore[attr-defined]
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(INTERRUPTED)


app = CommandLine(
    name="napari-biomedparse",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        with one_line_errors():
            say(f"napari-biomedparse {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_show_version,
            is_eager=True,
            help="Show the version and exit.",
        ),
    ] = False,
) -> None:
    """Find structures in biomedical volumes by describing them in words."""


for _verb in (
    segment.segment,
    reproduce.reproduce,
    doctor.doctor,
    info.info,
    measure.measure,
    recognize.recognize,
    teach.teach,
    report.report,
    vocabulary.vocabulary,
    evaluate.evaluate,
    finetune.finetune,
    distill.distill,
    demo.demo,
):
    app.command()(warnings_shown()(one_line_errors()(described(_verb))))
