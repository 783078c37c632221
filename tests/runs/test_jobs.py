"""Runs on a cluster go on without whoever asked for them."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from napari_biomedparse.errors import OptionError, OutputError
from napari_biomedparse.pipeline.segment import segment
from napari_biomedparse.runs.folder import JOB, Run
from napari_biomedparse.runs.run import segment_to_folder

pytest.importorskip("distributed")
from distributed import Client, LocalCluster

from napari_biomedparse.runs import jobs

PROMPTS = ["liver", "cell"]
CLIENT = """
import sys
from napari_biomedparse import segment_to_folder
print("asking", flush=True)
segment_to_folder(
    sys.argv[1], ["liver", "cell"], sys.argv[2], "tiny", scheduler=sys.argv[3],
    on_progress=lambda done, total: print(done, total, flush=True),
)
"""


@pytest.fixture(scope="module")
def cluster() -> Any:
    with LocalCluster(
        n_workers=1,
        threads_per_worker=1,
        memory_limit=0,
        dashboard_address="127.0.0.1:0",
    ) as cluster:
        yield cluster


@pytest.fixture
def source(tmp_path: Path) -> Path:
    grey = np.random.default_rng(0).integers(0, 255, (160, 40, 30), dtype=np.uint8)
    array = zarr.create_array(
        str(tmp_path / "in.zarr"), shape=grey.shape, chunks=(8, 40, 30), dtype="u1"
    )
    array[:] = grey
    return tmp_path / "in.zarr"


def datasets(cluster: Any) -> Any:
    with Client(cluster.scheduler_address, set_as_default=False) as client:
        return client.list_datasets()


def ask_and_die(source: Path, out: Path, address: str) -> int:
    """Kill a client as soon as some slices are done; return how many."""
    with subprocess.Popen(
        [sys.executable, "-c", CLIENT, source, out, address],
        stdout=subprocess.PIPE,
        text=True,
    ) as asker:
        assert asker.stdout is not None
        for line in asker.stdout:
            if line[0].isdigit():
                asker.send_signal(signal.SIGKILL)
                return int(line.split()[0])
    raise AssertionError("the client ended by itself")


def test_a_run_survives_its_client_and_is_found_again(
    cluster: Any, source: Path, tmp_path: Path, tiny_model: Any
) -> None:
    out = tmp_path / "run"
    done = ask_and_die(source, out, cluster.scheduler_address)
    assert 0 < done < 160
    assert json.loads((out / JOB).read_text())["scheduler"]
    with pytest.raises(OutputError, match="prompts was"):
        segment_to_folder(source, ["lung"], out, "tiny")
    seen: list[int] = []
    # The folder alone says where the run is.
    run = segment_to_folder(
        source, PROMPTS, out, "tiny", on_progress=lambda done, _: seen.append(done)
    )
    assert run.finished
    assert seen[0] >= done
    assert datasets(cluster) == ()
    assert not (out / JOB).exists()
    expected = segment(zarr.open_array(source)[:], PROMPTS, tiny_model)
    assert expected.labels.any()
    np.testing.assert_array_equal(np.asarray(run.labels), expected.labels)


def test_a_run_ends_without_anyone(cluster: Any, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    ask_and_die(source, out, cluster.scheduler_address)
    end = time.monotonic() + 120
    while not (finished := Run(out).finished) and time.monotonic() < end:
        time.sleep(0.2)
    assert finished
    while datasets(cluster) and time.monotonic() < end:
        time.sleep(0.2)
    assert datasets(cluster) == ()
    assert not (out / JOB).exists()


def test_a_run_is_stopped_by_what_watches_it(
    cluster: Any, source: Path, tmp_path: Path
) -> None:
    class Enough(Exception):
        pass

    def stop(done: int, total: int) -> None:
        raise Enough

    out = tmp_path / "run"
    address = cluster.scheduler_address
    with pytest.raises(Enough):
        segment_to_folder(
            source, PROMPTS, out, "tiny", scheduler=address, on_progress=stop
        )
    assert datasets(cluster) == ()
    assert not (out / JOB).exists()
    assert not Run(out).finished
    # It goes on, here as well as there.
    assert segment_to_folder(source, PROMPTS, out, "tiny", device="cpu").finished


def test_a_cluster_that_is_gone_is_no_obstacle(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / JOB).write_text('{"scheduler": "tcp://127.0.0.1:1"}')
    assert segment_to_folder(source, PROMPTS, out, "tiny", slices=(0, 5)).finished
    assert not (out / JOB).exists()


def test_a_run_may_end_while_one_attaches_to_it(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    segment_to_folder(source, PROMPTS, out, "tiny", slices=(0, 5))
    (out / JOB).write_text("{}")

    @contextlib.contextmanager
    def ends_now(scheduler: str | None, folder: Path) -> Iterator[None]:
        (folder / JOB).unlink()  # as the driver does at its end
        yield None

    monkeypatch.setattr(jobs, "job_client", ends_now)
    assert segment_to_folder(source, PROMPTS, out, "tiny", slices=(0, 5)).finished


def test_a_scheduler_that_only_the_folder_names_is_not_talked_to(
    source: Path, tmp_path: Path
) -> None:
    """It could send anything to be unpickled."""
    out = tmp_path / "run"
    out.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        stranger.settimeout(0)
        port = stranger.getsockname()[1]
        (out / JOB).write_text(f'{{"scheduler": "tcp://127.0.0.1:{port}"}}')
        assert segment_to_folder(source, PROMPTS, out, "tiny", slices=(0, 5)).finished
        with pytest.raises(BlockingIOError):
            stranger.accept()


def test_volumes_in_memory_are_refused(cluster: Any, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="in memory"):
        segment_to_folder(
            np.zeros((4, 20, 20), np.uint8),
            PROMPTS,
            tmp_path / "run",
            "tiny",
            scheduler=cluster.scheduler_address,
        )
