"""The loop over a plan's slices: read, predict, label.

Python, the command line, napari's runs and run folders use `run_plan`. Previews use
its first half, `predict_plan`, and stored scores its second, `label_slices`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import (
    Callable,
    Collection,
    Generator,
    Iterable,
    Iterator,
    Sequence,
)
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from queue import SimpleQueue
from threading import Event, Semaphore, Thread
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from napari_biomedparse.data.results import SegmentedSlices
from napari_biomedparse.engine.devices import SingleThreads, single_threads
from napari_biomedparse.labels.likeness import mask_statistics, p_value
from napari_biomedparse.labels.resolve import (
    BACKGROUND_PROBABILITY,
    likely,
    probability,
    resolve,
    resolve_confident,
    resolve_in_order,
    resolve_separately,
    upsample,
    upsample_linearly,
)
from napari_biomedparse.networks.blocks.filters import LARGEST
from napari_biomedparse.pipeline.plan import spans
from napari_biomedparse.pipeline.tiles import predict_tiles
from napari_biomedparse.slicing.read import SliceBatch, keep_slabs, slice_batches

if TYPE_CHECKING:
    from napari_biomedparse.data.results import Span
    from napari_biomedparse.engine.engine import (
        Engine,
        KeptPrediction,
        SlicePrediction,
        Tokens,
    )
    from napari_biomedparse.labels.resolve import Resize
    from napari_biomedparse.pipeline.plan import RunPlan

T = TypeVar("T")
Predict = Callable[[Tensor], "SlicePrediction"]
"""Takes squares [n, 3, S, S]; an `Engine.predict` with its prompts."""
Front = Callable[[], int | None]
"""Called before each batch: which slice is wanted next."""
READ_AHEAD = 2
"""Batches that are ready for the network at most."""
_END = object()
_PATIENCE_SECONDS = 1.0


class Predicted(NamedTuple):
    """Predictions for consecutive slices, the first of which is `start`."""

    start: int
    whole: SlicePrediction
    """Of whole slices, blended from their tiles."""
    parts: tuple[KeptPrediction, ...] = ()
    """As the network gave them, tile by tile; empty where not kept."""


def run_plan(
    plan: RunPlan,
    engine: Engine,
    *,
    front: Front | None = None,
    only: Collection[int] | None = None,
    keep: Callable[[int, Sequence[KeptPrediction]], None] | None = None,
    align: int | None = None,
) -> Iterator[SegmentedSlices]:
    """Segment a plan's slices, batch by batch; closing the generator stops the run.

    Parameters
    ----------
    front : callable, optional
        The slices nearest to the one it returns come first, or the first ones left
        where it returns None; a CPU then takes slices one by one. Without it, they
        come in ascending order, in batches of the plan's size.
    only : collection of int, optional
        The slices to segment; by default all of the plan.
    keep : callable, optional
        Called with the first of some slices and the predictions of all their tiles,
        such as `ScoreStore.add`.
    align : int, optional
        Batches also end at multiples of this, so that a run that was interrupted
        there resumes with the same batches. Not with `front`.

    Raises
    ------
    FormatError
        If a part of the volume cannot be read.
    DeviceError
        If the device's memory does not suffice.
    """
    together = 1 if plan.options.prompts_apart else len(plan.prompts)
    plan = plan.batched(engine.suited_batch(together))
    predictions = predict_plan(
        plan, engine, front=front, only=only, align=align, keep_parts=keep is not None
    )

    def kept(predicted: Predicted) -> Predicted:
        if keep is not None:
            keep(predicted.start, predicted.parts)
        return predicted

    # While a batch's labels are on their way from a GPU, it computes the next one.
    ahead = 1 if front is None and engine.device.type == "cuda" else 0
    with closing(predictions):
        yield from label_slices(plan, map(kept, predictions), ahead=ahead)


def predict_plan(
    plan: RunPlan,
    engine: Engine,
    *,
    front: Front | None = None,
    only: Collection[int] | None = None,
    align: int | None = None,
    keep_parts: bool = False,
    on_prompt: Callable[[int], object] | None = None,
) -> Generator[Predicted]:
    """Run the network on slices, in the order and batches of `run_plan`.

    The plan has a batch size, see `RunPlan.batched`. With `keep_parts` predictions
    include those of single tiles, by text and with features. For `on_prompt` see
    `Engine.predict`.
    """
    tokens, fine = plan_tokens(plan, engine), Fine(plan, engine.model.corrects)
    alone = plan.tiles.is_single and plan.stop - plan.start == 1
    how: dict[str, Any] = {
        "remember": alone or front is not None,
        "on_prompt": on_prompt,
    }
    in_two_steps = keep_parts or engine.model.corrects

    def compute(read: Callable[[], SliceBatch]) -> Predicted:
        batch = read()
        near = fine.read(batch)
        parts: list[KeptPrediction] = []

        def one(squares: Tensor) -> SlicePrediction:
            if not in_two_steps:
                return engine.predict(squares, tokens, **how)
            found = engine.predict_by_text(squares, tokens, features=True, **how)
            if keep_parts:
                parts.append(found)
            return engine.correct(squares if near is None else near, tokens, found)

        whole = predict_slices(plan, one, batch.slices)
        whole = with_p_values(plan, batch.levels, whole)
        if plan.entries is not None:
            parts = [
                part._replace(existence=whole.existence.expand_as(part.existence))
                for part in parts
            ]
        return Predicted(batch.start, whole, tuple(parts))

    pin = engine.device.type == "cuda"
    if front is None:
        for batch in read_ahead(plan_batches(plan, only, align, pin=pin)):
            yield compute(lambda batch=batch: batch)  # type: ignore[misc]
        return
    size = _slices_at_once(plan, engine)
    wanted = range(plan.start, plan.stop) if only is None else only
    left = [
        span
        for first in range(plan.start, plan.stop, size)
        for span in spans(set(range(first, first + size)).intersection(wanted))
    ]
    volume = plan.volume
    if len(left) > 1:
        volume = keep_slabs(volume, plan.geometry.axis, size)

    def read(span: Span) -> SliceBatch:
        (batch,) = slice_batches(
            volume, plan.geometry, plan.intensity, *span, size, pin=pin
        )
        return batch

    at_once = engine.side_by_side if plan.tiles.is_single else 1
    at_once = max(1, min(at_once, len(left)))
    with (
        SingleThreads(1, "reader") as reader,
        thread_pool("network", at_once) as network,
    ):
        readings = _nearest_first(left, front, lambda span: reader.submit(read, span))
        if at_once == 1:
            yield from map(compute, (reading.result for reading in readings))
        else:
            work = (network.submit(compute, reading.result) for reading in readings)
            yield from one_behind((each.result for each in work), at_once - 1)


class Fine:
    """Reads whole slices in a finer grid than the network's, if it is `wanted`.

    Corrections work in it. Where the network sees no less, there is none.
    """

    def __init__(self, plan: RunPlan, wanted: bool) -> None:
        self._plan, self.geometry = plan, plan.geometry
        size = min(max(plan.geometry.padded_shape), LARGEST) // 4 * 4
        whole = plan.tiles.is_single and not plan.geometry.alone
        self._is_finer = wanted and whole and size > plan.tiles.size
        if self._is_finer:
            self.geometry = replace(plan.geometry, working_shape=(size, size))
            self._volume = keep_slabs(plan.volume, plan.geometry.axis, 1)

    def read(self, batch: SliceBatch) -> Tensor | None:
        """Read the slices of a batch, [B, 3, R, R]."""
        if not self._is_finer:
            return None
        span = batch.start, batch.start + len(batch.slices)
        at = self._volume, self.geometry, self._plan.intensity
        (fine,) = slice_batches(*at, *span, len(batch.slices))
        return fine.slices


def plan_tokens(plan: RunPlan, engine: Engine) -> Tokens:
    """Encode a plan's prompts, together or each by itself."""
    texts = plan.prompts.texts
    if plan.options.prompts_apart:
        return [engine.encode_prompts([text]) for text in texts]
    return engine.encode_prompts(texts)


def predict_slices(plan: RunPlan, predict: Predict, slices: Tensor) -> SlicePrediction:
    """Predict slices [B, 3, H, W], whole or tile by tile."""
    if plan.tiles.is_single:
        return predict(slices)
    return predict_tiles(
        predict,
        slices,
        plan.tiles,
        batch_size=plan.batch_size,
        existence_threshold=plan.threshold,
    )


def with_p_values(
    plan: RunPlan, planes: Iterable[npt.NDArray[Any]], found: SlicePrediction
) -> SlicePrediction:
    """Have p take the place of existence, for networks whose masks are compared.

    `planes` are what the network saw, in their own grid.
    """
    if plan.entries is None:
        return found
    return found._replace(existence=_p_values(plan, found.mask_logits, planes))


def _p_values(
    plan: RunPlan, logits: Tensor, planes: Iterable[npt.NDArray[Any]]
) -> Tensor:
    """Return p of mask logits [B, P, h, w], as logits [B, P]; NaN without an entry."""
    found = np.full(logits.shape[:2], np.nan)
    entries = [(at, entry) for at, entry in enumerate(plan.entries or ()) if entry]
    for row, masks, plane in zip(found, logits, planes, strict=True):
        levels = np.rint(plane).clip(0, 255).astype(np.uint8)
        colours = levels if levels.ndim == 3 else np.stack([levels] * 3, axis=-1)
        image = torch.from_numpy(colours).to(logits.device)
        for at, entry in entries:
            mask = resize_of(plan)(masks[None, [at]], plan.geometry.label_shape)
            mask = plan.geometry.turn.back(mask)[0, 0].sigmoid()
            row[at] = p_value(mask_statistics(image, mask), entry.pairs)
    return torch.from_numpy(found).logit().float().to(logits.device)


def label_slices(
    plan: RunPlan, predictions: Iterable[Predicted], *, ahead: int = 0
) -> Iterator[SegmentedSlices]:
    """Turn predictions into labels in the volume's own grid, in their order.

    `ahead` predictions are taken before the labels of one are waited for.
    """

    def begin(predicted: Predicted) -> Callable[[], SegmentedSlices]:
        return begin_slices(plan, predicted.start, predicted.whole)

    # map keeps no reference to the logits of a batch while the next one is computed.
    yield from one_behind(map(begin, predictions), ahead)


def begin_slices(
    plan: RunPlan, start: int, prediction: SlicePrediction
) -> Callable[[], SegmentedSlices]:
    """Have the device make labels; the function returned waits for them."""
    existence, dtype = prediction.existence, plan.label_dtype
    size = prediction.mask_logits.shape[-1]
    if plan.tiles.is_single and size > max(plan.geometry.working_shape):
        geometry = replace(plan.geometry, working_shape=(size, size))
        plan = replace(plan, geometry=geometry)  # of corrected masks, which are finer

    def begin(logits: Tensor, threshold: float) -> Callable[[], npt.NDArray[Any]]:
        labels = _resolve(plan, logits, existence, threshold)
        planes = plan.geometry.pick(labels.reshape(-1, *labels.shape[-2:]), dtype)
        wait = begin_copy(planes.reshape(*labels.shape[:-2], *planes.shape[-2:]))
        # Slices come first, but for the prompts where these have labels of their own.
        axis = plan.geometry.axis - 3
        return lambda: np.moveaxis(wait().astype(dtype, copy=False), 0, axis)

    labels = begin(prediction.mask_logits, BACKGROUND_PROBABILITY)
    scores = begin_copy(probability(existence).T)
    unsure = begin_copy(doubt(prediction.mask_logits, existence, plan.threshold).T)
    edges = None
    if plan.instances:
        edges = begin(prediction.edge_logits, plan.edge_threshold)
    return lambda: SegmentedSlices(
        start=start,
        stop=start + len(existence),
        axis=plan.geometry.axis,
        labels=labels(),
        existence=scores(),
        edges=edges and edges(),
        doubt=unsure(),
    )


def doubt(logits: Tensor, existence: Tensor, threshold: float) -> Tensor:
    """Estimate the share of wrong pixels in masks [B, P, h, w], as [B, P].

    A pixel is wrong as often as the less likely of its answers is right; a mask that is
    shown is wrong as a whole if its target is not there, and one that is not shown if
    it is. Targets of unknown existence (NaN) are there.
    """
    mask, there = logits.sigmoid(), existence.sigmoid().nan_to_num(1.0)
    shown = likely(existence, threshold)
    unsure = torch.minimum(mask, 1 - mask).mean((-2, -1))
    wrong = there * unsure + (1 - there) * (mask > 0.5).float().mean((-2, -1))
    return torch.where(shown, wrong, there * mask.mean((-2, -1)))


def resize_of(plan: RunPlan) -> Resize:
    """Return how mask logits get to the grid of the labels."""
    return upsample_linearly if plan.geometry.alone else upsample


def begin_copy(tensor: Tensor) -> Callable[[], npt.NDArray[Any]]:
    """Begin to copy a tensor to the host; the function returned waits for the copy."""
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

    Advancing `begun` begins an item; calling the function it yields finishes the item.
    """
    waiting: deque[Callable[[], T]] = deque()
    for finish in begun:
        waiting.append(finish)
        if len(waiting) > count:
            yield waiting.popleft()()
    while waiting:
        yield waiting.popleft()()


def read_ahead(items: Iterable[T], depth: int = READ_AHEAD) -> Iterator[T]:
    """Iterate over `items` in a thread, at most `depth` of them ahead.

    The order is kept; an error is raised after the items that came before it. Closing
    the generator stops the thread and waits for it, but not for a disk that does not
    respond.
    """
    ready: SimpleQueue[Future[Any]] = SimpleQueue()
    room, stopped = Semaphore(depth), Event()

    def work(begin: Callable[[], object]) -> None:
        begin()
        left = iter(items)
        while room.acquire() and not stopped.is_set():
            made: Future[Any] = Future()
            try:
                made.set_result(next(left, _END))
            except BaseException as error:  # crosses the thread, raised by the reader
                made.set_exception(error)
            ready.put(made)

    name = "napari-biomedparse reader"
    with single_threads() as begin:
        thread = Thread(target=work, args=(begin,), name=name, daemon=True)
        thread.start()
    try:
        while (item := ready.get().result()) is not _END:
            room.release()
            yield item
    finally:
        stopped.set()
        room.release()
        thread.join(_PATIENCE_SECONDS)


def plan_batches(
    plan: RunPlan,
    only: Collection[int] | None = None,
    align: int | None = None,
    *,
    pin: bool = False,
) -> Iterator[SliceBatch]:
    """Yield batches in ascending order; each slice is read and prepared once."""
    cut, size = (plan.volume, plan.geometry, plan.intensity), plan.slices_at_once
    for span in spans(range(plan.start, plan.stop) if only is None else only):
        yield from slice_batches(
            *cut, *span, size, align=align, pin=pin, seen=plan.seen
        )


def thread_pool(name: str, count: int) -> ThreadPoolExecutor:
    """Make threads, which start when there is work for them."""
    return ThreadPoolExecutor(count, thread_name_prefix=f"napari-biomedparse {name}")


def _nearest_first(
    left: list[Span], front: Front, read: Callable[[Span], Future[SliceBatch]]
) -> Iterator[Future[SliceBatch]]:
    """Take the nearest span each time, and read one ahead."""
    ahead: dict[Span, Future[SliceBatch]] = {}
    while left:
        span = _nearest(left, front())
        left.remove(span)
        reading = ahead.pop(span, None) or read(span)
        if left and (likely := _nearest(left, front())) not in ahead:
            ahead = {likely: read(likely)}
        yield reading


def _slices_at_once(plan: RunPlan, engine: Engine) -> int:
    """Return the batch size: a CPU gains nothing by more than one."""
    return 1 if engine.device.type == "cpu" else plan.slices_at_once


def _nearest(left: Sequence[Span], at: int | None) -> Span:
    """Choose the span that holds a slice or is next to it, of two the first."""
    if at is None:
        return min(left)
    return min(left, key=lambda span: (max(span[0] - at, at - span[1] + 1, 0), span))


def _resolve(
    plan: RunPlan, logits: Tensor, existence: Tensor, threshold: float
) -> Tensor:
    """Return labels [B, H, W] or, if separate, [B, P, H, W]."""
    options, ids, size = plan.options, plan.prompts.ids, plan.geometry.label_shape
    single = plan.geometry.alone or plan.geometry.planar
    common: dict[str, Any] = {
        "existence_threshold": plan.threshold,
        "mask_threshold": threshold,
        "resize": resize_of(plan),
    }
    if options.overlaps == "order":
        ranked = plan.prompts.ranked
        return resolve_in_order(logits, existence, ids, size, ranked=ranked, **common)
    if options.overlaps == "separate":
        return resolve_separately(logits, existence, ids, size, **common)
    if options.overlaps == "confident":
        return resolve_confident(logits, existence, ids, size, **common)
    return resolve(
        logits,
        existence,
        ids,
        size,
        # Masks of v1 and of images may overlap in the original, whatever their scores.
        overlap_threshold=1.0 if single else options.overlap_threshold,
        **common,
    ).labels
