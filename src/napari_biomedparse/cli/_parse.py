"""Option texts that mean more than typer knows."""

from __future__ import annotations

import typer


def slice_range(text: str | None) -> tuple[int, int] | None:
    """Read a range of slices such as ``10:20``; None stays None."""
    if text is None:
        return None
    first, colon, end = text.partition(":")
    if not (colon and first.strip().isdigit() and end.strip().isdigit()):
        raise typer.BadParameter(
            f"{text!r} is no range of slices; write, for example, 10:20.",
            param_hint="--slices",
        )
    return int(first), int(end)


def to_number(text: str) -> int | str:
    """Return a number as such, and any other text as it is."""
    return int(text) if text.isdigit() else text
