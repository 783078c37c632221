"""What the commands share: where they write, bars, tables, and errors in one line."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from napari_biomedparse.data.results import score_text
from napari_biomedparse.data.text import visible
from napari_biomedparse.errors import (
    BiomedParseError,
    OptionError,
    OutputError,
    shortage,
)
from napari_biomedparse.io.durable import remove_abandoned
from napari_biomedparse.report.findings import truncation_warning

if TYPE_CHECKING:
    from napari_biomedparse.data.prompts import PromptSet
    from napari_biomedparse.report.findings import Finding
    from napari_biomedparse.report.why_empty import Cause

USAGE, INTERRUPTED = 2, 130
"""Exit codes, by convention, besides 1 for what went wrong."""


class _PlainConsole(Console):
    """Shows text as it is, in tables too: without markup, control characters visible.

    Prompts, paths and messages may come from anybody's files.
    """

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, markup=False, emoji=False, highlight=False)

    def render_str(self, text: str, **how: Any) -> Text:
        """Make text of a string."""
        return super().render_str(visible(text), **how)

    def print(self, *what: Any, **how: Any) -> None:
        """Print; `OutputError` if the disk that this is redirected to is full."""
        try:
            super().print(*what, **how)
        except OSError as error:
            raise OutputError(
                f"What is told cannot be printed: {error.strerror}. Files that were to "
                "be saved are whole; give the output another place."
            ) from error


class _Description(TextColumn):
    """What a bar is about."""

    def render(self, task: Task) -> Text:
        """Make text of the description."""
        return Text(visible(task.description))


class _Warnings(logging.Handler):
    """Shows what the package and its libraries warn of, each text once."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._shown: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record, unless it is about the inside of a cluster."""
        text = self.format(record)
        if text not in self._shown and not record.name.startswith("distributed"):
            self._shown.add(text)
            err.print(text, soft_wrap=True)


out = _PlainConsole()
err = _PlainConsole(stderr=True)


def say(text: str) -> None:
    """Print text in one line, whatever its length."""
    out.print(text, soft_wrap=True)


def complain(text: str) -> None:
    """Print what went wrong on stderr."""
    err.print(text, style="red", soft_wrap=True)


def print_any_letter() -> None:
    """Have the terminal get escapes for letters that it cannot show."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def warnings_shown() -> Iterator[None]:
    """Print warnings that are logged meanwhile; forget what killed runs left."""
    remove_abandoned()
    handler = _Warnings()
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)


@contextmanager
def one_line_errors(remains: str = "nothing was written") -> Iterator[None]:
    """End with a message and an exit code instead of a traceback.

    `remains` says what an interruption leaves behind.
    """
    try:
        yield
    except BiomedParseError as error:
        complain(f"Error: {error}")
        code = USAGE if isinstance(error, OptionError) else 1
        raise typer.Exit(code) from error
    except (MemoryError, OSError, RuntimeError) as error:
        if (short := shortage(error)) is None:
            raise
        complain(f"Error: {short}")
        raise typer.Exit(1) from error
    except KeyboardInterrupt as stop:  # its text, if it has one, knows better
        err.print(f"Interrupted; {str(stop) or remains}.", soft_wrap=True)
        raise typer.Exit(INTERRUPTED) from None


def progress_bar() -> Progress:
    return Progress(
        _Description(""),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=err,
        transient=True,
    )


def bar_for(progress: Progress, title: str) -> Callable[[int, int], None]:
    """Return what a run calls to move a bar, which appears with the first call."""
    bar = progress.add_task(title, total=None, visible=False)
    return lambda done, total: progress.update(
        bar, completed=done, total=total, visible=True
    )


def show_findings(
    findings: Sequence[Finding],
    truncated: Sequence[str],
    why_empty: Callable[[], Sequence[Cause]],
    score: str = "existence",
) -> None:
    """Show what was found, or likely causes if that is nothing."""
    table = Table("label", "prompt", "slices", score, "voxels")
    for finding in findings:
        at = finding.best_slice
        table.add_row(
            str(finding.prompt.id),
            finding.prompt.text,
            f"{finding.slices} ({finding.first} to {finding.last})"
            if finding.slices
            else "-",
            score_text(finding.best, score) + ("" if at is None else f" (slice {at})"),
            f"{finding.voxels:,}",
        )
    out.print(table)
    if truncated:
        err.print(truncation_warning(truncated))
    if not any(finding.voxels for finding in findings):
        out.print("Nothing was found. Possible causes:")
        for cause in why_empty():
            flags = [
                f"--{name.replace('_', '-')} {value}"
                for name, value in cause.options.items()
                if value is not None
            ]
            remedy = f" ({', '.join(flags)})" if flags else ""
            out.print(f"- {cause.sentence} {cause.fix}{remedy}")


def show_times(
    prompts: PromptSet,
    existence: npt.NDArray[np.float32],
    threshold: float,
    first: int = 0,
    score: str = "existence",
) -> None:
    """Show at how many time points something was found; existence is [P, T, slices]."""
    table = Table("label", "prompt", "time points", f"best {score}")
    best = np.fmax.reduce(existence, axis=2)
    for prompt, scores in zip(prompts.prompts, best, strict=True):
        likely = int((~(scores < threshold)).sum())
        when = score_text(scores.max(), score)
        when += "" if np.isnan(scores).any() else f" (time {first + scores.argmax()})"
        table.add_row(str(prompt.id), prompt.text, str(likely), when)
    out.print(table)


def show_axes(
    prompts: PromptSet,
    axes: Sequence[str],
    existence: npt.NDArray[np.float32],
    score: str = "existence",
) -> None:
    """Show the scores [P, axes, slices] that each run of a consensus found."""
    table = Table("label", "prompt", *(f"{score} along {axis}" for axis in axes))
    for prompt, scores in zip(prompts.prompts, existence, strict=True):
        best = [score_text(np.fmax.reduce(along), score) for along in scores]
        table.add_row(str(prompt.id), prompt.text, *best)
    out.print(table)
