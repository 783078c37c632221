"""A run's folder or result -> the page."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_biomedparse.errors import OptionError
from napari_biomedparse.evaluation.pictures import require_pictures
from napari_biomedparse.io.durable import writing
from napari_biomedparse.pipeline.parts import Series
from napari_biomedparse.report.drawing import existence_plot, overlay_pictures
from napari_biomedparse.report.findings import findings
from napari_biomedparse.report.html import facts_table, page, save_page, table
from napari_biomedparse.report.objects import object_tables
from napari_biomedparse.report.result import RunResult
from napari_biomedparse.runs.folder import Run
from napari_biomedparse.runs.run import open_input

if TYPE_CHECKING:
    from napari_biomedparse.data.volume import ArrayLike

PAGE = "report.html"


def report_run(
    folder: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    volume: Any = None,
    time: int = 0,
) -> Path:
    """Write the page of a run's folder.

    Parameters
    ----------
    folder : path
        As given to `segment_to_folder`.
    output : path, optional
        By default ``report.html`` in the folder.
    volume : path, Volume or array, optional
        In place of the recorded path; needed if the run was given an array.
    time : int
        Which time point of a series is shown, from 0.

    Returns
    -------
    Path
        The page, which needs no other file.

    Raises
    ------
    FormatError, VolumeError
        If there is no run, or its volume cannot be opened.
    OptionError
        If the volume has to be given, there is no such time point, or a package is
        missing.
    OutputError
        If the page cannot be written.
    """
    run = Run(Path(folder))
    path = Path(folder) / PAGE if output is None else Path(output)
    write_report(path, _read(run, volume, time))
    return path


def write_report(path: Path, result: RunResult) -> None:
    """Write the page of a result.

    Parameters
    ----------
    path : Path
        The new file; replaced if it exists.
    result : RunResult

    Raises
    ------
    OptionError
        If matplotlib is missing.
    VolumeError
        If labels and volume do not fit.
    OutputError
        If the page cannot be written.
    """
    require_pictures()
    voxels = _count(result)
    parts = ["<h2>Found</h2>", _findings(result, voxels)]
    if result.existence is not None:
        parts += ["<h2>Existence</h2>", existence_plot(result)]
    parts += ["<h2>Pictures</h2>", *overlay_pictures(result, voxels)]
    parts += ["<h2>Objects</h2>", *object_tables(result)]
    for title, facts in result.facts.items():
        parts += [f"<h2>{escape(title)}</h2>", facts_table(_plain(facts))]
    with writing(path.parent):
        save_page(path, page(result.name, parts))


def _read(run: Run, volume: Any, time: int) -> RunResult:
    manifest = run.manifest
    given = manifest.source["path"] if volume is None else volume
    if given is None:
        raise OptionError(
            f"{run.folder} was run on a volume from memory; give the volume, too."
        )
    opened = open_input(
        given,
        manifest.source.get("channel"),
        manifest.source.get("time"),
        consensus=run.kind == "consensus",
    )
    labels, objects, existence = run.labels, run.instances, run.existence
    if isinstance(opened, Series):
        count = existence.shape[1]
        if not 0 <= time < count:
            raise OptionError(f"The series has time points 0 to {count - 1}.")
        opened = opened.at(time)
        labels, existence = labels[time], existence[:, time]
        objects = None if objects is None else objects[time]
    axis = 0
    if run.kind == "consensus":
        existence = existence[:, 0, : labels.shape[0]]
    else:
        axis = int(manifest.output["axis"])
    used = dict(manifest.parameters)
    return RunResult(
        f"Segmentation of {opened.name}",
        opened,
        labels,
        run.prompts,
        existence,
        axis,
        objects,
        {
            "How it was made": {
                "model": manifest.model,
                "finished": manifest.finished or "not yet",
                **manifest.environment,
            },
            "Parameters": used,
            "Source": manifest.source,
        },
        float(used["existence_threshold"]),
    )


def _count(result: RunResult) -> npt.NDArray[np.int64]:
    """Count the voxels of each prompt in each slice, int64 [P, slices]."""
    ids, axis = result.prompts.ids, result.axis
    counts = np.zeros((len(ids), result.labels.shape[axis]), np.int64)
    for at, plane in _planes(result.labels, axis):
        found = np.bincount(plane.ravel(), minlength=ids[-1] + 1)
        counts[:, at] = found[list(ids)]
    return counts


def _planes(
    labels: ArrayLike, axis: int
) -> Iterator[tuple[int, npt.NDArray[np.integer[Any]]]]:
    for at in range(labels.shape[axis]):
        where: list[Any] = [slice(None)] * 3
        where[axis] = at
        yield at, np.asarray(labels[tuple(where)])


def _findings(result: RunResult, voxels: npt.NDArray[np.int64]) -> str:
    existence = result.existence
    if existence is None:
        existence = np.full(voxels.shape, np.nan, np.float32)
    rows = []
    for one in findings(result.prompts, existence, voxels):
        where = f"{one.first} to {one.last}" if one.slices else "-"
        best = "-" if one.best_slice is None else f"{one.best:.3f} ({one.best_slice})"
        rows.append((one.prompt.text, one.prompt.id, one.slices, where, best,
                     f"{one.voxels:,}"))  # fmt: skip
    return table(
        ("prompt", "label", "slices", "from to", "best existence (slice)", "voxels"),
        rows,
    )


def _plain(facts: Mapping[str, Any]) -> list[tuple[str, object]]:
    return [
        (name.replace("_", " "), value if isinstance(value, str) else json.dumps(value))
        for name, value in facts.items()
        if value not in (None, [], {})
    ]
