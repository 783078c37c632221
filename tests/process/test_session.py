"""Runs on another process: what comes back, and what happens when it goes wrong."""

from __future__ import annotations

import os
import signal
import sys
import time

import dask.array as da
import numpy as np
import pytest
import zarr

from napari_biomedparse.data.options import SegmentOptions
from napari_biomedparse.data.prompts import parse_prompts
from napari_biomedparse.data.results import SegmentedSlices
from napari_biomedparse.data.volume import as_volume
from napari_biomedparse.errors import (
    DeviceError,
    FormatError,
    VolumeError,
    WorkerError,
)
from napari_biomedparse.process import Planned, Session, Status

PROMPTS = parse_prompts({5: "bright things"})
OPTIONS = SegmentOptions(slices=None, seed=7)


@pytest.fixture
def voxels():
    return np.random.default_rng(0).integers(0, 255, (6, 40, 30), dtype=np.uint8)


def labels_of(run, shape):
    labels = np.zeros(shape, np.uint8)
    for event in run:
        if isinstance(event, SegmentedSlices):
            labels[event.where] = event.labels
    return labels


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("kind", ["numpy", "dask", "zarr", "big-endian", "signed"])
def test_labels_come_back(session_that, voxels, kind):
    data = {
        "numpy": lambda: voxels,
        "dask": lambda: da.from_array(voxels, chunks=(2, 16, 30)),
        "zarr": lambda: zarr.array(voxels, chunks=(2, 16, 30)),
        "big-endian": lambda: voxels.astype(">u2"),
        "signed": lambda: voxels.astype(np.int16)[::-1],
    }[kind]()
    run = session_that("works").run(as_volume(data), PROMPTS, OPTIONS)
    expected = np.where(np.asarray(data) > 100, 5, 0)
    np.testing.assert_array_equal(labels_of(run, voxels.shape), expected)


def test_events_in_order_and_process_kept(session_that, voxels):
    session = session_that("works")
    first = list(session.run(as_volume(voxels), PROMPTS, OPTIONS))
    assert [type(event) for event in first[:2]] == [Status, Planned]
    assert first[1].parameters["seed"] == 7
    parts = first[2:]
    assert [part.start for part in parts] == list(range(6))
    assert parts[0].existence.shape == (1, 1)
    second = list(session.run(as_volume(voxels), PROMPTS, OPTIONS))
    assert second[1].parameters["pid"] == first[1].parameters["pid"] == session.pid


def test_what_libraries_print_does_not_disturb(session_that, voxels):
    run = session_that("noisy").run(as_volume(voxels), PROMPTS, OPTIONS)
    assert labels_of(run, voxels.shape).any()


def test_known_errors_keep_their_kind_and_the_process_goes_on(session_that, voxels):
    session = session_that("refuses")
    for _ in range(2):
        with pytest.raises(DeviceError, match="cuda:7"):
            list(session.run(as_volume(voxels), PROMPTS, OPTIONS))


def test_unforeseen_error_is_reported(session_that, voxels):
    run = session_that("bug").run(as_volume(voxels), PROMPTS, OPTIONS)
    with pytest.raises(WorkerError, match="ZeroDivisionError: division by zero"):
        list(run)


def test_death_is_reported_with_last_words_and_replaced(session_that, voxels):
    session = session_that("dies")
    pids = set()
    for _ in range(2):
        run = session.run(as_volume(voxels), PROMPTS, OPTIONS)
        with pytest.raises(WorkerError, match=r"(?s)exit code 3.*Killed by the test"):
            for event in run:
                if isinstance(event, Planned):
                    pids.add(event.parameters["pid"])
    assert len(pids) == 2


def test_killed_in_the_middle(session_that, voxels):
    session = session_that("slow")
    run = session.run(as_volume(voxels), PROMPTS, OPTIONS)
    with pytest.raises(WorkerError, match="memory"):
        for event in run:
            if isinstance(event, SegmentedSlices):
                os.kill(session.pid, signal.SIGKILL)


def test_no_such_program(voxels):
    session = Session(["/no/such/python"])
    with pytest.raises(WorkerError, match="could not be started"):
        session.run(as_volume(voxels), PROMPTS, OPTIONS)


def test_unusable_volume_is_refused_before_anything_starts(session_that):
    session = session_that("works")
    with pytest.raises(VolumeError):
        session.run(as_volume(np.zeros((4, 4, 3))[..., :0]), PROMPTS, OPTIONS)
    assert session.pid is None


def test_unreadable_file_is_reported_and_the_next_run_works(session_that, voxels):
    def broken(block):
        raise OSError("chunk 0.1.0 is gone")

    bad = da.from_array(voxels, chunks=(2, 40, 30)).map_blocks(broken, dtype=np.uint8)
    session = session_that("works")
    with pytest.raises(FormatError, match=r"chunk 0\.1\.0 is gone"):
        list(session.run(as_volume(bad, name="stack"), PROMPTS, OPTIONS))
    pid = session.pid
    run = session.run(as_volume(voxels), PROMPTS, OPTIONS)
    assert labels_of(run, voxels.shape).any()
    assert session.pid == pid


def test_cancelled_run_ends_at_once_and_the_process_is_kept(session_that, voxels):
    session = session_that("slow")
    run = session.run(as_volume(voxels), PROMPTS, OPTIONS)
    next(event for event in run if isinstance(event, SegmentedSlices))
    pid = session.pid
    run.close()
    assert list(run) == []
    parts = list(session.run(as_volume(voxels), PROMPTS, OPTIONS))
    assert session.pid == pid
    assert sum(isinstance(part, SegmentedSlices) for part in parts) == 6


def test_stuck_process_is_replaced_by_the_next_run(session_that, voxels):
    session = session_that("stuck")
    run = session.run(as_volume(voxels), PROMPTS, OPTIONS)
    next(event for event in run if isinstance(event, SegmentedSlices))
    pid = session.pid
    run.close()
    again = session.run(as_volume(voxels), PROMPTS, OPTIONS)
    next(event for event in again if isinstance(event, SegmentedSlices))
    assert session.pid != pid
    assert not alive(pid)


def test_poll_returns_without_news(session_that, voxels):
    run = session_that("stuck").run(as_volume(voxels), PROMPTS, OPTIONS)
    next(event for event in run if isinstance(event, SegmentedSlices))
    began = time.monotonic()
    assert run.poll(0.05) is None
    assert time.monotonic() - began < 1


def test_close_ends_the_process_and_a_run_quietly(session_that, voxels):
    session = session_that("stuck")
    run = session.run(as_volume(voxels), PROMPTS, OPTIONS)
    next(event for event in run if isinstance(event, SegmentedSlices))
    pid = session.pid
    session.close()
    assert list(run) == []
    assert not alive(pid)


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
def test_process_ends_with_its_parent(session_that, voxels):
    session = session_that("stuck")
    run = session.run(as_volume(voxels), PROMPTS, OPTIONS)
    next(event for event in run if isinstance(event, SegmentedSlices))
    session._process._popen.stdin.close()  # what the end of this process does
    assert session._process._popen.wait(timeout=5) == 0
    with pytest.raises(WorkerError):
        list(run)


def test_slices_next_to_the_eye_come_first_and_done_ones_not_again(
    session_that, voxels
):
    run = session_that("slow").run(
        as_volume(voxels), PROMPTS, OPTIONS, done=[(3, 4)], front=4
    )
    starts = []
    for event in run:
        if isinstance(event, Planned):
            assert event.kept == ((3, 4),)
        if isinstance(event, SegmentedSlices):
            starts.append(event.start)
            run.look_at(0)
    assert starts[0] == 4
    assert starts[-1] != 0
    assert sorted(starts) == [0, 1, 2, 4, 5]
    run.look_at(2)  # too late, and no harm
