"""How an option is declared: its default, label, help text and check, once.

Forms, the command line, the records of runs and the docstrings of the option classes
are derived from these declarations.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping
from dataclasses import field, fields
from functools import cache
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_type_hints

import numpy as np

from napari_biomedparse.errors import OptionError

Options = TypeVar("Options", bound=type)

_KINDS: dict[type, tuple[str, tuple[type, ...]]] = {
    bool: ("True or False", (bool, np.bool_)),
    int: ("a whole number", (int, np.integer)),
    float: ("a number", (int, float, np.number)),
    str: ("text", (str,)),
}
"""What an annotated type is called, and which values it takes."""


def option(
    default: Any,
    label: str,
    help_text: str,
    *,
    choices: tuple[str, ...] = (),
    names: tuple[str, ...] = (),
    limits: tuple[float, float | None] | None = None,
    check: Callable[[Any], Any] | None = None,
    metavar: str | None = None,
) -> Any:
    """Declare a field of a dataclass whose ``__post_init__`` calls `check_fields`.

    The label is a few words for a form, the help text a sentence or two for a tooltip
    and for ``--help``, which shows the metavar in place of the value. Choices are all
    values, if they can be listed; names are words that may stand in place of a number.
    Limits are the smallest and largest value, which may be None; floats for a field of
    floats. `check` takes a value and returns it in its normal form, or raises an
    `OptionError`.
    """
    low, high = limits or (None, None)
    meta = {
        "label": label,
        "help": help_text,
        "choices": choices or None,
        "names": names or None,
        "min": low,
        "max": high,
        "check": check,
        "metavar": metavar,
    }
    known = {key: value for key, value in meta.items() if value is not None}
    return field(default=default, metadata=known)


@cache
def field_types(options: type) -> Mapping[str, tuple[type, ...]]:
    """Return the types that each field of a class may have, None among them."""
    hints = get_type_hints(options)
    return {
        name: get_args(hint) if isinstance(hint, UnionType) else (hint,)
        for name, hint in hints.items()
    }


def check_fields(options: Any) -> None:
    """Raise an `OptionError` for a value that a field's `option` does not allow.

    Other values come into their normal form, also if the dataclass is frozen.
    """
    for item in fields(options):
        value, meta = getattr(options, item.name), item.metadata
        types = field_types(options.__class__)[item.name]
        if value is None and NoneType in types:
            continue
        _check(value, f"{meta['label']} ({item.name})", types, meta)
        if "check" in meta:
            object.__setattr__(options, item.name, meta["check"](value))


def _check(
    value: Any, label: str, types: tuple[type, ...], meta: Mapping[str, Any]
) -> None:
    choices, names = meta.get("choices"), meta.get("names", ())
    if choices:
        if value not in choices:
            raise OptionError(
                f"{label} is {value!r}; choose one of {', '.join(choices)}."
            )
        return
    if isinstance(value, str) and value in names:
        return
    kind = next((t for t in types if t in _KINDS and not (names and t is str)), None)
    if kind is None:  # a tuple, which its own check knows
        return
    words, allowed = _KINDS[kind]
    if not isinstance(value, allowed) or (isinstance(value, bool) and kind is not bool):
        words = f"one of {', '.join(names)}, or {words}" if names else words
        raise OptionError(f"{label} must be {words}, not {value!r}.")
    if "min" in meta and not meta["min"] <= value <= meta.get("max", np.inf):
        span = f"at least {meta['min']}"
        if "max" in meta:
            span = f"between {meta['min']} and {meta['max']}"
        raise OptionError(f"{label} is {value}; it must be {span}.")


def documented(options: Options) -> Options:
    """Add the help texts of the fields to the docstring of their class."""
    lines = ["\n", "Parameters", "----------"]
    for item in fields(options):
        lines.append(f"{item.name} : {item.type}, default: {item.default!r}")
        lines.append(textwrap.indent(textwrap.fill(item.metadata["help"], 76), "    "))
    options.__doc__ = "\n".join([options.__doc__ or "", *lines, ""])
    return options
