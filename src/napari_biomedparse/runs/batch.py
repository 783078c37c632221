"""Many files, one run folder each, and a table of the results."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Unpack

import numpy as np

from napari_biomedparse.data.results import score_of, score_text
from napari_biomedparse.data.text import csv_text
from napari_biomedparse.errors import (
    BiomedParseError,
    Cancelled,
    FormatError,
    OutputError,
    PromptError,
    shortage,
)
from napari_biomedparse.io import open_file
from napari_biomedparse.io.durable import (
    check_folder,
    check_place,
    write_durably,
    writing,
    written,
)
from napari_biomedparse.io.inputs import find_files, folder_names
from napari_biomedparse.networks.weights import load_model, model_or_default
from napari_biomedparse.runs.folder import LOCK, Run
from napari_biomedparse.runs.manifest import MANIFEST
from napari_biomedparse.runs.run import (
    FolderChanges,
    FolderOptions,
    merge_changes,
    segment_to_folder,
)

if TYPE_CHECKING:
    from napari_biomedparse.data.options import SegmentOptions
    from napari_biomedparse.data.prompts import PromptSet, PromptsLike
    from napari_biomedparse.networks.network import Network
    from napari_biomedparse.runs.blocks import Progress

logger = logging.getLogger(__name__)

SUMMARY = "summary.csv"
COLUMNS = (
    "file", "status", "label", "prompt", "existence", "voxels", "seconds", "error",
)  # fmt: skip

Status = Literal["done", "skipped", "failed"]


@dataclass(frozen=True)
class FileOutcome:
    """Result of one file of a batch."""

    file: Path
    status: Status
    """Skipped if it was finished before."""
    seconds: float
    run: Run | None = None
    """The finished run; None if it failed."""
    error: str = ""
    """The reason of a failure, or empty."""


def segment_files(
    inputs: Iterable[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    prompts: PromptsLike | None = None,
    model: str | os.PathLike[str] | Network | None = None,
    options: SegmentOptions | None = None,
    folder_options: FolderOptions | None = None,
    *,
    continue_: bool = False,
    on_file: Callable[[Path, int, int], None] | None = None,
    on_progress: Progress | None = None,
    **changes: Unpack[FolderChanges],
) -> tuple[FileOutcome, ...]:
    """Segment many files; one that fails does not stop the others.

    Each gets a run folder of its name in `out`; ``summary.csv`` there has a row for
    each file and prompt, and is updated after every file.

    Parameters
    ----------
    inputs : iterable of path
        Files, folders of files, and patterns such as ``scans/*.tif``.
    out : path
        Folder for the results; made if it is missing.
    prompts : see `parse_prompts`, optional
        By default those that each file holds.
    model, options, folder_options, **changes
        As for `segment_to_folder`.
    continue_ : bool
        Whether to resume an earlier call; finished files are skipped.
    on_file : callable, optional
        Called before each file with its path, its number from 0, and the number of
        files.
    on_progress : callable, optional
        As for `segment_to_folder`, for each file.

    Returns
    -------
    tuple of FileOutcome
        In order.

    Raises
    ------
    FormatError
        If there is no file.
    OutputError
        If `out` cannot be written, or holds results and `continue_` is not set.
    CheckpointError
        If the model cannot be loaded.
    """
    how, options = merge_changes(folder_options, options, changes)
    folder = Path(out)
    files = find_files(inputs)
    names = folder_names(files)
    if not continue_:
        _refuse_existing([folder / name for name in names])
    check_folder(folder)
    with written(folder):
        folder.mkdir(parents=True, exist_ok=True)
    check_place(folder / SUMMARY, overwrite=continue_ or how.overwrite, inputs=files)
    if model is None or isinstance(model, str | os.PathLike):
        load: str | os.PathLike[str] = model_or_default(model)
        network, how = load_model(load), replace(how, load=load)
    else:
        network = model
    outcomes: list[FileOutcome] = []
    for number, (file, name) in enumerate(zip(files, names, strict=True)):
        if on_file:
            on_file(file, number, len(files))
        begun = time.monotonic()
        status: Status = "skipped" if _is_finished(folder / name) else "done"
        run, error = None, ""
        try:
            run = segment_to_folder(
                file,
                _prompts_in(file) if prompts is None else prompts,
                folder / name,
                network,
                options,
                how,
                on_progress=on_progress,
            )
        except Cancelled:
            raise
        except Exception as problem:  # the other files are still to be done
            status, error = "failed", str(problem)
            if not isinstance(problem, BiomedParseError):
                logger.exception("%s failed", file)
                error = str(shortage(problem) or f"{type(problem).__name__}: {error}")
        seconds = time.monotonic() - begun
        outcomes.append(FileOutcome(file, status, seconds, run, error))
        with writing(folder):
            write_durably(folder / SUMMARY, summary(outcomes))
    return tuple(outcomes)


def summary(outcomes: Iterable[FileOutcome]) -> str:
    """Return a CSV table with a row for each file and prompt."""
    rows: list[dict[str, str]] = []
    name = "existence"
    for outcome in outcomes:
        row = {
            "file": str(outcome.file),
            "status": outcome.status,
            "seconds": f"{outcome.seconds:.1f}",
            "error": outcome.error,
        }
        if (run := outcome.run) is None:
            rows.append(row)
            continue
        count = len(run.prompts)
        voxels = run.voxels.reshape(count, -1).sum(axis=1)
        best = np.fmax.reduce(run.existence.reshape(count, -1), axis=1)
        name, _ = score_of(run.parameters)
        for prompt, score, found in zip(run.prompts.prompts, best, voxels, strict=True):
            about = {"label": str(prompt.id), "prompt": prompt.text}
            scores = {name: score_text(score, name, 3), "voxels": str(found)}
            rows.append(row | about | scores)
    columns = [name if column == "existence" else column for column in COLUMNS]
    return csv_text(columns, rows)


def _prompts_in(file: Path) -> PromptSet:
    prompts = open_file(file).prompts
    if prompts is None:
        raise PromptError(f"{file} holds no prompts; give some.")
    return prompts


def _is_finished(folder: Path) -> bool:
    try:
        return Run(folder).finished
    except FormatError:
        return False


def _refuse_existing(folders: Sequence[Path]) -> None:
    there = [f for f in folders if (f / MANIFEST).exists() or (f / LOCK).exists()]
    if there:
        raise OutputError(
            f"{len(there)} of {len(folders)} results exist already, for example "
            f"{there[0]}; choose another folder, or continue (--continue), which "
            "skips what is finished."
        )
