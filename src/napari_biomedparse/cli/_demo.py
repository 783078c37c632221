"""The demo without a window: segment a phantom and score the result."""

from __future__ import annotations

import csv
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from skimage.io import imsave

from napari_biomedparse.data.results import Segmentation
from napari_biomedparse.errors import OutputError
from napari_biomedparse.evaluation.metrics import dice
from napari_biomedparse.io import save_labels
from napari_biomedparse.io.output import label_colour
from napari_biomedparse.labels.instances import label_components
from napari_biomedparse.pipeline.segment import segment

if TYPE_CHECKING:
    from napari_biomedparse.samples import Phantom

OPACITY = 0.5
ENLARGED = 3
"""The overlay picture's pixels per voxel."""


@dataclass(frozen=True)
class DemoRow:
    """What was found for one prompt, beside the truth.

    Parameters
    ----------
    label : int
        Label id of the prompt.
    prompt : str
        Its text.
    existence : float
        Highest probability over the slices that the target is there.
    voxels, objects : int
        How many were found; objects are connected in 3D.
    dice : float
        Overlap with the truth, 0 to 1; NaN if the target is neither there nor found.
    """

    label: int
    prompt: str
    existence: float
    voxels: int
    objects: int
    dice: float


def run_demo(
    phantom: Phantom, folder: Path, *, model: str = "demo", device: str = "auto"
) -> tuple[DemoRow, ...]:
    """Segment a phantom by its own prompts; write labels, a picture and a table.

    Parameters
    ----------
    phantom : Phantom
    folder : Path
        Made if need be. Gets ``labels.zarr`` (OME-Zarr), ``overlay.png`` (a slice, the
        labels on it, and the truth on it) and ``table.csv``; older ones are replaced.
    model, device : str
        As for `segment`.

    Returns
    -------
    tuple of DemoRow
        The table.

    Raises
    ------
    OutputError
        If the folder cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"The folder {folder} cannot be made ({error.strerror}); choose another."
        ) from error
    found = segment(phantom.volume, phantom.prompts, model, device=device)
    table = tuple(_rows(phantom, found))
    save_labels(
        folder / "labels.zarr",
        found.labels,
        volume=phantom.volume,
        prompts=phantom.prompts,
        overwrite=True,
    )
    imsave(folder / "overlay.png", _picture(phantom, found.labels))
    with (folder / "table.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(item.name for item in fields(DemoRow))
        writer.writerows(map(astuple, table))
    return table


def _rows(phantom: Phantom, found: Segmentation) -> list[DemoRow]:
    truth = phantom.labels
    rows = []
    for prompt, scores in zip(found.prompts.prompts, found.existence, strict=True):
        mask = found.labels == prompt.id
        rows.append(
            DemoRow(
                label=prompt.id,
                prompt=prompt.text,
                existence=float(np.nanmax(scores)),
                voxels=int(mask.sum()),
                objects=int(label_components(mask.astype(np.uint8)).max()),
                dice=dice(truth == prompt.id, mask),
            )
        )
    return rows


def _picture(phantom: Phantom, labels: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Return grey levels, labels and truth of the fullest slice, RGB [Y, X, 3]."""
    at = int(np.argmax((phantom.labels > 0).sum(axis=(1, 2))))
    grey = np.repeat(phantom.image[at][..., None], 3, axis=-1)
    panels = [grey, _overlaid(grey, labels[at]), _overlaid(grey, phantom.labels[at])]
    row = np.concatenate(panels, axis=1)
    enlarged: npt.NDArray[np.uint8] = row.repeat(ENLARGED, 0).repeat(ENLARGED, 1)
    return enlarged


def _overlaid(
    grey: npt.NDArray[np.uint8], labels: npt.NDArray[Any]
) -> npt.NDArray[np.uint8]:
    picture = grey.astype(np.float64)
    for label in np.unique(labels[labels > 0]):
        where = labels == label
        colour = np.array(label_colour(int(label))[:3])
        picture[where] = (1 - OPACITY) * picture[where] + OPACITY * colour
    return picture.round().astype(np.uint8)
