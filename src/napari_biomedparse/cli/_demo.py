"""The demo without a window: segment a phantom and score the result."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image, ImageDraw
from skimage.io import imsave

from napari_biomedparse.data.results import Segmentation
from napari_biomedparse.data.text import csv_text
from napari_biomedparse.evaluation.metrics import dice
from napari_biomedparse.io import save_labels
from napari_biomedparse.io.durable import (
    check_folder,
    check_place,
    write_durably,
    written,
)
from napari_biomedparse.labels.instances import label_components
from napari_biomedparse.pipeline.segment import segment
from napari_biomedparse.report.drawing import blend

if TYPE_CHECKING:
    from napari_biomedparse.samples import Phantom

OPACITY = 0.5
ENLARGED = 3
"""Pixels per voxel of the overlay picture."""
CAPTION = 24
"""Height of the captions above it, in pixels."""


def run_demo(
    phantom: Phantom,
    folder: Path,
    *,
    model: str = "demo",
    device: str = "auto",
    overwrite: bool = False,
) -> pd.DataFrame:
    """Segment a phantom by its demo prompts; write labels, a picture and a table.

    The folder is made if need be. It gets ``labels.zarr`` (OME-Zarr), ``overlay.png``
    (a slice, the labels on it, and the truth on it) and ``table.csv``. An `OutputError`
    is raised if one exists and `overwrite` is False, or cannot be made. In the table,
    `existence` is the highest probability over the slices, `objects` the number of
    components in 3D, `dice` NaN if the target is neither there nor found.
    """
    check_folder(folder)
    with written(folder):
        folder.mkdir(parents=True, exist_ok=True)
    labels, picture, csv = (
        folder / name for name in ("labels.zarr", "overlay.png", "table.csv")
    )
    for path in (labels, picture, csv):
        check_place(path, overwrite=overwrite)
    prompts = phantom.demo_prompts
    found = segment(phantom.volume, prompts, model, device=device)
    table = pd.DataFrame(_rows(phantom, found))
    save_labels(
        labels,
        found.labels,
        volume=phantom.volume,
        prompts=prompts,
        overwrite=overwrite,
    )
    with written(folder):
        imsave(picture, _picture(phantom, found.labels))
        rows = table.itertuples(index=False)
        write_durably(csv, csv_text(table.columns, rows))
    return table


def _rows(phantom: Phantom, found: Segmentation) -> Iterator[dict[str, Any]]:
    for prompt, scores in zip(found.prompts.prompts, found.existence, strict=True):
        mask = found.labels == prompt.id
        yield {
            "label": prompt.id,
            "prompt": prompt.text,
            "existence": np.nanmax(scores),
            "voxels": mask.sum(),
            "objects": label_components(mask.astype(np.uint8)).max(),
            "dice": dice(phantom.labels == prompt.id, mask),
        }


def _picture(phantom: Phantom, labels: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Return grey levels, labels and truth of the fullest slice, RGB [Y, X, 3]."""
    shown_at = int(np.argmax((phantom.labels > 0).sum(axis=(1, 2))))
    nothing = np.zeros_like(labels[shown_at])
    panels = [
        blend(phantom.image[shown_at], shown, OPACITY)
        for shown in (nothing, labels[shown_at], phantom.labels[shown_at])
    ]
    row = np.concatenate(panels, axis=1).repeat(ENLARGED, 0).repeat(ENLARGED, 1)
    strip = Image.new("RGB", (row.shape[1], CAPTION))
    for at, text in enumerate(("image", "found by the model", "truth")):
        place = at * row.shape[1] / len(panels) + 4, 4
        ImageDraw.Draw(strip).text(place, f"{text}, slice {shown_at}", font_size=14)
    return np.concatenate([np.asarray(strip), row])
