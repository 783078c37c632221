"""Which slices are left to do, and how their labels reach the disk."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs_manifests import a_manifest

from napari_biomedparse.runs.blocks import (
    grid_volume,
    split_range,
    task_size,
    unfinished,
    write_behind,
)
from napari_biomedparse.volume import Volume


@given(st.integers(0, 9), st.integers(1, 9), st.sets(st.integers(0, 20)))
def test_what_is_unfinished_is_all_that_has_no_block(
    start: int, length: int, done: set[int]
) -> None:
    manifest: Any = a_manifest()
    manifest.output["shape"] = [20, 6, 5]
    stop = start + length
    plan: Any = SimpleNamespace(start=start, stop=stop)
    begins = [start, *(i for i in range(start + 1, stop) if i % 2 == 0)]
    blocks: Any = {i: None for i in begins if i in done}
    ranges = unfinished(plan, manifest, blocks)
    ends = [*begins[1:], stop]
    expected = [
        i
        for begin, end in zip(begins, ends, strict=True)
        if begin not in done
        for i in range(begin, end)
    ]
    assert [i for a, b in ranges for i in range(a, b)] == expected
    gaps = pairwise(ranges)
    assert all(b < c for (_, b), (c, _) in gaps)  # as long as possible


@given(st.integers(0, 30), st.integers(1, 30), st.integers(1, 9))
def test_tasks_end_where_whole_ones_would(start: int, length: int, size: int) -> None:
    tasks = list(split_range(start, start + length, size))
    assert [i for a, b in tasks for i in range(a, b)] == [*range(start, start + length)]
    assert all(b % size == 0 for _, b in tasks[:-1])
    assert all(0 < b - a <= size for a, b in tasks)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({}, 4),
        ({"chunks": ((3, 3, 1), (9,), (9,))}, 8),
        ({"chunks": (5, 9, 9)}, 12),
        ({"chunks": (1, 9, 9), "shards": (8, 9, 9)}, 16),
        ({"chunks": (2, 9, 9), "shards": None}, 4),
    ],
)
def test_a_task_reads_two_chunks_at_least(data: Any, expected: int) -> None:
    plan: Any = SimpleNamespace(
        volume=SimpleNamespace(data=SimpleNamespace(**data)),
        geometry=SimpleNamespace(axis=0),
    )
    assert task_size(plan, 4) == expected


def test_one_is_written_while_the_next_is_made() -> None:
    written: list[int] = []
    first_written = threading.Event()

    def make() -> Iterator[Any]:
        yield 0
        assert first_written.wait(10)
        yield 1
        yield 2

    def write(item: Any) -> Any:
        written.append(item)
        first_written.set()
        return item * 10

    assert list(write_behind(make(), write)) == [0, 10, 20]
    assert written == [0, 1, 2]


def test_what_was_made_before_an_error_is_written() -> None:
    written: list[Any] = []

    def make() -> Iterator[Any]:
        yield 0
        yield 1
        raise ValueError("unreadable")

    def write(item: Any) -> Any:
        written.append(item)
        return item

    with pytest.raises(ValueError, match="unreadable"):
        list(write_behind(make(), write))
    assert written == [0, 1]


def test_an_error_of_writing_comes_out() -> None:
    def write(item: Any) -> Any:
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        list(write_behind(iter([1]), write))  # type: ignore[list-item]


def test_the_grid_of_colours_has_three_axes() -> None:
    data = np.zeros((4, 5, 6, 3), np.uint8)
    micro = ("micrometer",) * 3
    volume = Volume(
        data, ("z", "y", "x", "c"), (3, 2, 1, 1), (*micro, "pixel"), (7, 8, 9, 0)
    )
    grid = grid_volume(volume)
    assert (grid.shape, grid.axes) == ((4, 5, 6), ("z", "y", "x"))
    assert (grid.spacing, grid.origin) == ((3, 2, 1), (7, 8, 9))
    assert grid.units == micro
