"""Which slices are left to do, and how their labels reach the disk."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st
from runs_manifests import a_manifest

from napari_biomedparse.data.options import SegmentOptions
from napari_biomedparse.data.results import Owners, SegmentedSlices
from napari_biomedparse.data.volume import Volume, as_volume
from napari_biomedparse.errors import Cancelled, FormatError, OutputError
from napari_biomedparse.io.formats.ome_labels import Layout, create_labels
from napari_biomedparse.io.formats.zarr import open_zarr
from napari_biomedparse.networks.config import TINY
from napari_biomedparse.pipeline.plan import RunPlan, plan_run
from napari_biomedparse.runs import blocks
from napari_biomedparse.runs.blocks import (
    blocks_here,
    open_stores,
    unfinished,
    write_behind,
)
from napari_biomedparse.runs.folder import (
    EDGES,
    LABELS,
    OBJECTS,
    PARTS,
    grid_volume,
    layout_of,
    object_layout,
    recorded_blocks,
    verified_blocks,
)
from napari_biomedparse.runs.manifest import Block, Manifest
from napari_biomedparse.runs.objects import write_objects


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


def test_many_slices_are_unfinished() -> None:
    manifest: Any = a_manifest()
    manifest.output["shape"] = [2000, 6, 5]
    plan: Any = SimpleNamespace(start=1000, stop=2000)
    done: Any = {i: None for i in range(1000, 2000, 2) if i != 1500}
    assert unfinished(plan, manifest, done) == [(1500, 1502)]
    assert unfinished(plan, manifest, {}) == [(1000, 2000)]


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


PROMPTS = {"2": "liver", "5": "kidney", "instance_label": 1}
RNG = np.random.default_rng(0)
FIVE = RNG.choice(np.array([0, 2, 5], np.uint8), (5, 5, 5))
FIVE[4] = 0
RIMS = FIVE * (RNG.random(FIVE.shape) < 0.3)
SEEN = RNG.random((2, 5), np.float32)


def _a_run(
    folder: Path, axis: int = 0, instances: bool = True, thickness: int = 2
) -> tuple[RunPlan, Manifest]:
    """Plan slices 1 to 4 of five, in blocks of two."""
    options = SegmentOptions(axis="zyx"[axis], slices=(1, 5))
    plan = plan_run(FIVE, PROMPTS | {"instance_label": int(instances)}, options,
                    config=TINY)  # fmt: skip
    manifest = a_manifest(blocks=())
    manifest.output.update(shape=[5, 5, 5], axis=axis, thickness=thickness)
    manifest.save(folder)
    return plan, manifest


@pytest.fixture
def by_hand(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Slices come one at a time from `FIVE`, instead of from a network."""
    made: list[int] = []

    def run_plan(plan: Any, engine: Any, *, align: int) -> Iterator[SegmentedSlices]:
        assert (engine, align) == ("engine", 2)
        needed = plan.seen.needed(plan.start, plan.stop)
        list(plan.seen(needed.start, iter([np.zeros((len(needed), 1))])))
        axis = plan.geometry.axis
        for z in range(plan.start, plan.stop):
            made.append(z)
            one = [FIVE.take([z], axis), RIMS.take([z], axis)]
            yield SegmentedSlices(z, z + 1, axis, one[0], SEEN[:, z : z + 1], one[1])

    monkeypatch.setattr(blocks, "run_plan", run_plan)
    return made


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("instances", [True, False])
def test_slices_become_blocks_on_the_disk(
    axis: int, instances: bool, tmp_path: Path, by_hand: list[int]
) -> None:
    plan, manifest = _a_run(tmp_path, axis, instances)
    stores = open_stores(plan, manifest, tmp_path)
    assert len(stores) == 1 + instances
    engine: Any = "engine"
    found = list(blocks_here(plan, tmp_path, manifest, [(1, 5)], engine=engine))
    assert [(block.start, block.stop) for block in found] == [(1, 2), (2, 4), (4, 5)]
    assert by_hand == [1, 2, 3, 4]
    assert recorded_blocks(tmp_path) == {block.start: block for block in found}
    assert verified_blocks(tmp_path, stores) == recorded_blocks(tmp_path)
    for store, values in zip(stores, (FIVE, RIMS), strict=False):
        on_disk = np.moveaxis(store.read(0, 5), axis, 0)
        np.testing.assert_array_equal(on_disk[1:], np.moveaxis(values, axis, 0)[1:])
        assert not on_disk[0].any()  # which was not to be run
    for block in found:
        part = np.moveaxis(FIVE, axis, 0)[block.start : block.stop]
        counts = [[int((plane == i).sum()) for plane in part] for i in (2, 5)]
        assert block.voxels == counts
        seen = SEEN[:, block.start : block.stop].astype(float)
        np.testing.assert_array_equal(block.existence, seen)


def test_a_stop_leaves_the_blocks_that_are_whole(
    tmp_path: Path, by_hand: list[int]
) -> None:
    plan, manifest = _a_run(tmp_path)
    open_stores(plan, manifest, tmp_path)
    engine: Any = "engine"
    with pytest.raises(Cancelled):
        list(
            blocks_here(
                plan,
                tmp_path,
                manifest,
                [(0, 5)],
                engine=engine,
                stopped=lambda: len(by_hand) == 3,
            )
        )
    assert by_hand == [0, 1, 2]
    assert recorded_blocks(tmp_path).keys() == {0}
    existence = recorded_blocks(tmp_path)[0].existence
    np.testing.assert_array_equal(existence, SEEN[:, :2].astype(float))


def test_a_block_of_a_volume_that_changed_is_not_recorded(
    tmp_path: Path, by_hand: list[int]
) -> None:
    plan, manifest = _a_run(tmp_path)
    source = tmp_path / "source.tif"
    source.write_bytes(b"1234")
    changed = source.stat().st_mtime_ns
    manifest.source.update(bytes=4, changed=changed)
    manifest.save(tmp_path)
    plan = replace(plan, volume=replace(plan.volume, source=source))
    open_stores(plan, manifest, tmp_path)
    engine: Any = "engine"
    (first,) = blocks_here(plan, tmp_path, manifest, [(1, 2)], engine=engine)
    os.utime(source, ns=(0, changed + 1))
    with pytest.raises(FormatError, match=r"source\.tif changed while"):
        list(blocks_here(plan, tmp_path, manifest, [(2, 5)], engine=engine))
    assert recorded_blocks(tmp_path) == {1: first}


def test_stores_are_made_once_and_say_whose_they_are(tmp_path: Path) -> None:
    plan, manifest = _a_run(tmp_path)
    labels, edges = open_stores(plan, manifest, tmp_path)
    labels.write(0, FIVE[:2])
    edges.write(0, RIMS[:2])
    again, rims = open_stores(plan, manifest, tmp_path)
    np.testing.assert_array_equal(again.read(0, 2), FIVE[:2])
    np.testing.assert_array_equal(rims.read(0, 2), RIMS[:2])
    contents = open_zarr(tmp_path / LABELS)
    assert contents.labels[0].texts == {2: "liver", 5: "kidney"}
    assert contents.prompts is not None
    assert not contents.prompts.instance  # those are told apart in another image


def test_labels_of_a_time_point_lie_in_its_series(tmp_path: Path) -> None:
    part = tmp_path / PARTS / "t000001"
    part.mkdir(parents=True)
    plan, manifest = _a_run(part)
    manifest.output.update(times=3, time=1)
    with pytest.raises(OutputError):  # which makes them, not its parts
        open_stores(plan, manifest, part)
    series = layout_of(manifest)
    volume = grid_volume(plan.volume)
    timed = replace(
        volume,
        data=np.broadcast_to(volume.data, (3, *volume.shape)),
        axes=("t", *volume.axes),
        spacing=(1.0, *volume.spacing),
        units=("second", *volume.units),
        origin=(0.0, *volume.origin),
    )
    create_labels(tmp_path / LABELS, series, timed, plan.prompts)
    labels, edges = open_stores(plan, manifest, part)
    labels.write(0, FIVE[:2])
    edges.write(0, RIMS[:2])
    assert not (part / LABELS).exists()
    assert (part / EDGES).is_dir()
    (image,) = open_zarr(tmp_path / LABELS).labels
    stored = np.asarray(image.volume.data)
    np.testing.assert_array_equal(stored[1, :2], FIVE[:2])
    assert not stored[[0, 2]].any()


@pytest.mark.parametrize(("least", "expected"), [(0, 3), (5, 2)])
def test_objects_of_labels_on_the_disk(
    least: int, expected: int, tmp_path: Path
) -> None:
    plan, manifest = _a_run(tmp_path)
    plan = replace(
        plan,
        options=replace(plan.options, minimum_size=least),
        volume=as_volume(np.zeros((5, 4, 300), np.uint8)),
    )
    manifest.output.update(shape=[5, 4, 300])
    labels, edges = open_stores(plan, manifest, tmp_path)
    values = np.zeros((5, 4, 300), np.uint8)
    values[0:3, :, 10:20] = 2
    values[0:3, :, 200:240] = 5
    values[4, 0, 298:] = 2
    for start in (0, 2, 4):
        labels.write(start, values[start : start + 2])
        edges.write(start, 0 * values[start : start + 2])
    existence = np.linspace(0, 1, 10).reshape(2, 5).tolist()
    block = Block(0, 5, existence, [[0] * 5] * 2, "")
    written = write_objects(tmp_path, plan, manifest, [labels, edges], {0: block})
    assert written.objects == expected
    owners = Owners.parse(written.owners)
    assert owners is not None
    assert owners.labels.tolist() == [0, 2, 5, 2][: expected + 1]
    best = [existence[0][2], existence[1][2], existence[0][4]]  # in their last slices
    np.testing.assert_allclose(owners.scores[1:], best[:expected], atol=1e-4)
    contents = open_zarr(tmp_path / OBJECTS)
    assert contents.labels[0].owners is not None
    assert contents.labels[0].names[2] == plan.prompts.texts[1]
    assert contents.prompts is not None
    assert contents.prompts.instance
    volume = contents.labels[0].volume
    found = np.asarray(volume.data)
    assert found.dtype == np.uint32
    assert len(np.unique(found)) == expected + 1
    assert ((found > 0) == (values > 0))[:4].all()
    (half,) = volume.levels
    np.testing.assert_array_equal(np.asarray(half), found[:, ::2, ::2])


def test_blocks_of_objects_are_thinner_than_those_of_labels() -> None:
    shape = (20, 2048, 2048)
    layout = Layout(shape, np.dtype(np.uint8), 0, 16, "0.4", 3)
    expected = Layout(shape, np.dtype(np.uint32), 0, 4, "0.4", 3)
    assert object_layout(layout) == expected


@pytest.mark.parametrize(
    ("platform", "names", "called"),
    [
        ("linux", ["malloc_trim"], [0]),
        ("linux", [], []),
        ("win32", ["malloc_trim"], []),
    ],
)
def test_freed_memory_is_given_back_where_it_is_kept(
    platform: str, names: list[str], called: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    library = SimpleNamespace(**dict.fromkeys(names, calls.append))
    monkeypatch.setattr(blocks.ctypes, "CDLL", lambda _: library)
    monkeypatch.setattr(blocks.sys, "platform", platform)
    blocks.trim_memory()
    assert calls == called


def test_stopped_is_the_earlier_name_of_cancelled() -> None:
    with pytest.warns(DeprecationWarning, match="Stopped is now Cancelled"):
        assert blocks.Stopped is Cancelled
    with pytest.raises(AttributeError, match="no attribute 'Halted'"):
        blocks.Halted  # noqa: B018
