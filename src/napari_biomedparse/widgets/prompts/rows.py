"""What the prompt table holds: rows, their results, and texts. No Qt."""

from __future__ import annotations

import re
from dataclasses import dataclass

_BULLET = re.compile(r"^\s*(?:[-*•]|\d+[.):])\s+")
"""Bullets and numbers at the beginning of list items."""
Snapshot = tuple[tuple[int, str, bool], ...]
"""Label id, text and on/off state of each row."""


@dataclass(frozen=True)
class Result:
    """Result of the last run for a row: NaN or None where it is not known."""

    score: float
    best_slice: int | None
    voxels: int
    objects: int | None = None
    name: str = "existence"
    """What the score is; see `score_of`."""


@dataclass(frozen=True)
class Row:
    """One prompt of the table; its label id stays with the text."""

    id: int
    text: str
    on: bool = True
    result: Result | None = None


def split_list(text: str) -> list[str]:
    """Return the prompts of a text, one per line, without bullets and numbers."""
    lines = (_BULLET.sub("", line).strip() for line in text.splitlines())
    return [line for line in lines if line]


def short_count(number: int) -> str:
    """Return a number in at most six characters, such as 12,345 or 1.2 M."""
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**5, "k")):
        if number >= size:
            whole = number / (1000 if unit == "k" else size)
            return f"{whole:.0f} {unit}" if whole >= 10 else f"{whole:.1f} {unit}"
    return f"{number:,}"
