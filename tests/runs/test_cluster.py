"""Blocks on dask.distributed workers: the same labels, also when one is killed."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from multiprocessing.spawn import get_preparation_data
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given, strategies as st

from napari_biomedparse.errors import Cancelled, OptionError, WorkerError
from napari_biomedparse.io import open_image, open_volume
from napari_biomedparse.networks.v2.biomedparse import BiomedParse
from napari_biomedparse.networks.weights import load_model
from napari_biomedparse.pipeline.segment import segment
from napari_biomedparse.runs.folder import Run
from napari_biomedparse.runs.run import segment_to_folder

pytest.importorskip("distributed")
from distributed import Client, LocalCluster

from napari_biomedparse.pipeline.plan import plan_run
from napari_biomedparse.runs.cluster import (
    _script_hidden,
    connect,
    split_range,
    task_size,
)

PROMPTS = ["liver", "cell"]


@pytest.fixture
def here() -> Iterator[Any]:
    """A cluster of two workers in this process."""
    with (
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=False,
            memory_limit=0,
            dashboard_address="127.0.0.1:0",
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names by which workers load networks, one each time."""
    names: list[str] = []

    def load(name: str) -> BiomedParse:
        names.append(name)
        return load_model(name)

    monkeypatch.setattr("napari_biomedparse.runs.cluster.load_model", load)
    return names


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Three time points of 18 slices."""
    grey = np.random.default_rng(0).integers(0, 255, (3, 18, 20, 22), dtype=np.uint8)
    tifffile.imwrite(
        tmp_path / "film.ome.tif", grey, ome=True, metadata={"axes": "TZYX"}
    )
    return tmp_path / "film.ome.tif"


@pytest.mark.usefixtures("one_thread")
def test_two_workers_one_killed(tmp_path: Path, tiny_model: BiomedParse) -> None:
    grey = np.random.default_rng(0).integers(0, 255, (90, 40, 30), dtype=np.uint8)
    array = zarr.create_array(
        str(tmp_path / "in.zarr"), shape=grey.shape, chunks=(8, 40, 30), dtype="u1"
    )
    array[:] = grey
    source = tmp_path / "in.zarr"
    here = segment_to_folder(
        source, PROMPTS, tmp_path / "a", tiny_model, instances=True
    )
    with connect(workers=2) as client:
        victims: list[Any] = []

        def kill_one(done: int, total: int) -> None:
            if done and not victims:
                victims.extend(client.run(os.getpid).values())
                os.kill(victims[0], signal.SIGKILL)

        there = segment_to_folder(
            source,
            PROMPTS,
            tmp_path / "b",
            tiny_model,
            instances=True,
            scheduler=client,
            on_progress=kill_one,
        )
        assert len(victims) == 2
    assert there.finished
    assert there.manifest.blocks == here.manifest.blocks
    np.testing.assert_array_equal(np.asarray(there.labels), np.asarray(here.labels))
    np.testing.assert_array_equal(
        np.asarray(there.instances), np.asarray(here.instances)
    )


@pytest.mark.parametrize("kind", ["series", "consensus"])
def test_parts_share_the_networks_of_the_workers(
    here: Any,
    loaded: list[str],
    source: Path,
    tiny_model: BiomedParse,
    tmp_path: Path,
    kind: str,
) -> None:
    expected: Any
    if kind == "series":
        more: dict[str, Any] = {}
        expected = segment(open_image(source), PROMPTS, tiny_model, instances=True)
    else:
        more = {"consensus": True, "force": True, "time": 1}
        expected = segment(
            open_volume(source, time=1),
            PROMPTS,
            tiny_model,
            force=True,
            instances=True,
            consensus=True,
        )
    more["instances"] = True
    run = segment_to_folder(
        source, PROMPTS, tmp_path / "r", "tiny", scheduler=here, **more
    )
    assert run.kind == kind
    assert run.finished
    assert len(np.unique(np.asarray(run.labels))) > 1
    np.testing.assert_array_equal(run.labels, expected.labels)
    assert run.manifest.objects
    # Three parts and two runs, but a network for each of the two workers.
    again = segment_to_folder(
        source, PROMPTS, tmp_path / "again", "tiny", scheduler=here, **more
    )
    np.testing.assert_array_equal(again.labels, expected.labels)
    assert 1 <= len(loaded) <= 2


def test_cancelled_before_the_first_block(
    here: Any, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while nothing is known of the run but that it was asked for."""
    asked: list[float] = []
    slow = Event()
    monkeypatch.setattr(
        "napari_biomedparse.runs.cluster.load_model", lambda name: slow.wait(60)
    )

    def stopped() -> bool:
        asked.append(time.monotonic())
        return len(asked) > 2

    try:
        with pytest.raises(Cancelled):
            segment_to_folder(
                source,
                PROMPTS,
                tmp_path / "r",
                "tiny",
                time=0,
                scheduler=here,
                stopped=stopped,
            )
        assert time.monotonic() - asked[-1] < 2
        assert not here.list_datasets()
    finally:
        slow.set()
    assert not Run(tmp_path / "r").finished
    assert segment_to_folder(source, PROMPTS, tmp_path / "r", "tiny", time=0).finished


def test_the_environment_is_as_before_a_cluster() -> None:
    before = dict(os.environ)
    with connect(workers=1):
        pass
    assert dict(os.environ) == before


def test_new_processes_do_not_run_the_users_script() -> None:
    main = sys.modules["__main__"]
    before = {name: vars(main).get(name) for name in ("__file__", "__spec__")}
    with _script_hidden():
        known = get_preparation_data("worker")
        assert not {"init_main_from_name", "init_main_from_path"} & set(known)
    assert {name: vars(main).get(name) for name in before} == before


def test_only_who_started_local_workers_can_use_them() -> None:
    with connect(workers=1) as client:
        address = client.scheduler.address
        assert address.startswith("tls://127.0.0.1:")
        assert client.submit(sum, [1, 2]).result() == 3
        plain = address.replace("tls", "tcp")
        with dask.config.set({"distributed.comm.timeouts.connect": "500ms"}):
            for stranger in (plain, address):
                refused = pytest.raises(WorkerError, match="No scheduler")
                with refused, connect(stranger):
                    pass


def test_what_a_cluster_cannot_do(tmp_path: Path, tiny_model: BiomedParse) -> None:
    with pytest.raises(OptionError, match="either"), connect("tcp://x:1", 2):
        pass
    with pytest.raises(WorkerError, match="No scheduler"), connect("nowhere://x"):
        pass


def test_tasks_are_whole_blocks_and_two_chunks(tiny_model: BiomedParse) -> None:
    data = da.zeros((90, 40, 30), chunks=(20, 40, 30), dtype=np.uint8)
    plan = plan_run(data, PROMPTS, config=tiny_model.config)
    assert task_size(plan, 16) == 48
    assert list(split_range(3, 90, 48)) == [(3, 48), (48, 90)]


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
