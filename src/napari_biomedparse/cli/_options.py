"""Options of commands: of a dataclass, of a docstring, and those that several share."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from copy import copy
from dataclasses import Field, fields
from functools import reduce, wraps
from operator import or_
from typing import Annotated, Any, get_args, get_origin

import typer
from docstring_parser import Docstring, DocstringStyle, parse

from napari_biomedparse.cli._show import err
from napari_biomedparse.data.options import SegmentOptions, field_types
from napari_biomedparse.errors import OptionError

FINE = "Fine control"
LARGE = "Large volumes and many of them"
SHORT = {
    "image": ("-i",),
    "model": ("-m", "--taught"),
    "output": ("-o",),
    "prompt": ("-p",),
}
"""What can stand in place of the names of options."""
PANELS = dict.fromkeys(("consensus", "force"), FINE) | dict.fromkeys(
    ("continue_", "ome_zarr", "scheduler", "workers"), LARGE
)
SHARED = """Arguments that are the same in several commands.

Parameters
----------
prompt : TEXT
    What to find, for example 'mitochondria in electron microscopy'. Repeat the option
    for several targets: the first gets label 1, the second label 2, and so on. By
    default the prompts stored in the file are used.
model : NAME|FILE
    v2 (the published network for volumes) or v1 (for images), downloaded on first use;
    demo (small, built in), tiny (random, for trying things out), or a weights file,
    also one of teach. By default v2 if it has been downloaded, else demo.
channel : C
    Channel, by number (from 0) or name; rgb for all three as colors.
overwrite
    Replace what is there. An input is never replaced.
device
    Where to compute: auto (the fastest), cpu, cuda, cuda:1, mps.
scheduler : ADDRESS
    dask.distributed scheduler whose workers compute.
workers : N
    Number of local worker processes; each gets its own graphics card if there are
    several.
"""
COUNT = typer.Option(min=1)
Parser = Callable[[str], Any]


def described(command: Callable[..., None]) -> Callable[..., None]:
    """Take the texts and metavars of a command's arguments from docstrings.

    From its own, from `SHARED`, or from the field of `SegmentOptions`; what none of
    them lists stays as it is. Keyword-only parameters become options.
    """
    doc = _parsed(inspect.getdoc(command) or "")
    texts = {
        item.name: (item.metadata["help"], item.metadata.get("metavar"))
        for item in fields(SegmentOptions)
        if item.name in ("axes", "voxel_size")
    }
    for entry in (*_parsed(SHARED).params, *doc.params):
        texts[entry.arg_name] = (
            " ".join((entry.description or "").split()),
            entry.type_name,
        )
    signature = inspect.signature(command, eval_str=True)
    parameters = [
        _described(one, *texts[one.name]) if one.name in texts else one
        for one in signature.parameters.values()
    ]

    @wraps(command)
    def run(**given: Any) -> None:
        command(**given)

    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__doc__ = doc.description
    return run


def _parsed(text: str) -> Docstring:
    return parse(text, DocstringStyle.NUMPYDOC)


def _described(
    parameter: inspect.Parameter, text: str, metavar: str | None
) -> inspect.Parameter:
    is_option = parameter.kind is parameter.KEYWORD_ONLY
    kind, info = parameter.annotation, typer.Option() if is_option else typer.Argument()
    if get_origin(kind) is Annotated:
        kind, given = get_args(kind)
        info = copy(given)
    info.help, info.metavar = text, metavar or info.metavar
    info.rich_help_panel = PANELS.get(parameter.name, info.rich_help_panel)
    name = parameter.name.strip("_").replace("_", "-")
    if is_option and (parameter.default is False or name in SHORT):
        info.param_decls = (f"--{name}", *SHORT.get(name, ()))  # and no --no- form
    return parameter.replace(annotation=Annotated[kind, info])


def takes_options(
    options: type,
    *,
    common: Collection[str],
    without: Collection[str] = (),
    flags: Mapping[str, str] | None = None,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command an option for each field of its parameter ``options``.

    Fields not in `common` are fine control, those in `without` are left out; `flags`
    replace the names of fields.
    """
    chosen = [item for item in fields(options) if item.name not in without]
    names = {item.name: item.name for item in chosen} | dict(flags or {})

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        parameters = []
        for parameter in inspect.signature(command, eval_str=True).parameters.values():
            if parameter.name != "options":
                parameters.append(parameter)
                continue
            for item in chosen:
                panel = None if item.name in common else FINE
                parameters.append(_parameter(options, item, names[item.name], panel))

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
    options: type, item: Field[Any], name: str, panel: str | None
) -> inspect.Parameter:
    """Make the parameter of a command that typer makes an option of."""
    default, meta = item.default, item.metadata
    kind: Any = reduce(or_, field_types(options)[item.name])
    if _parser(options, item) is not None:
        kind = str | None
        if isinstance(default, tuple):
            default = ",".join(default) or "none"
    text = meta["help"]
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
