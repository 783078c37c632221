"""The rows of the prompt table, with their results. No Qt."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from napari_biomedparse.data.prompts import Prompt, PromptSet
from napari_biomedparse.errors import PromptError
from napari_biomedparse.networks.blocks.tokenizer import refuse_equal

if TYPE_CHECKING:
    from napari_biomedparse.report.findings import Finding

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


@dataclass(frozen=True)
class Row:
    """One prompt of the table; its label id stays with the text."""

    id: int
    text: str
    on: bool = True
    result: Result | None = None


class PromptRows:
    """An ordered list of prompts whose label ids are stable.

    Rows keep their id when they are moved or turned off, and when others go.
    """

    def __init__(self) -> None:
        self._rows: list[Row] = []

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._rows)

    def __getitem__(self, at: int) -> Row:
        """Return the row at a position."""
        return self._rows[at]

    def __iter__(self) -> Iterator[Row]:
        """Iterate over the rows from top to bottom."""
        return iter(self._rows)

    @property
    def texts(self) -> tuple[str, ...]:
        """Text of each row that is on."""
        return tuple(row.text for row in self._rows if row.on)

    @property
    def order(self) -> tuple[int, ...]:
        """Label ids of the rows that are on, from top to bottom."""
        return tuple(row.id for row in self._rows if row.on)

    def prompt_set(self) -> PromptSet:
        """Return the prompts that are on, in the order of the rows.

        Raises `PromptError` if there are none.
        """
        if self._rows and not self.texts:
            raise PromptError(
                "All prompts are turned off; tick the box of at least one."
            )
        refuse_equal(self.texts)
        on = sorted((row for row in self._rows if row.on), key=lambda row: row.id)
        prompts = tuple(Prompt(row.id, row.text) for row in on)
        return PromptSet(prompts, order=self.order)

    def snapshot(self) -> Snapshot:
        """Return the rows without their results."""
        return tuple((row.id, row.text, row.on) for row in self._rows)

    def restore(self, snapshot: Snapshot) -> None:
        """Restore the rows of a snapshot; raises PromptError if one is not valid."""
        by_id = sorted(snapshot)
        PromptSet(tuple(Prompt(number, text) for number, text, _ in by_id))
        self._rows = [Row(number, text, on) for number, text, on in snapshot]

    def set_all(self, prompts: PromptSet | None) -> None:
        """Replace all rows."""
        found = () if prompts is None else prompts.prompts
        texts = {prompt.id: prompt.text for prompt in found}
        order = () if prompts is None else prompts.ranked
        self._rows = [Row(number, texts[number]) for number in order]

    def add(self, texts: Iterable[str]) -> int:
        """Append rows with new label ids; return their number."""
        first = max((row.id for row in self._rows), default=0) + 1
        made = [Prompt(number, text) for number, text in enumerate(texts, first)]
        self._rows += [Row(prompt.id, prompt.text) for prompt in made]
        return len(made)

    def set_text(self, at: int, text: str) -> None:
        """Change the text of a row and clear its result."""
        row = self._rows[at]
        if text.strip() != row.text:
            prompt = Prompt(row.id, text.strip())
            self._rows[at] = replace(row, text=prompt.text, result=None)

    def switch(self, at: int, on: bool) -> None:
        """Turn a row on or off."""
        self._rows[at] = replace(self._rows[at], on=on)

    def move(self, at: int, to: int) -> None:
        """Move a row to another position."""
        self._rows.insert(to, self._rows.pop(at))

    def duplicate(self, at: int) -> int:
        """Insert a copy with a new label id below a row; return its position."""
        self.add([self._rows[at].text])
        self.move(len(self._rows) - 1, at + 1)
        return at + 1

    def delete(self, positions: Iterable[int]) -> None:
        """Remove rows."""
        gone = set(positions)
        self._rows = [row for at, row in enumerate(self._rows) if at not in gone]

    def show_results(
        self, findings: Sequence[Finding], objects: Mapping[int, int] | None = None
    ) -> None:
        """Show a run's findings, and its numbers of objects by label id."""
        found = {(f.prompt.id, f.prompt.text): f for f in findings}
        for at, row in enumerate(self._rows):
            finding = found.get((row.id, row.text))
            if finding is None:
                continue
            result = Result(
                finding.best,
                finding.best_slice,
                finding.voxels,
                None if objects is None else objects.get(row.id, 0),
            )
            self._rows[at] = replace(row, result=result)

    def clear_results(self) -> None:
        """Clear all results."""
        self._rows = [replace(row, result=None) for row in self._rows]


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
