"""Many files, one run's folder each, and a table of what was found."""

from __future__ import annotations

import csv
import io
import logging
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from napari_biomedparse.errors import (
    BiomedParseError,
    FormatError,
    OutputError,
    PromptError,
)
from napari_biomedparse.io import open_file
from napari_biomedparse.io.durable import write_durably, writing
from napari_biomedparse.io.inputs import find_files, folder_names
from napari_biomedparse.networks.weights import default_model, load_model
from napari_biomedparse.runs.folder import LOCK, Run
from napari_biomedparse.runs.manifest import MANIFEST
from napari_biomedparse.runs.run import segment_to_folder

if TYPE_CHECKING:
    from napari_biomedparse.data.options import SegmentOptions
    from napari_biomedparse.networks.network import Network
    from napari_biomedparse.runs.volume_run import Progress

logger = logging.getLogger(__name__)

SUMMARY = "summary.csv"
COLUMNS = (
    "file", "status", "label", "prompt", "existence", "voxels", "seconds", "error",
)  # fmt: skip

Status = Literal["done", "skipped", "failed"]


@dataclass(frozen=True)
class FileOutcome:
    """What became of one file of a batch.

    Parameters
    ----------
    file : Path
    status : {"done", "skipped", "failed"}
        Skipped if it was finished before.
    seconds : float
    run : Run, optional
        The finished run; None if it failed.
    error : str
        Why it failed, or empty.
    """

    file: Path
    status: Status
    seconds: float
    run: Run | None = None
    error: str = ""


def segment_files(
    inputs: Iterable[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    prompts: Any = None,
    model: str | os.PathLike[str] | Network | None = None,
    options: SegmentOptions | None = None,
    *,
    continue_: bool = False,
    on_file: Callable[[Path, int, int], None] | None = None,
    on_progress: Progress | None = None,
    **more: Any,
) -> tuple[FileOutcome, ...]:
    """Segment many files; one that fails does not stop the others.

    Each gets a run's folder of its name in `out`; ``summary.csv`` there has a line
    for each file and prompt, and is up to date after every file.

    Parameters
    ----------
    inputs : iterable of path
        Files, folders of files, and patterns such as ``scans/*.tif``.
    out : path
        Folder for the results; made if it is missing.
    prompts : see `parse_prompts`, optional
        By default those that each file holds.
    model, options
        As for `segment_to_folder`.
    continue_ : bool
        Whether to go on with what an earlier call began: what is finished is skipped.
    on_file : callable, optional
        Called before each file with its path, its number from 0, and how many.
    on_progress : callable, optional
        As for `segment_to_folder`, for each file.
    **more
        Other keywords of `segment_to_folder`, also single options.

    Returns
    -------
    tuple of FileOutcome
        In order; those that failed say why.

    Raises
    ------
    FormatError
        If there is no file.
    OutputError
        If `out` cannot be written, or holds results and `continue_` is not set.
    CheckpointError
        If the model cannot be loaded.
    """
    folder = Path(out)
    files = find_files(inputs)
    names = folder_names(files)
    if not continue_:
        _refuse_existing([folder / name for name in names])
    if model is None or isinstance(model, str | os.PathLike):
        load: Any = default_model() if model is None else model
        network, more = load_model(load), {**more, "load": load}
    else:
        network = model
    outcomes: list[FileOutcome] = []
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for number, (file, name) in enumerate(zip(files, names, strict=True)):
        if on_file:
            on_file(file, number, len(files))
        begun = time.monotonic()
        was_finished = _is_finished(folder / name)
        status: Status = "skipped" if was_finished else "done"
        run, error = None, ""
        try:
            run = segment_to_folder(
                file,
                _prompts_in(file) if prompts is None else prompts,
                folder / name,
                network,
                options,
                on_progress=on_progress,
                **more,
            )
        except BiomedParseError as problem:
            error = str(problem)
        except Exception as problem:  # the other files must go on
            logger.exception("%s failed", file)
            error = f"{type(problem).__name__}: {problem}"
        outcomes.append(
            FileOutcome(
                file,
                "failed" if error else status,
                time.monotonic() - begun,
                run,
                error,
            )
        )
        with writing(folder):
            write_durably(folder / SUMMARY, summary(outcomes))
    return tuple(outcomes)


def summary(outcomes: Iterable[FileOutcome]) -> str:
    """Return a CSV table with a line for each file and prompt."""
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    table.writeheader()
    for outcome in outcomes:
        line = {
            "file": str(outcome.file),
            "status": outcome.status,
            "seconds": f"{outcome.seconds:.1f}",
            "error": outcome.error,
        }
        if outcome.run is None:
            table.writerow(line)
            continue
        count = len(outcome.run.prompts)
        voxels = outcome.run.voxels.reshape(count, -1).sum(axis=1)
        best = np.nanmax(outcome.run.existence.reshape(count, -1), axis=1)
        for i, prompt in enumerate(outcome.run.prompts.prompts):
            table.writerow(
                line
                | {
                    "label": prompt.id,
                    "prompt": prompt.text,
                    "existence": f"{best[i]:.3f}",
                    "voxels": int(voxels[i]),
                }
            )
    return text.getvalue()


def _prompts_in(file: Path) -> Any:
    prompts = open_file(file).prompts
    if prompts is None:
        raise PromptError(f"{file} holds no prompts; say what to find.")
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
            f"{there[0]}; choose another folder, or continue (--continue): what is "
            "finished is skipped then."
        )
