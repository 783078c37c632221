"""A run that follows the eye: slices next to the one in view come first.

The batches are those of a run in order, only taken in another order, so the labels are
the same.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_biomedparse.io.windows import chunk_thickness
from napari_biomedparse.pipeline.step import behind, finish_slices, predict_slices
from napari_biomedparse.slicing.batches import SliceBatch, slice_batches
from napari_biomedparse.slicing.read import read_slices

if TYPE_CHECKING:
    from torch import Tensor

    from napari_biomedparse.data.results import SegmentedSlices
    from napari_biomedparse.data.volume import Volume
    from napari_biomedparse.engine.engine import Engine, SlicePrediction
    from napari_biomedparse.pipeline.plan import RunPlan
    from napari_biomedparse.pipeline.scores import ScoreStore

SLABS_KEPT = 4
"""Slabs of whole chunks that stay in memory: of both directions, and their ends."""
SLAB_BYTES = 2**26
"""Most that one of them takes."""

Span = tuple[int, int]
"""First slice and the one after the last."""


class Front:
    """The slice that is wanted next; it may be moved from any thread, at any time.

    Parameters
    ----------
    at : int, optional
        Index along the slicing axis; None wants the slices in order.
    """

    def __init__(self, at: int | None = None) -> None:
        self._at = at

    def __call__(self) -> int | None:
        """Return the slice that is wanted next."""
        return self._at

    def move(self, at: int | None) -> None:
        """Want another slice, and then those next to it."""
        self._at = at


def run_in_view(
    plan: RunPlan,
    engine: Engine,
    *,
    front: Callable[[], int | None],
    done: Sequence[Span] = (),
    store: ScoreStore | None = None,
) -> Iterator[SegmentedSlices]:
    """Segment the slices nearest to one in view first; closing it stops the run.

    Parameters
    ----------
    plan : RunPlan
    engine : Engine
    front : callable
        Asked before each batch which slice is wanted, such as a `Front`; None wants
        them in order.
    done : sequence of pair of int
        Ranges of slices that are left out.
    store : ScoreStore, optional
        Keeps what the network says, for other thresholds.

    Yields
    ------
    SegmentedSlices
        A batch at a time; on a CPU, which takes slices one by one anyway, a slice. Of
        a small network as many slices are under way as the CPU has threads.

    Raises
    ------
    FormatError, DeviceError
        As for `run_plan`.
    """
    plan = plan.batched(engine.suited_batch(len(plan.prompts)))
    tokens = engine.encode_prompts(plan.prompts.texts)
    size, pin = _slices_at_once(plan, engine), engine.device.type == "cuda"
    left = list(_spans(plan.start, plan.stop, size, done))
    volume = _keeping(plan.volume, plan.geometry.axis, size)

    def read(span: Span) -> SliceBatch:
        (batch,) = slice_batches(
            volume, plan.geometry, plan.intensity, *span, size, pin=pin
        )
        return batch

    def compute(reading: Future[SliceBatch]) -> Callable[[], SegmentedSlices]:
        start, slices = reading.result()
        said: list[SlicePrediction] = []

        def predict(squares: Tensor) -> SlicePrediction:
            said.append(engine.predict(squares, tokens))
            return said[-1]

        found = predict_slices(plan, predict, slices)
        return partial(finish, start, said, found)

    def finish(
        start: int, said: list[SlicePrediction], found: SlicePrediction
    ) -> SegmentedSlices:
        if store is not None:
            store.add(start, said)
        return finish_slices(plan, start, found)

    at_once = engine.side_by_side if plan.tiles.is_single else 1
    with _pool("reader", 1) as reader, _pool("network", at_once) as network:

        def begin(reading: Future[SliceBatch]) -> Callable[[], SegmentedSlices]:
            work = partial(compute, reading)
            done = network.submit(work).result if at_once > 1 else work
            return lambda: done()()

        readings = _nearest_first(left, front, lambda span: reader.submit(read, span))
        yield from behind(map(begin, readings), at_once - 1)


def _pool(name: str, count: int) -> ThreadPoolExecutor:
    """Make threads, which start when there is work for them."""
    return ThreadPoolExecutor(count, thread_name_prefix=f"napari-biomedparse {name}")


def _nearest_first(
    left: list[Span],
    front: Callable[[], int | None],
    read: Callable[[Span], Future[SliceBatch]],
) -> Iterator[Future[SliceBatch]]:
    """Take spans in the order of their nearness, and have one read ahead."""
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
        begun: int | None = None
        last = min(first + size, stop)
        for index in range(first, last):
            if index in finished and begun is not None:
                yield begun, index
                begun = None
            elif index not in finished and begun is None:
                begun = index
        if begun is not None:
            yield begun, last


def _nearest(spans: Sequence[Span], at: int | None) -> Span:
    """Choose the span that holds a slice or is next to it, of two the first."""
    if at is None:
        return min(spans)
    return min(spans, key=lambda span: (max(span[0] - at, at - span[1] + 1, 0), span))


def _keeping(volume: Volume, axis: int, size: int) -> Volume:
    """Have whole chunks kept where they are thicker than a batch."""
    thickness = chunk_thickness(volume.data, axis)
    plane = volume.dtype.itemsize
    for i, length in enumerate(volume.shape):
        plane *= 1 if i == axis else length
    thickness = min(thickness, SLAB_BYTES // plane)
    if thickness <= size:
        return volume
    return replace(volume, data=_KeptSlabs(volume, axis, thickness))


class _KeptSlabs:
    """A lazy array of which the slabs that were read last are kept.

    Parameters
    ----------
    volume : Volume
    axis : int
        The slicing axis, along which parts are asked for.
    thickness : int
        Slices of a slab.
    """

    def __init__(self, volume: Volume, axis: int, thickness: int) -> None:
        self.shape, self.dtype = volume.shape, volume.dtype
        self._volume, self._axis, self._thickness = volume, axis, thickness
        self._kept: OrderedDict[int, npt.NDArray[Any]] = OrderedDict()

    def __getitem__(self, where: tuple[slice, ...]) -> npt.NDArray[Any]:
        """Return slices `start` to `stop`; all of the other axes."""
        start, stop = where[self._axis].start, where[self._axis].stop
        parts = []
        for first in range(start // self._thickness, -(-stop // self._thickness)):
            begin = first * self._thickness
            slab = self._slab(begin)
            parts.append(slab[max(start - begin, 0) : stop - begin])
        return np.moveaxis(np.concatenate(parts), 0, self._axis)

    def _slab(self, begin: int) -> npt.NDArray[Any]:
        if begin not in self._kept:
            end = min(begin + self._thickness, self.shape[self._axis])
            self._kept[begin] = read_slices(self._volume, self._axis, begin, end)
        self._kept.move_to_end(begin)
        while len(self._kept) > SLABS_KEPT:
            self._kept.popitem(last=False)
        return self._kept[begin]
