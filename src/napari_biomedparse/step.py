"""One step of a run: a batch of slices goes through the network and becomes labels.

All that reads slices and runs the network on them comes through here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from napari_biomedparse.overlaps import resolve_in_order, resolve_separately
from napari_biomedparse.postprocess import (
    BACKGROUND_PROBABILITY,
    probability,
    resolve,
)
from napari_biomedparse.slices import SegmentedSlices
from napari_biomedparse.tiling import predict_tiles

if TYPE_CHECKING:
    from napari_biomedparse.engine import SlicePrediction
    from napari_biomedparse.plan import RunPlan

Predict = Callable[[Tensor], "SlicePrediction"]
"""Takes squares [n, 3, S, S]; an `Engine.predict` with its prompts."""


def predict_slices(
    plan: RunPlan, predict: Predict, slices: Tensor, *, batch_size: int | None = None
) -> SlicePrediction:
    """Predict slices, whole or tile by tile.

    Parameters
    ----------
    plan : RunPlan
    predict : callable
    slices : Tensor [B, 3, H, W]
    batch_size : int, optional
        Tiles at a time; by default the plan's.

    Returns
    -------
    SlicePrediction
    """
    if plan.tiles.is_single:
        return predict(slices)
    return predict_tiles(
        predict,
        slices,
        plan.tiles,
        batch_size=batch_size or plan.options.batch_size,
        existence_threshold=plan.options.existence_threshold,
    )


def finish_slices(
    plan: RunPlan, start: int, prediction: SlicePrediction
) -> SegmentedSlices:
    """Turn what the network says of slices into labels in the volume's own grid.

    Parameters
    ----------
    plan : RunPlan
    start : int
        Index of the first of the slices.
    prediction : SlicePrediction

    Returns
    -------
    SegmentedSlices
    """
    existence, options = prediction.existence, plan.options

    def native(logits: Tensor, threshold: float) -> npt.NDArray[Any]:
        labels = _resolve(plan, logits, existence, threshold)
        planes = plan.geometry.restore(
            labels.reshape(-1, *labels.shape[-2:]), plan.label_dtype
        )
        planes = planes.reshape(*labels.shape[:-2], *planes.shape[-2:])
        # Slices come first, but for the prompts where these have labels of their own.
        return np.moveaxis(planes, 0, plan.geometry.axis - 3)

    return SegmentedSlices(
        start=start,
        stop=start + len(existence),
        axis=plan.geometry.axis,
        labels=native(prediction.mask_logits, BACKGROUND_PROBABILITY),
        existence=probability(existence).T.cpu().numpy(),
        edges=native(prediction.edge_logits, options.edge_threshold)
        if plan.instances
        else None,
    )


def _resolve(
    plan: RunPlan, logits: Tensor, existence: Tensor, threshold: float
) -> Tensor:
    """Return labels [B, H, W] or, if separate, [B, P, H, W]."""
    options, ids, size = plan.options, plan.prompts.ids, plan.geometry.working_shape
    common = {
        "existence_threshold": options.existence_threshold,
        "mask_threshold": threshold,
    }
    if options.overlaps == "order":
        ranked = plan.prompts.ranked
        return resolve_in_order(logits, existence, ids, size, ranked=ranked, **common)
    if options.overlaps == "separate":
        return resolve_separately(logits, existence, ids, size, **common)
    return resolve(
        logits,
        existence,
        ids,
        size,
        overlap_threshold=options.overlap_threshold,
        **common,
    ).labels
