"""What the commands share: where they write, bars, tables, and errors in one line."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from napari_biomedparse.errors import BiomedParseError, OptionError
from napari_biomedparse.report.findings import truncation_warning

if TYPE_CHECKING:
    from napari_biomedparse.data.prompts import PromptSet
    from napari_biomedparse.report.findings import Finding
    from napari_biomedparse.report.why_empty import Cause

USAGE, INTERRUPTED = 2, 130
"""Exit codes, by convention, besides 1 for what went wrong."""
out = Console()
err = Console(stderr=True)


def say(text: str) -> None:
    """Print text as it is: paths neither break nor turn into markup."""
    out.print(text, highlight=False, markup=False, soft_wrap=True)


def complain(text: str) -> None:
    """Print what went wrong on stderr."""
    err.print(text, style="red", highlight=False, markup=False, soft_wrap=True)


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
    except KeyboardInterrupt as stop:  # its text, if it has one, knows better
        err.print(f"Interrupted; {str(stop) or remains}.", soft_wrap=True)
        raise typer.Exit(INTERRUPTED) from None


def progress_bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
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
) -> None:
    """Show what was found, or likely causes if that is nothing."""
    table = Table("label", "prompt", "slices", "existence", "voxels")
    for finding in findings:
        table.add_row(
            str(finding.prompt.id),
            finding.prompt.text,
            f"{finding.slices} ({finding.first} to {finding.last})"
            if finding.slices
            else "-",
            f"{finding.best:.2f} (slice {finding.best_slice})",
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
            out.print(f"- {cause.sentence} {cause.fix}{remedy}", markup=False)


def show_times(
    prompts: PromptSet,
    existence: npt.NDArray[np.float32],
    threshold: float,
    first: int = 0,
) -> None:
    """Show at how many time points something was found; existence is [P, T, slices]."""
    table = Table("label", "prompt", "time points", "best existence")
    best = np.nanmax(existence, axis=2)
    for prompt, scores in zip(prompts.prompts, best, strict=True):
        likely = int((scores >= threshold).sum())
        when = f"{scores.max():.2f} (time {first + int(scores.argmax())})"
        table.add_row(str(prompt.id), prompt.text, str(likely), when)
    out.print(table)


def show_axes(
    prompts: PromptSet, axes: Sequence[str], existence: npt.NDArray[np.float32]
) -> None:
    """Show the existence [P, axes, slices] that each run of a consensus found."""
    table = Table("label", "prompt", *(f"existence along {axis}" for axis in axes))
    for prompt, scores in zip(prompts.prompts, existence, strict=True):
        best = [f"{np.nanmax(along):.2f}" for along in scores]
        table.add_row(str(prompt.id), prompt.text, *best)
    out.print(table)
