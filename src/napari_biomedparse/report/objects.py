"""The tables of objects of the page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from napari_biomedparse.labels.measure import components_of, measure_objects
from napari_biomedparse.report.html import table
from napari_biomedparse.runs.blocks import grid_volume

if TYPE_CHECKING:
    import pandas as pd

    from napari_biomedparse.report.result import RunResult

MOST_ROWS = 200
MOST_VOXELS = 2**28
"""Objects of larger volumes are not measured for the page."""


def object_tables(result: RunResult) -> Iterator[str]:
    """Measure objects, and list how many there are and the largest, as HTML."""
    if int(np.prod(result.labels.shape)) > MOST_VOXELS:
        yield (
            "<p>The volume is too large to measure its objects for this page; see "
            "<code>napari-biomedparse measure</code>.</p>"
        )
        return
    measured = _measured(result)
    if measured.empty:
        yield "<p>None.</p>"
        return
    unit = measured.attrs["unit"]
    largest = measured.sort_values("voxels", ascending=False).head(MOST_ROWS)
    kinds = "objects" if result.objects is not None else "connected pieces"
    more = "" if len(measured) <= MOST_ROWS else f"; the {MOST_ROWS} largest are listed"
    yield f"<p>{len(measured)} {kinds}, in {escape(unit)}{more}.</p>"
    if "prompt" in measured:
        sums = measured.groupby("prompt", sort=False)["volume"]
        rows = [
            (text, len(part), _number(part.median()), _number(part.sum()))
            for text, part in sums
        ]
        yield table(("prompt", "objects", "median volume", "total volume"), rows)
    names = [name for name in largest.columns if not name.startswith("bbox_")]
    yield table(
        [name.replace("_", " ") for name in names],
        [[_number(value) for value in row] for row in largest[names].to_numpy()],
    )


def _measured(result: RunResult) -> pd.DataFrame:
    texts = dict(zip(result.prompts.ids, result.prompts.texts, strict=True))
    volume = result.volume
    if volume.is_colour:  # their mean is measured
        mean = np.asarray(volume.data[...]).mean(axis=-1)
        volume = replace(grid_volume(volume), data=mean)
    labels = np.asarray(result.labels[...])
    if result.objects is None:
        objects, prompts = components_of(labels, texts)
        return measure_objects(objects, volume, prompts=prompts)
    objects = np.asarray(result.objects[...])
    numbers, first = np.unique(objects, return_index=True)
    owners = labels.ravel()[first].tolist()
    prompts = {
        n: texts.get(owner, "")
        for n, owner in zip(numbers.tolist(), owners, strict=True)
    }
    return measure_objects(objects, volume, prompts=prompts)


def _number(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
