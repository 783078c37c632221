"""One loop: the eye decides on the order of slices and on nothing else."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import dask.array as da
import numpy as np
import pytest
import torch

from napari_biomedparse.data.options import SegmentOptions
from napari_biomedparse.engine.engine import Engine
from napari_biomedparse.errors import FormatError
from napari_biomedparse.networks.v2.biomedparse import BiomedParse
from napari_biomedparse.pipeline import loop
from napari_biomedparse.pipeline.loop import (
    begin_copy,
    begin_slices,
    one_behind,
    predict_slices,
    read_ahead,
    run_plan,
)
from napari_biomedparse.pipeline.plan import plan_run
from napari_biomedparse.pipeline.scores import ScoreStore
from napari_biomedparse.pipeline.segment import iter_segment

PROMPTS = {2: "liver", 5: "mitochondria in electron microscopy"}


@pytest.fixture(scope="module")
def grey() -> Any:
    return np.random.default_rng(0).integers(0, 255, (23, 40, 30), dtype=np.uint8)


class Front:
    """The slice that is wanted next; it may be moved at any time."""

    def __init__(self, at: int | None = None) -> None:
        self.at = at

    def __call__(self) -> int | None:
        return self.at

    def move(self, at: int) -> None:
        self.at = at


class Counted:
    """A lazy array that counts the slices that are read of it."""

    def __init__(self, values: Any, thickness: int) -> None:
        self.values, self.read = values, 0
        self.shape, self.dtype = values.shape, values.dtype
        self.chunks = (thickness, *values.shape[1:])

    def __getitem__(self, where: Any) -> Any:
        found = self.values[where]
        self.read += len(found)
        return found


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have several slices go through at once."""
    monkeypatch.setattr(loop, "_slices_at_once", lambda plan, _: plan.slices_at_once)


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.usefixtures("one_thread", "as_on_a_gpu")
def test_the_labels_are_those_of_a_run_in_order(
    grey: Any, tiny_model: Any, batch_size: int, lazy: bool
) -> None:
    options = SegmentOptions(
        batch_size=batch_size, slices=(2, 21), instances=True, axis="z"
    )
    data = da.from_array(grey, chunks=(7, 20, 30)) if lazy else grey
    plan = plan_run(data, PROMPTS, options, config=tiny_model.config)
    engine = Engine(tiny_model)
    expected = {part.start: part for part in run_plan(plan, engine)}
    front, seen = Front(10), []
    for part in run_plan(plan, Engine(tiny_model), front=front):
        seen.append(part.start)
        if len(seen) == 2:
            front.move(18)
        other = expected[part.start]
        assert part.stop == other.stop
        np.testing.assert_array_equal(part.labels, other.labels)
        np.testing.assert_array_equal(part.edges, other.edges)
        np.testing.assert_array_equal(part.existence, other.existence)
    assert sorted(seen) == sorted(expected)
    assert seen[:4] == ([10, 9, 18, 17] if batch_size == 1 else [10, 6, 18, 14])


def test_a_cpu_shows_single_slices_soon(grey: Any, tiny_model: Any) -> None:
    parts = iter_segment(grey, PROMPTS, tiny_model, device="cpu", front=Front(11))
    starts = [(part.start, part.stop) for part, _ in zip(parts, range(5), strict=False)]
    assert starts == [(11, 12), (10, 11), (12, 13), (9, 10), (13, 14)]


@pytest.mark.parametrize("at", [None, -5, 0])
def test_without_an_eye_it_runs_in_order(grey: Any, tiny_model: Any, at: Any) -> None:
    plan = plan_run(grey, PROMPTS, config=tiny_model.config)
    parts = run_plan(plan, Engine(tiny_model), front=lambda: at)
    assert [part.start for part in parts] == list(range(23))


@pytest.mark.usefixtures("as_on_a_gpu")
def test_only_some_slices(grey: Any, tiny_model: Any) -> None:
    plan = plan_run(grey, PROMPTS, config=tiny_model.config)
    engine = Engine(tiny_model)
    parts = run_plan(plan, engine, front=Front(), only={6, 9, 10, 11})
    assert [(p.start, p.stop) for p in parts] == [(6, 7), (9, 12)]
    assert not list(run_plan(plan, engine, front=Front(), only=()))


def test_thick_chunks_are_read_about_once(grey: Any, tiny_model: Any) -> None:
    data = Counted(grey, 8)
    plan = plan_run(data, PROMPTS, config=tiny_model.config)
    data.read = 0
    starts = [
        part.start for part in run_plan(plan, Engine(tiny_model), front=Front(11))
    ]
    assert len(starts) == 23
    assert data.read == 23


def test_an_error_ends_the_run_and_closing_it_the_reader(
    grey: Any, tiny_model: Any
) -> None:
    class Torn(Counted):
        def __getitem__(self, where: Any) -> Any:
            if where[0].stop > 20:
                raise OSError("torn")
            return super().__getitem__(where)

    plan = plan_run(Torn(grey, 1), PROMPTS, config=tiny_model.config)
    parts = run_plan(plan, Engine(tiny_model), front=Front(18))
    assert next(parts).start == 18
    with pytest.raises(FormatError, match=r"slices \d+ to \d+ cannot be read"):
        list(parts)


@pytest.mark.usefixtures("one_thread")
def test_scores_are_kept_on_the_way(grey: Any, tiny_model: Any) -> None:
    plan = plan_run(grey, PROMPTS, config=tiny_model.config)
    store = ScoreStore(plan)
    parts = run_plan(plan, Engine(tiny_model), front=Front(5), keep=store.add)
    for _ in range(3):
        next(parts)
    parts.close()  # type: ignore[attr-defined]
    assert store.kept == [(4, 7)]


@pytest.mark.usefixtures("one_thread")
def test_slices_of_a_small_network_are_computed_side_by_side(
    grey: Any, tiny_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = SegmentOptions(batch_size=1)
    plan = plan_run(grey[:21], PROMPTS, options, config=tiny_model.config)
    torch.set_num_threads(3)
    engine = Engine(tiny_model)
    expected = {part.start: part for part in run_plan(plan, engine)}
    together = threading.Barrier(3, timeout=60)
    decode = Engine._predict_part

    def wait_for_two_more(*args: Any) -> Any:
        together.wait()
        return decode(*args)

    monkeypatch.setattr(Engine, "_predict_part", wait_for_two_more)
    store, front, seen = ScoreStore(plan), Front(11), []
    for part in run_plan(plan, engine, front=front, keep=store.add):
        seen.append(part.start)
        front.move(20)
        other = expected[part.start]
        assert part.stop == other.stop
        np.testing.assert_array_equal(part.labels, other.labels)
        np.testing.assert_array_equal(part.existence, other.existence)
    assert seen[:5] == [11, 10, 12, 20, 19]
    assert sorted(seen) == list(range(21))
    assert store.kept == [(0, 21)]


@pytest.mark.usefixtures("one_thread")
def test_only_some_slices_in_whole_batches(grey: Any, tiny_model: Any) -> None:
    options = SegmentOptions(batch_size=4)
    plan = plan_run(grey, PROMPTS, options, config=tiny_model.config)
    engine, only = Engine(tiny_model), range(2, 10)
    whole = {part.start: part for part in run_plan(plan, engine)}
    parts = list(run_plan(plan, engine, only=only, align=4))
    assert [(p.start, p.stop) for p in parts] == [(2, 4), (4, 8), (8, 10)]
    np.testing.assert_array_equal(parts[1].labels, whole[4].labels)
    assert [(p.start, p.stop) for p in run_plan(plan, engine, only=only)] == [
        (2, 6),
        (6, 10),
    ]


@pytest.mark.parametrize("tile", ["none", 32])
@pytest.mark.usefixtures("one_thread")
def test_scores_are_kept_in_order_too(grey: Any, tiny_model: Any, tile: Any) -> None:
    options = SegmentOptions(batch_size=2, tile=tile, slices=(3, 6))
    plan = plan_run(grey, PROMPTS, options, config=tiny_model.config)
    stores = ScoreStore(plan), ScoreStore(plan)
    list(run_plan(plan, Engine(tiny_model), keep=stores[0].add))
    list(run_plan(plan, Engine(tiny_model), keep=stores[1].add, front=Front(4)))
    for index in range(3, 6):
        for one, other in zip(*(s.load(index) for s in stores), strict=True):
            assert torch.equal(one, other)


def test_read_ahead_is_bounded_and_stops_when_closed() -> None:
    made = []

    def items() -> Iterator[int]:
        for i in range(100):
            made.append(i)
            yield i

    before = set(threading.enumerate())
    reader = read_ahead(items(), depth=2)
    assert next(reader) == 0
    assert not set(threading.enumerate()) <= before
    time.sleep(0.3)
    assert len(made) <= 4
    reader.close()
    count = len(made)
    time.sleep(0.2)
    assert len(made) == count
    assert set(threading.enumerate()) <= before


def test_what_reads_ahead_computes_by_itself() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        reader = read_ahead(iter(torch.get_num_threads, None))
        assert next(reader) == 1  # else all of them would sleep after each operation
        assert torch.get_num_threads() == 3
        reader.close()
    finally:
        torch.set_num_threads(before)


def test_an_error_comes_after_the_items_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise FormatError("third is broken")

    reader = read_ahead(items())
    assert [next(reader), next(reader)] == [1, 2]
    with pytest.raises(FormatError, match="third"):
        next(reader)


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (0, ["begin 0", "end 0", "begin 1", "end 1", "begin 2", "end 2"]),
        (1, ["begin 0", "begin 1", "end 0", "begin 2", "end 1", "end 2"]),
        (9, ["begin 0", "begin 1", "begin 2", "end 0", "end 1", "end 2"]),
    ],
)
def test_the_next_is_begun_before_one_is_finished(
    count: int, expected: list[str]
) -> None:
    done: list[str] = []

    def begin() -> Iterator[Callable[[], int]]:
        for i in range(3):
            done.append(f"begin {i}")
            yield lambda i=i: done.append(f"end {i}") or i  # type: ignore[misc]

    assert list(one_behind(begin(), count)) == [0, 1, 2]
    assert done == expected


class _Stream:
    """Copies only when it is waited for, as a GPU may."""

    def __init__(self) -> None:
        self.waited = 0

    def record_event(self) -> _Stream:
        return self

    def synchronize(self) -> None:
        self.waited += 1


class _OnGpu:
    """A tensor that says it lies on a GPU."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor, self.shape, self.dtype = tensor, tensor.shape, tensor.dtype
        self.device = torch.device("cuda:1")


def test_a_copy_from_a_gpu_is_waited_for_only_when_it_is_wanted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    streams: dict[Any, _Stream] = {}
    made = torch.empty
    asked: list[tuple[bool, bool]] = []

    class Here:
        def __init__(self, shape: Any, dtype: Any, pin_memory: bool) -> None:
            self.here, self.pinned = made(shape, dtype=dtype), pin_memory
            self.numpy = self.here.numpy

        def copy_(self, other: _OnGpu, non_blocking: bool) -> None:
            asked.append((self.pinned, non_blocking))
            self.here.copy_(other.tensor)

    monkeypatch.setattr(torch, "empty", Here)
    monkeypatch.setattr(
        torch.cuda, "current_stream", lambda d: streams.setdefault(d, _Stream())
    )
    labels = torch.arange(12, dtype=torch.uint8).reshape(3, 4)
    wait = begin_copy(_OnGpu(labels))  # type: ignore[arg-type]
    assert asked == [(True, True)]
    assert [stream.waited for stream in streams.values()] == [0]
    assert list(streams) == [torch.device("cuda:1")]
    np.testing.assert_array_equal(wait(), labels.numpy())
    assert streams[torch.device("cuda:1")].waited == 1


@pytest.mark.parametrize("top", [3, 300])
def test_labels_come_in_the_plan_s_type(tiny_model: BiomedParse, top: int) -> None:
    volume = np.random.default_rng(0).integers(0, 255, (3, 40, 50), dtype=np.uint8)
    prompts = {1: "liver", top: "kidney"}
    plan = plan_run(volume, prompts, config=tiny_model.config, options=None)
    engine = Engine(tiny_model)
    tokens = engine.encode_prompts(plan.prompts.texts)
    slices = torch.zeros(2, 3, 64, 64, dtype=torch.int32)
    found = predict_slices(plan, lambda x: engine.predict(x, tokens), slices)
    sure = found._replace(existence=torch.tensor([[-9.0, 9.0], [9.0, -9.0]]))
    done = begin_slices(plan, 1, sure)()
    assert (done.start, done.stop) == (1, 3)
    assert done.labels.dtype == np.min_scalar_type(top)
    assert done.labels.shape == (2, 40, 50)
    assert set(np.unique(done.labels[0])) == {0, top}
    assert set(np.unique(done.labels[1])) == {0, 1}
    assert done.existence.shape == (2, 2)


def test_doubt_is_the_share_of_pixels_that_are_probably_wrong() -> None:
    mask = torch.tensor([[0.9, 0.2], [0.6, 0.5]])
    logits = mask.logit().expand(1, 3, 2, 2)
    existence = torch.tensor([[0.8, 0.3, torch.nan]]).logit()
    found = loop.doubt(logits, existence, 0.5)
    shown = 0.8 * (0.1 + 0.2 + 0.4 + 0.5) / 4 + 0.2 * 2 / 4
    hidden = 0.3 * mask.mean()
    certain = (0.1 + 0.2 + 0.4 + 0.5) / 4
    torch.testing.assert_close(found, torch.tensor([[shown, hidden, certain]]))


def test_every_slice_says_how_sure_it_is(tiny_model: Any) -> None:
    grey = np.random.default_rng(0).integers(0, 255, (5, 64, 64), dtype=np.uint8)
    parts = list(iter_segment(grey, ["a", "b"], tiny_model, batch_size=2))
    found = np.concatenate([part.doubt for part in parts], axis=1)
    assert found.shape == (2, 5)
    assert ((found > 0) & (found < 1)).all()
