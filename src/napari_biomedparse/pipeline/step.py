"""One step of a run: a batch of slices goes through the network and becomes labels."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from napari_biomedparse.data.results import SegmentedSlices
from napari_biomedparse.labels.resolve import (
    BACKGROUND_PROBABILITY,
    probability,
    resolve,
    resolve_in_order,
    resolve_separately,
)
from napari_biomedparse.pipeline.tiles import predict_tiles

if TYPE_CHECKING:
    from napari_biomedparse.engine.engine import SlicePrediction
    from napari_biomedparse.pipeline.plan import RunPlan
    from napari_biomedparse.slicing.batches import SliceBatch

T = TypeVar("T")
Predict = Callable[[Tensor], "SlicePrediction"]
"""Takes squares [n, 3, S, S]; an `Engine.predict` with its prompts."""


class Predicted(NamedTuple):
    """What the network predicted for consecutive slices.

    Attributes
    ----------
    start : int
        Index of the first of the slices.
    whole : SlicePrediction
        Of whole slices, blended from their tiles.
    parts : tuple of SlicePrediction
        As the network gave them, tile by tile; empty where not kept.
    """

    start: int
    whole: SlicePrediction
    parts: tuple[SlicePrediction, ...] = ()


def predict_batch(
    plan: RunPlan, predict: Predict, batch: SliceBatch, *, keep_parts: bool = False
) -> Predicted:
    """Predict a batch of slices, whole or tile by tile."""
    parts: list[SlicePrediction] = []

    def predict_kept(squares: Tensor) -> SlicePrediction:
        parts.append(predict(squares))
        return parts[-1]

    whole = predict_slices(plan, predict_kept if keep_parts else predict, batch.slices)
    return Predicted(batch.start, whole, tuple(parts))


def predict_slices(plan: RunPlan, predict: Predict, slices: Tensor) -> SlicePrediction:
    """Predict slices [B, 3, H, W], whole or tile by tile."""
    if plan.tiles.is_single:
        return predict(slices)
    return predict_tiles(
        predict,
        slices,
        plan.tiles,
        batch_size=plan.batch_size,
        existence_threshold=plan.options.existence_threshold,
    )


def label_slices(
    plan: RunPlan, predictions: Iterable[Predicted], *, ahead: int = 0
) -> Iterator[SegmentedSlices]:
    """Turn predictions into labels in the volume's own grid.

    Parameters
    ----------
    plan : RunPlan
    predictions : iterable of Predicted
    ahead : int
        Predictions that are taken before the labels of one are waited for.

    Yields
    ------
    SegmentedSlices
        In the order of the predictions.
    """
    begun = (begin_slices(plan, each.start, each.whole) for each in predictions)
    yield from one_behind(begun, ahead)


def begin_slices(
    plan: RunPlan, start: int, prediction: SlicePrediction
) -> Callable[[], SegmentedSlices]:
    """Have the device make labels; the function returned waits for them."""
    existence, dtype = prediction.existence, plan.label_dtype

    def begin(logits: Tensor, threshold: float) -> Callable[[], npt.NDArray[Any]]:
        labels = _resolve(plan, logits, existence, threshold)
        planes = plan.geometry.pick(labels.reshape(-1, *labels.shape[-2:]), dtype)
        wait = begin_copy(planes.reshape(*labels.shape[:-2], *planes.shape[-2:]))
        # Slices come first, but for the prompts where these have labels of their own.
        axis = plan.geometry.axis - 3
        return lambda: np.moveaxis(wait().astype(dtype, copy=False), 0, axis)

    labels = begin(prediction.mask_logits, BACKGROUND_PROBABILITY)
    scores = begin_copy(probability(existence).T)
    edges = None
    if plan.instances:
        edges = begin(prediction.edge_logits, plan.options.edge_threshold)
    return lambda: SegmentedSlices(
        start=start,
        stop=start + len(existence),
        axis=plan.geometry.axis,
        labels=labels(),
        existence=scores(),
        edges=edges and edges(),
    )


def begin_copy(tensor: Tensor) -> Callable[[], npt.NDArray[Any]]:
    """Begin to copy a tensor to the host; the function returned waits for the copy.

    A GPU computes on meanwhile.
    """
    if tensor.device.type != "cuda":
        here = tensor.cpu()
        return here.numpy
    here = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    here.copy_(tensor, non_blocking=True)
    copied = torch.cuda.current_stream(tensor.device).record_event()

    def wait() -> npt.NDArray[Any]:
        copied.synchronize()
        return here.numpy()

    return wait


def one_behind(begun: Iterable[Callable[[], T]], count: int = 1) -> Iterator[T]:
    """Finish each item only when `count` more have been begun.

    Advancing `begun` begins an item; calling what it yields finishes the item.
    """
    waiting: deque[Callable[[], T]] = deque()
    for finish in begun:
        waiting.append(finish)
        if len(waiting) > count:
            yield waiting.popleft()()
    while waiting:
        yield waiting.popleft()()


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
