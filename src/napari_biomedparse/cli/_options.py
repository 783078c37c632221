"""Options of commands from options of the package: help and limits live there."""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated, Any

import typer

FINE = "Fine control"

Device = Annotated[
    str,
    typer.Option(help="Where to compute: auto (the fastest), cpu, cuda, cuda:1, mps."),
]
Scheduler = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="dask.distributed scheduler whose workers are to compute.",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Compute in so many processes here."),
]


def option(
    options: type, name: str, *flags: str, fine: bool = False, **how: Any
) -> Any:
    """Make a command's option of a field of an options class.

    Parameters
    ----------
    options : type
        Dataclass whose fields have metadata ``help`` and maybe ``choices``.
    name : str
        The field.
    *flags : str
        How it is written; by default after the parameter.
    fine : bool
        Whether it belongs to fine control.
    **how
        Further keywords of `typer.Option`.
    """
    (meta,) = (item.metadata for item in fields(options) if item.name == name)
    text, choices = meta["help"], meta.get("choices")
    if choices and all(isinstance(choice, str) for choice in choices):
        text = f"{text} One of {', '.join(choices)}."
    if fine:
        how["rich_help_panel"] = FINE
    return typer.Option(*flags, help=text, **how)
