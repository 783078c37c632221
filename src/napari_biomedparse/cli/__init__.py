"""The command line: parse, call the package, show. Errors are one line on stderr.

Every command has a module of its own; what several need is in `_show` and `_runs`.
"""

from __future__ import annotations

import typer

from napari_biomedparse.cli import (
    demo,
    doctor,
    evaluate,
    finetune,
    info,
    measure,
    reproduce,
    segment,
    vocabulary,
)

app = typer.Typer(
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
app.command()(vocabulary.vocabulary)
app.command()(evaluate.evaluate)
app.command()(finetune.finetune)
app.command()(demo.demo)
