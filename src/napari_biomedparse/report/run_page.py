"""The page on a run: of its folder, or of arrays."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_biomedparse.data.results import score_of, score_text
from napari_biomedparse.errors import OptionError, needs_extra
from napari_biomedparse.io.durable import check_place, write_durably, written
from napari_biomedparse.pipeline.plan import Series, choose_input
from napari_biomedparse.report.drawing import (
    as_png,
    existence_plot,
    html_color,
    overlay_pictures,
    plane,
)
from napari_biomedparse.report.findings import count_voxels, findings
from napari_biomedparse.report.html import render
from napari_biomedparse.report.objects import Row, object_tables
from napari_biomedparse.report.result import RunResult
from napari_biomedparse.runs.folder import REPORT, Run

_TEMPLATE = Path(__file__).with_name("run.html")


def report_run(
    folder: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    volume: Any = None,
    time: int = 0,
    overwrite: bool = False,
) -> Path:
    """Write the page of a run's folder, a single file, and return its path.

    `output` is by default ``report.html`` in the folder, which may exist, as any file
    may with `overwrite`; a part of the run or the volume is never replaced. `volume`, a
    path, `Volume` or array, replaces the recorded path; it is required if the run was
    made from an array. `time` is the time point of a series to show, from 0.

    A `FormatError` or `VolumeError` is raised if the folder is not a run's, or the
    volume cannot be opened; an `OptionError` if the volume is required, the time point
    does not exist, or a package is missing; an `OutputError` if the page cannot be
    written.
    """
    run = Run(Path(folder))
    page = run.folder / REPORT
    path = page if output is None else Path(output)
    overwrite = overwrite or path.absolute() == page.absolute()
    parts = [part for part in run.folder.iterdir() if part.name != REPORT]
    check_place(path, overwrite=overwrite, inputs=parts)
    write_report(path, _read(run, volume, time), overwrite=overwrite)
    return path


def write_report(path: Path, result: RunResult, *, overwrite: bool = False) -> None:
    """Write the page of a result to a file.

    Raises an `OptionError` if a package is missing, and an `OutputError` if the file
    exists and `overwrite` is False, it is the volume's, or it cannot be written.
    """
    check_place(path, overwrite=overwrite, inputs=[result.volume.source])
    with needs_extra("evaluate", "The pictures"):
        import matplotlib.figure  # noqa: F401
    voxels = _count(result)
    scored = result.existence is not None and np.isfinite(result.existence).any()
    plot = existence_plot(result) if scored else None
    note, tables = object_tables(result)
    page = render(
        _TEMPLATE,
        title=result.name,
        found=_found(result, voxels),
        score=result.score,
        existence=None if plot is None else as_png(plot, dpi=200),
        prompts=[(html_color(p.id), p.text) for p in result.prompts.prompts],
        pictures=list(overlay_pictures(result, voxels)),
        note=note,
        tables=tables,
        facts=[(title, _plain(facts)) for title, facts in result.facts.items()],
    )
    with written(path):
        write_durably(path, page)


def _read(run: Run, volume: Any, time: int) -> RunResult:
    manifest = run.manifest
    given = manifest.source["path"] if volume is None else volume
    if given is None:
        raise OptionError(
            f"The run in {run.folder} was made from an array in memory; give the "
            "volume as well."
        )
    opened = choose_input(
        given,
        manifest.options,
        channel=manifest.source.get("channel"),
        time=manifest.source.get("time"),
        consensus=run.kind == "consensus",
        force=True,
    )
    labels, instances, existence = run.labels, run.instances, run.existence
    if isinstance(opened, Series):
        count = existence.shape[1]
        if not 0 <= time < count:
            raise OptionError(
                f"There is no time point {time}; choose one of 0 to {count - 1}."
            )
        opened = opened.at(time)
        labels, existence = labels[time], existence[:, time]
        instances = None if instances is None else instances[time]
    axis = 0
    if run.kind == "consensus":
        existence = existence[:, 0, : labels.shape[0]]
    else:
        axis = int(manifest.output["axis"])
    used = dict(manifest.parameters)
    score, threshold = score_of(used)
    return RunResult(
        f"Segmentation of {opened.name}",
        opened,
        labels,
        run.prompts,
        existence,
        axis,
        instances,
        {
            "How it was made": {
                "model": manifest.model,
                "finished": manifest.finished or "not yet",
                "voxels edited by hand": run.edited,
                **manifest.environment,
            },
            "Parameters": used,
            "Source": manifest.source,
        },
        float(used[threshold]),
        score,
    )


def _count(result: RunResult) -> npt.NDArray[np.int64]:
    """Count the voxels of each prompt in each slice, int64 [P, slices]."""
    slices = range(result.labels.shape[result.axis])
    planes = (plane(result.labels, result.axis, at) for at in slices)
    ids = result.prompts.ids
    return np.stack([count_voxels(labels, ids) for labels in planes], axis=1)


def _found(result: RunResult, voxels: npt.NDArray[np.int64]) -> list[Row]:
    existence = result.existence
    if existence is None:
        existence = np.full(voxels.shape, np.nan, np.float32)
    rows: list[Row] = []
    for one in findings(result.prompts, existence, voxels):
        where = f"{one.first} to {one.last}" if one.slices else "-"
        best = score_text(one.best, result.score, 3)
        best += "" if one.best_slice is None else f" ({one.best_slice})"
        voxel_count = f"{one.voxels:,}"
        rows.append(
            (one.prompt.text, one.prompt.id, one.slices, where, best, voxel_count)
        )
    return rows


def _plain(facts: Mapping[str, Any]) -> list[tuple[str, object]]:
    return [
        (name.replace("_", " "), value if isinstance(value, str) else json.dumps(value))
        for name, value in facts.items()
        if value not in (None, [], {})
    ]
