"""Batches become labels, on a GPU while the next one is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from napari_biomedparse.engine.engine import Engine
from napari_biomedparse.networks.v2.biomedparse import BiomedParse
from napari_biomedparse.pipeline.plan import plan_run
from napari_biomedparse.pipeline.step import (
    begin_copy,
    begin_slices,
    one_behind,
    predict_slices,
)


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
