"""Options of commands: those derived from a dataclass, and those that several share."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import Field, fields
from functools import reduce, wraps
from operator import or_
from pathlib import Path
from typing import Annotated, Any

import typer

from napari_biomedparse.cli._show import err
from napari_biomedparse.data.fields import field_types
from napari_biomedparse.data.options import SegmentOptions
from napari_biomedparse.errors import OptionError

FINE = "Fine control"
LARGE = "Large volumes and many of them"
Parser = Callable[[str], Any]


def to_path(metavar: str, text: str) -> Any:
    """Declare the option ``-o``."""
    return typer.Option("--output", "-o", metavar=metavar, help=text)


def weights(text: str) -> Any:
    """Declare the option ``-m``."""
    return typer.Option("--model", "-m", metavar="NAME|FILE", help=text)


Prompts = Annotated[
    list[str] | None,
    typer.Option(
        "--prompt",
        "-p",
        metavar="TEXT",
        help="What to find, for example 'mitochondria in electron microscopy'. Repeat "
        "the option for several targets: the first gets label 1, the second label 2, "
        "and so on. By default the prompts stored in the file are used.",
    ),
]
Model = Annotated[
    str | None,
    weights(
        "v2 (the published network, downloaded on first use), demo (small, built "
        "in), tiny (random, for trying things out), or a weights file. By default v2 "
        "if it has been downloaded, else demo."
    ),
]
Channel = Annotated[
    str | None,
    typer.Option(
        metavar="C",
        help="Channel, by number (from 0) or name; rgb for all three as colors.",
    ),
]
Moved = Annotated[
    Path | None,
    typer.Option("--volume", help="Path of the volume, if it has been moved."),
]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite", help="Replace what is there. An input is never replaced."
    ),
]
Device = Annotated[
    str,
    typer.Option(help="Where to compute: auto (the fastest), cpu, cuda, cuda:1, mps."),
]
Scheduler = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="dask.distributed scheduler whose workers compute.",
        rich_help_panel=LARGE,
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Number of local worker processes; each gets its own graphics card if "
        "there are several.",
        rich_help_panel=LARGE,
    ),
]


def like(name: str) -> Any:
    """Declare an option as the field of that name of `SegmentOptions` is."""
    meta = SegmentOptions.__dataclass_fields__[name].metadata
    return typer.Option(metavar=meta["metavar"], help=meta["help"])


def takes_options(
    options: type,
    *,
    common: Collection[str],
    without: Collection[str] = (),
    flags: Mapping[str, str] | None = None,
    texts: Mapping[str, str] | None = None,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command an option for each field of its parameter ``options``.

    Fields not in `common` are fine control, those in `without` are left out; `flags`
    and `texts` replace the names and helps of fields that mean something else here.
    """
    chosen = [item for item in fields(options) if item.name not in without]
    names = {item.name: item.name for item in chosen} | dict(flags or {})

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        parameters = []
        for parameter in inspect.signature(command, eval_str=True).parameters.values():
            if parameter.name != "options":
                parameters.append(parameter.replace(kind=parameter.KEYWORD_ONLY))
                continue
            for item in chosen:
                panel = None if item.name in common else FINE
                text = (texts or {}).get(item.name)
                made = _parameter(options, item, names[item.name], panel, text)
                parameters.append(made)

        @wraps(command)
        def run(**given: Any) -> None:
            values = {
                item.name: _value(options, item, given.pop(names[item.name]))
                for item in chosen
            }
            command(options=options(**values), **given)

        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return run

    return decorate


def _parameter(
    options: type, item: Field[Any], name: str, panel: str | None, text: str | None
) -> inspect.Parameter:
    """Make the parameter of a command that typer makes an option of."""
    default, meta = item.default, item.metadata
    kind: Any = reduce(or_, field_types(options)[item.name])
    if _parser(options, item) is not None:
        kind = str | None
        default = ",".join(default) if isinstance(default, tuple) else default
    text = text or meta["help"]
    if "choices" in meta and meta["metavar"] == "KIND":
        text = f"{text} One of {', '.join(meta['choices'])}."
    made = typer.Option(help=text, metavar=meta.get("metavar"), rich_help_panel=panel)
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[kind, made],
    )


def _value(options: type, item: Field[Any], given: Any) -> Any:
    parser = _parser(options, item)
    return parser(given) if parser is not None and given is not None else given


def _parser(options: type, item: Field[Any]) -> Parser | None:
    """Return what reads the text of an option that typer cannot read."""
    types: Collection[Any] = field_types(options)[item.name]
    if int in types and str in types:
        return to_number
    if tuple[int, int] in types:
        return slice_range
    return listed if tuple[str, ...] in types else None


def to_number(text: str) -> int | str:
    """Return a whole number as such, and any other text as it is."""
    return int(text) if text.isdigit() else text


def slice_range(text: str) -> tuple[int, int]:
    """Read a range of slices such as ``10:20``."""
    first, _, end = text.partition(":")
    if not (first.strip().isdigit() and end.strip().isdigit()):
        raise OptionError(
            f"{text!r} is not a range of slices (--slices); write, for example, 10:20."
        )
    return int(first), int(end)


def listed(text: str) -> tuple[str, ...]:
    """Read names with commas between them; ``none`` stands for no name."""
    return () if text == "none" else tuple(text.split(","))


def warn_renamed(former: str, now: str) -> None:
    """Say that an option is spelled differently now."""
    err.print(f"Warning: {former} has been renamed to {now}.", soft_wrap=True)
