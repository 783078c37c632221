"""The rows of the prompt table: what to find, what is on, what was found. No Qt."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from napari_biomedparse.data.prompts import (
    INSTANCE_KEY,
    Prompt,
    PromptSet,
    parse_prompts,
)
from napari_biomedparse.errors import FormatError, OutputError, PromptError

if TYPE_CHECKING:
    from napari_biomedparse.report.findings import Finding

_BULLET = re.compile(r"^\s*(?:[-*•]|\d+[.):])\s+")
"""What lists in texts begin their lines with."""
Snapshot = tuple[tuple[int, str, bool], ...]
"""Label id, text and whether it is on, of each row."""


@dataclass(frozen=True)
class Result:
    """What the last run found for a row.

    Parameters
    ----------
    score : float
        Highest existence probability, 0 to 1; NaN before the first slice.
    best_slice : int or None
        Where that is.
    voxels : int
    objects : int or None
        None if objects were not told apart.
    """

    score: float
    best_slice: int | None
    voxels: int
    objects: int | None = None


@dataclass(frozen=True)
class Row:
    """One prompt of the table.

    Parameters
    ----------
    id : int
        Label id, which stays with the text whatever happens to other rows.
    text : str
    on : bool
        Whether runs look for it.
    result : Result, optional
    """

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
        """Go through the rows from top to bottom."""
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
        """Return what a run is to find; the rows' order is that of the prompts.

        Raises
        ------
        PromptError
            If there is no row, or none is on.
        """
        if self._rows and not self.texts:
            raise PromptError(
                "All prompts are turned off; tick the box of at least one of them."
            )
        on = sorted((row for row in self._rows if row.on), key=lambda row: row.id)
        prompts = tuple(Prompt(row.id, row.text) for row in on)
        return PromptSet(prompts, order=self.order)

    def snapshot(self) -> Snapshot:
        """Return what the user decides about; results are no part of it."""
        return tuple((row.id, row.text, row.on) for row in self._rows)

    def restore(self, snapshot: Snapshot) -> None:
        """Put rows back as `snapshot` gave them.

        Raises
        ------
        PromptError
            If they cannot be prompts.
        """
        by_id = sorted(snapshot)
        PromptSet(tuple(Prompt(number, text) for number, text, _ in by_id))
        self._rows = [Row(number, text, on) for number, text, on in snapshot]

    def set_all(self, prompts: PromptSet | None) -> None:
        """Replace all rows by some prompts, or by none."""
        found = () if prompts is None else prompts.prompts
        texts = {prompt.id: prompt.text for prompt in found}
        order = () if prompts is None else prompts.ranked
        self._rows = [Row(number, texts[number]) for number in order]

    def add(self, texts: Iterable[str]) -> int:
        """Add rows at the end, each with a new label id; return how many.

        Raises
        ------
        PromptError
            If a text cannot be a prompt.
        """
        first = max((row.id for row in self._rows), default=0) + 1
        made = [Prompt(number, text) for number, text in enumerate(texts, first)]
        self._rows += [Row(prompt.id, prompt.text) for prompt in made]
        return len(made)

    def set_text(self, at: int, text: str) -> None:
        """Change what a row looks for; its result is forgotten.

        Raises
        ------
        PromptError
            If the text cannot be a prompt.
        """
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
        """Put a copy, with a label id of its own, below a row; return where."""
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
        """Take over what a run found for rows that it looked for.

        Parameters
        ----------
        findings : sequence of Finding
            One per prompt.
        objects : mapping of int to int, optional
            Number of objects by label id, if they were told apart.
        """
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
        """Forget what was found."""
        self._rows = [replace(row, result=None) for row in self._rows]

    def save(self, path: str | os.PathLike[str], *, instance: bool) -> None:
        """Write all rows as JSON, as `load` and `parse_prompts` take it.

        Parameters
        ----------
        path : path
            Replaced if it exists.
        instance : bool
            Whether objects are to be told apart.

        Raises
        ------
        OutputError
            If it cannot be written.
        """
        known: dict[str, str | int] = {str(row.id): row.text for row in self._rows}
        known[INSTANCE_KEY] = int(instance)
        text = json.dumps(known, indent=2, ensure_ascii=False)
        try:
            Path(path).write_text(text + "\n", "utf-8")
        except OSError as error:
            raise OutputError(
                f"{path} cannot be written: {error.strerror or error}. Choose a folder "
                "that you may write to."
            ) from error

    def load(self, path: str | os.PathLike[str]) -> bool:
        """Replace all rows by those of a file that `save` wrote.

        Parameters
        ----------
        path : path
            JSON, label id to text.

        Returns
        -------
        bool
            Whether objects are to be told apart.

        Raises
        ------
        FormatError
            If it is no such file.
        PromptError
            If a prompt in it cannot be used.
        """
        prompts = read_prompts(path)
        texts = dict(zip(prompts.ids, prompts.texts, strict=True))
        self._rows = [Row(number, texts[number]) for number in prompts.ranked]
        return prompts.instance


def read_prompts(path: str | os.PathLike[str]) -> PromptSet:
    """Read prompts from a JSON file.

    Raises
    ------
    FormatError, PromptError
        If it cannot be read, or a prompt cannot be used.
    """
    try:
        known = json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise FormatError(
            f"{path} cannot be read as a set of prompts ({error}); it should be JSON "
            'such as {"1": "mitochondria in electron microscopy"}.'
        ) from error
    if not isinstance(known, dict):
        raise FormatError(
            f"{path} holds {type(known).__name__} at its top; a set of prompts is an "
            'object such as {"1": "mitochondria in electron microscopy"}.'
        )
    return parse_prompts(known)


def split_list(text: str) -> list[str]:
    """Return the prompts in a text with one a line; bullets and numbers are dropped."""
    lines = (_BULLET.sub("", line).strip() for line in text.splitlines())
    return [line for line in lines if line]


def short_count(number: int) -> str:
    """Return a number in at most six characters, such as 12,345 or 1.2 M."""
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**5, "k")):
        if number >= size:
            whole = number / (1000 if unit == "k" else size)
            return f"{whole:.0f} {unit}" if whole >= 10 else f"{whole:.1f} {unit}"
    return f"{number:,}"
