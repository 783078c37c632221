"""The tables of objects: as CSV, and those of the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_biomedparse.data.text import csv_text
from napari_biomedparse.io.durable import check_place, write_durably, written
from napari_biomedparse.labels.measure import (
    components_of,
    measure_objects,
    measure_prompts,
    with_units,
)
from napari_biomedparse.labels.sums import owners_of
from napari_biomedparse.runs.folder import grid_volume

if TYPE_CHECKING:
    import pandas as pd

    from napari_biomedparse.report.result import RunResult

Row = tuple[object, ...]
Table = tuple[list[str], list[Row]]
"""Names of columns, and rows."""
MOST_ROWS = 200
MOST_VOXELS = 2**28  # objects of larger volumes are not measured for the page
LISTED = (
    "id", "prompt", "voxels", "volume", "centroid_z", "centroid_y", "centroid_x",
    "mean_intensity", "surface_area", "sphericity",
)  # fmt: skip
"""Columns of the page."""


def sums_path(path: Path) -> Path:
    """Return where `save_tables` writes the table of prompts."""
    return path.with_name(f"{path.stem}_prompts{path.suffix}")


def save_tables(table: pd.DataFrame, path: Path, *, overwrite: bool) -> list[Path]:
    """Write the table of objects as CSV, and beside it that of prompts if it has any.

    Column names include the units. Returns the files' paths.
    """
    tables = {path: table}
    if "prompt" in table and table["prompt"].any():
        tables[sums_path(path)] = measure_prompts(table)
    for place in tables:
        check_place(place, overwrite=overwrite)
    for place, one in tables.items():
        with written(place):
            rows = one.itertuples(index=False)
            write_durably(place, csv_text(list(with_units(one)), rows))
    return list(tables)


def object_tables(result: RunResult) -> tuple[str, list[Table]]:
    """Measure objects; return how many there are, and tables of sums and objects."""
    if int(np.prod(result.labels.shape)) > MOST_VOXELS:
        return (
            "The volume is too large to measure its objects for this page; use "
            "napari-biomedparse measure.",
            [],
        )
    measured = _measured(result)
    if measured.empty:
        return "None.", []
    unit = measured.attrs["unit"]
    largest = measured.sort_values("voxels", ascending=False).head(MOST_ROWS)
    kinds = "objects" if result.instances is not None else "connected components"
    more = "" if len(measured) <= MOST_ROWS else f"; the {MOST_ROWS} largest are listed"
    tables = [_table(largest, LISTED)]
    if "prompt" in measured:
        columns = ("prompt", "objects", "median_volume", "total_volume")
        tables.insert(0, _table(measure_prompts(measured), columns))
    return f"{len(measured)} {kinds}, in {unit}{more}.", tables


def _table(frame: pd.DataFrame, columns: Sequence[str]) -> Table:
    """Return the columns that there are, with their names in words."""
    known = [name for name in columns if name in frame]
    rows: list[Row] = [tuple(map(_number, row)) for row in frame[known].to_numpy()]
    return [name.replace("_", " ") for name in known], rows


def _measured(result: RunResult) -> pd.DataFrame:
    texts = dict(zip(result.prompts.ids, result.prompts.texts, strict=True))
    volume = result.volume
    if volume.is_colour:  # their mean is measured
        mean = np.asarray(volume.data[...]).mean(axis=-1)
        volume = replace(grid_volume(volume), data=mean)
    labels = np.asarray(result.labels[...])
    if result.instances is None:
        components, prompts = components_of(labels, texts)
        return measure_objects(components, volume, prompts=prompts)
    instances = np.asarray(result.instances[...])
    owners = owners_of(instances, labels)
    prompts = {number: texts.get(owner, "") for number, owner in owners.items()}
    return measure_objects(instances, volume, prompts=prompts)


def _number(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
