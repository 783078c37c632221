"""The loop over a plan's slices: read, predict, label.

`run_plan` is used by Python, the command line, napari's runs, previews and run
folders. Its two halves are used alone, too: previews take `predict_plan`, and scores
that were kept earlier go straight to `label_slices` (`pipeline.step`).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import partial
from itertools import chain
from queue import Full, Queue
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, TypeVar

from napari_biomedparse.data.results import spans
from napari_biomedparse.pipeline.step import (
    Predicted,
    label_slices,
    one_behind,
    predict_batch,
)
from napari_biomedparse.slicing.batches import SliceBatch, slice_batches
from napari_biomedparse.slicing.read import keep_slabs

if TYPE_CHECKING:
    from napari_biomedparse.data.results import SegmentedSlices, Span
    from napari_biomedparse.engine.engine import Engine
    from napari_biomedparse.pipeline.plan import RunPlan
    from napari_biomedparse.pipeline.scores import ScoreStore

T = TypeVar("T")
Front = Callable[[], int | None]
"""Called before each batch, from this thread: which slice is wanted next."""
READ_AHEAD = 2
"""Batches that wait, ready, for the network."""
_POLL_SECONDS = 0.1
_PATIENCE_SECONDS = 1.0


def run_plan(
    plan: RunPlan,
    engine: Engine,
    *,
    front: Front | None = None,
    done: Sequence[Span] = (),
    store: ScoreStore | None = None,
    align: int | None = None,
) -> Iterator[SegmentedSlices]:
    """Segment a plan's slices; closing the generator stops the run.

    Parameters
    ----------
    plan : RunPlan
    engine : Engine
    front : callable, optional
        Have the slices nearest to the one it returns come first; None from it means
        in ascending order. Without it, slices come in ascending order in batches of
        the plan's size; with it, a CPU takes them one by one.
    done : sequence of pair of int
        Ranges of slices that are left out.
    store : ScoreStore, optional
        Keeps the predictions, for other thresholds.
    align : int, optional
        Without `front`: batches also end at multiples of this many slices, so that a
        run that was interrupted there resumes with the same batches.

    Yields
    ------
    SegmentedSlices
        A batch at a time.

    Raises
    ------
    FormatError
        If a part of the volume cannot be read.
    DeviceError
        If the device's memory does not suffice.
    """
    plan = plan.batched(engine.suited_batch(len(plan.prompts)))
    predictions = predict_plan(
        plan, engine, front=front, done=done, align=align, keep_parts=store is not None
    )

    def kept() -> Iterator[Predicted]:
        for predicted in predictions:
            if store is not None:
                store.add(predicted.start, predicted.parts)
            yield predicted

    # While a batch's labels are on their way from a GPU, it computes the next one.
    ahead = 1 if front is None and engine.device.type == "cuda" else 0
    with closing(predictions):
        yield from label_slices(plan, kept(), ahead=ahead)


def predict_plan(
    plan: RunPlan,
    engine: Engine,
    *,
    front: Front | None = None,
    done: Sequence[Span] = (),
    align: int | None = None,
    keep_parts: bool = False,
) -> Generator[Predicted]:
    """Run the network on a plan's slices, in the order and batches of `run_plan`.

    Parameters
    ----------
    plan : RunPlan
        With a batch size, see `RunPlan.batched`.
    engine, front, done, align
        As for `run_plan`.
    keep_parts : bool
        Whether predictions hold those of single tiles, too.

    Yields
    ------
    Predicted
    """
    tokens = engine.encode_prompts(plan.prompts.texts)
    alone = plan.tiles.is_single and plan.stop - plan.start == 1
    predict = partial(
        engine.predict, tokens=tokens, remember=alone or front is not None
    )

    def compute(read: Callable[[], SliceBatch]) -> Predicted:
        return predict_batch(plan, predict, read(), keep_parts=keep_parts)

    pin = engine.device.type == "cuda"
    if front is None:
        for batch in read_ahead(_batches(plan, _left(plan, done), align, pin)):
            yield compute(lambda batch=batch: batch)  # type: ignore[misc]
        return
    size = _slices_at_once(plan, engine)
    left = list(_spans(plan.start, plan.stop, size, done))
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
    with _pool("reader", 1) as reader, _pool("network", at_once) as network:
        readings = _nearest_first(left, front, lambda span: reader.submit(read, span))
        if at_once == 1:
            yield from map(compute, (reading.result for reading in readings))
        else:
            work = (network.submit(compute, reading.result) for reading in readings)
            yield from one_behind((each.result for each in work), at_once - 1)


def read_ahead(items: Iterable[T], depth: int = READ_AHEAD) -> Iterator[T]:
    """Iterate over `items` in a thread, at most `depth` of them ahead.

    The order is kept. An error among the items is raised here, after the items that
    came before it. Closing the generator stops the thread and waits for it, but not
    for a disk that does not answer.
    """
    ready: Queue[tuple[str, Any]] = Queue(maxsize=depth)
    stopped = Event()

    def hand_over(kind: str, value: Any) -> bool:
        while not stopped.is_set():
            try:
                ready.put((kind, value), timeout=_POLL_SECONDS)
                return True
            except Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items:
                if not hand_over("item", item):
                    return
            hand_over("end", None)
        except BaseException as error:  # crosses the thread, raised by the reader
            hand_over("error", error)

    thread = Thread(target=work, name="napari-biomedparse reader", daemon=True)
    thread.start()
    try:
        while True:
            kind, value = ready.get()
            if kind == "end":
                return
            if kind == "error":
                raise value
            yield value
    finally:
        stopped.set()
        thread.join(_PATIENCE_SECONDS)


def _left(plan: RunPlan, done: Sequence[Span]) -> list[Span]:
    finished = {index for span in done for index in range(*span)}
    return spans(i for i in range(plan.start, plan.stop) if i not in finished)


def _batches(
    plan: RunPlan, left: Sequence[Span], align: int | None, pin: bool
) -> Iterator[SliceBatch]:
    """Yield batches in ascending order; each slice is read and prepared once."""
    size = plan.slices_at_once
    yield from chain.from_iterable(
        slice_batches(
            plan.volume,
            plan.geometry,
            plan.intensity,
            *span,
            size,
            align=align,
            pin=pin,
        )
        for span in left
    )


def _pool(name: str, count: int) -> ThreadPoolExecutor:
    """Make threads, which start when there is work for them."""
    return ThreadPoolExecutor(count, thread_name_prefix=f"napari-biomedparse {name}")


def _nearest_first(
    left: list[Span], front: Front, read: Callable[[Span], Future[SliceBatch]]
) -> Iterator[Future[SliceBatch]]:
    """Take the nearest span each time, and have one read ahead."""
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


def _spans(start: int, stop: int, size: int, done: Sequence[Span]) -> Iterator[Span]:
    """Yield the batches of a run in order, without slices that are done."""
    finished = {index for span in done for index in range(*span)}
    for first in range(start, stop, size):
        batch = range(first, min(first + size, stop))
        yield from spans(index for index in batch if index not in finished)


def _nearest(left: Sequence[Span], at: int | None) -> Span:
    """Choose the span that holds a slice or is next to it, of two the first."""
    if at is None:
        return min(left)
    return min(left, key=lambda span: (max(span[0] - at, at - span[1] + 1, 0), span))
