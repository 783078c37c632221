"""Runs on another process: what comes back, and what happens when it goes wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import venv
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import zarr

import napari_biomedparse
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
from napari_biomedparse.process import Session, child
from napari_biomedparse.process.channel import Channel
from napari_biomedparse.process.child import COMMAND
from napari_biomedparse.process.messages import Planned, Read, SegmentRequest, Status

FAKE = Path(__file__).with_name("fake_worker.py")
PROMPTS = parse_prompts({5: "bright things"})
OPTIONS = SegmentOptions(slices=None, seed=7)


@pytest.fixture
def voxels():
    return np.random.default_rng(0).integers(0, 255, (6, 40, 30), dtype=np.uint8)


def request_for(voxels):
    return SegmentRequest(as_volume(voxels), PROMPTS, OPTIONS)


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
    run = session_that("works").start(request_for(data))
    expected = np.where(np.asarray(data) > 100, 5, 0)
    np.testing.assert_array_equal(labels_of(run, voxels.shape), expected)


def test_events_in_order_and_process_kept(session_that, voxels):
    session = session_that("works")
    first = list(session.start(request_for(voxels)))
    assert [type(event) for event in first[:2]] == [Status, Planned]
    assert first[1].parameters["seed"] == 7
    parts = first[2:]
    assert [part.start for part in parts] == list(range(6))
    assert parts[0].existence.shape == (1, 1)
    second = list(session.start(request_for(voxels)))
    assert second[1].parameters["pid"] == first[1].parameters["pid"] == session.pid


def test_what_libraries_print_does_not_disturb(session_that, voxels):
    run = session_that("noisy").start(request_for(voxels))
    assert labels_of(run, voxels.shape).any()


def test_known_errors_keep_their_kind_and_the_process_goes_on(session_that, voxels):
    session = session_that("refuses")
    for _ in range(2):
        with pytest.raises(DeviceError, match="cuda:7"):
            list(session.start(request_for(voxels)))


def test_unforeseen_error_is_reported(session_that, voxels):
    run = session_that("bug").start(request_for(voxels))
    with pytest.raises(WorkerError, match="ZeroDivisionError: division by zero"):
        list(run)


def test_death_is_reported_with_last_words_and_replaced(session_that, voxels):
    session = session_that("dies")
    pids = set()
    for _ in range(2):
        run = session.start(request_for(voxels))
        with pytest.raises(WorkerError, match=r"(?s)exit code 3.*Killed by the test"):
            for event in run:
                if isinstance(event, Planned):
                    pids.add(event.parameters["pid"])
    assert len(pids) == 2


def test_killed_in_the_middle(session_that, voxels):
    session = session_that("slow")
    run = session.start(request_for(voxels))
    with pytest.raises(WorkerError, match="killed by SIGKILL") as caught:
        for event in run:
            if isinstance(event, SegmentedSlices):
                os.kill(session.pid, signal.SIGKILL)
    assert "memory" not in str(caught.value)


def test_memory_that_ran_out_is_named(session_that, voxels, tmp_path, monkeypatch):
    counters = tmp_path / "vmstat"
    counters.write_text("pgfault 12\noom_kill 3\n")
    monkeypatch.setattr(child, "_KERNEL_COUNTERS", counters)
    session = session_that("slow")
    run = session.start(request_for(voxels))
    with pytest.raises(WorkerError, match="memory ran out"):
        for event in run:
            if isinstance(event, SegmentedSlices):
                counters.write_text("pgfault 15\noom_kill 4\n")
                os.kill(session.pid, signal.SIGKILL)


def test_no_such_program(voxels):
    session = Session(["/no/such/python"])
    with pytest.raises(WorkerError, match="could not be started"):
        session.start(request_for(voxels))


def test_unusable_volume_is_refused_before_anything_starts(session_that):
    session = session_that("works")
    with pytest.raises(VolumeError):
        session.start(request_for(np.zeros((4, 4, 3))[..., :0]))
    assert session.pid is None


def test_unreadable_file_is_reported_and_the_next_run_works(session_that, voxels):
    def broken(block):
        raise OSError("chunk 0.1.0 is gone")

    bad = da.from_array(voxels, chunks=(2, 40, 30)).map_blocks(broken, dtype=np.uint8)
    session = session_that("works")
    with pytest.raises(FormatError, match=r"chunk 0\.1\.0 is gone"):
        list(session.start(request_for(bad)))
    pid = session.pid
    run = session.start(request_for(voxels))
    assert labels_of(run, voxels.shape).any()
    assert session.pid == pid


def test_cancelled_run_ends_at_once_and_the_process_is_kept(session_that, voxels):
    session = session_that("slow")
    run = session.start(request_for(voxels))
    next(event for event in run if isinstance(event, SegmentedSlices))
    pid = session.pid
    run.close()
    assert list(run) == []
    parts = list(session.start(request_for(voxels)))
    assert session.pid == pid
    assert sum(isinstance(part, SegmentedSlices) for part in parts) == 6


def test_stuck_process_is_replaced_by_the_next_run(session_that, voxels):
    session = session_that("stuck")
    run = session.start(request_for(voxels))
    next(event for event in run if isinstance(event, SegmentedSlices))
    pid = session.pid
    run.close()
    again = session.start(request_for(voxels))
    next(event for event in again if isinstance(event, SegmentedSlices))
    assert session.pid != pid
    assert not alive(pid)


def test_poll_returns_without_news(session_that, voxels):
    run = session_that("stuck").start(request_for(voxels))
    next(event for event in run if isinstance(event, SegmentedSlices))
    began = time.monotonic()
    assert next(run.polled(0.05)) is None
    assert time.monotonic() - began < 1


def test_a_request_to_read_may_arrive_while_the_process_is_stopped(
    session_that, voxels, monkeypatch
):
    session = session_that("stuck")
    run = session.start(request_for(voxels))
    receive, process = Channel.receive, session._process

    def late(channel):
        received = receive(channel)
        if received is None and process._stopping and process._runs:
            monkeypatch.undo()
            return run.number, Read(0, ((0, 1), (0, 2), (0, 3)))
        return received

    monkeypatch.setattr(Channel, "receive", late)
    next(event for event in run if isinstance(event, SegmentedSlices))
    session.close()
    assert all(isinstance(event, Planned) for event in run)  # it may have come before
    assert not process._runs
    assert run.stopped.is_set() and process._readers._shutdown


def test_close_ends_the_process_and_a_run_quietly(session_that, voxels):
    session = session_that("stuck")
    run = session.start(request_for(voxels))
    next(event for event in run if isinstance(event, SegmentedSlices))
    pid = session.pid
    session.close()
    assert list(run) == []
    assert not alive(pid)


PARENT = """
import numpy as np, sys
from napari_biomedparse import SegmentOptions, SegmentedSlices, parse_prompts
from napari_biomedparse.data.volume import as_volume
from napari_biomedparse.process import Session, child
from napari_biomedparse.process.child import COMMAND

session = Session(sys.argv[1:])
volume = as_volume(np.full((6, 40, 30), 200, np.uint8))
for event in session.run(volume, parse_prompts(["cell"]), SegmentOptions()):
    if isinstance(event, SegmentedSlices):
        print(session.pid, flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
def test_process_ends_with_its_parent_however_that_ends():
    command = [sys.executable, "-c", PARENT, *COMMAND[:-1], str(FAKE), "stuck"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        pid = int(parent.stdout.readline())
        assert alive(pid)
        parent.kill()
    deadline = time.monotonic() + 10
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(pid)


def test_files_of_the_user_do_not_enter_the_process(tmp_path):
    """They are beside the script, in the current folder and in PYTHONPATH."""
    for name in ("random", "json", "torch", "napari_biomedparse"):
        (tmp_path / f"{name}.py").write_text("open('executed', 'w')")
    at_last = "sys.path[:0] = ['', sys.argv.pop()]\nsession ="
    script = PARENT.replace("session =", at_last, 1)
    command = [*COMMAND[:-1], str(FAKE), "works", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-P", "-c", script, *command],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([*sys.path, str(tmp_path)])},
        capture_output=True,
        text=True,
    )
    assert done.stdout.count("\n") == 6, done.stderr
    assert not (tmp_path / "executed").exists()


def test_what_start_up_files_print_does_not_disturb(tmp_path, voxels):
    venv.create(tmp_path, symlinks=os.name != "nt")
    (site,) = tmp_path.rglob("site-packages")
    (site / "any.pth").write_text("import os; os.write(1, b'from a .pth')\n")
    (site / "sitecustomize.py").write_text(
        f"print('from sitecustomize')\nopen({str(tmp_path / 'executed')!r}, 'w')"
    )
    python = tmp_path / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    session = Session([str(python), *COMMAND[1:-1], str(FAKE), "works"])
    run = session.start(request_for(voxels))
    assert labels_of(run, voxels.shape).any()
    session.close()
    assert (tmp_path / "executed").exists()


def test_folders_of_packages_are_handed_over(tmp_path, monkeypatch):
    folders = [tmp_path / name for name in ("installed", "current", "script", "bare")]
    for folder in folders:
        folder.mkdir()
        if folder.name != "bare":
            (folder / "package-1.0.dist-info").mkdir()
        monkeypatch.syspath_prepend(folder)
    monkeypatch.chdir(tmp_path / "current")
    script = str(tmp_path / "script" / "main.py")
    monkeypatch.setattr(sys.modules["__main__"], "__file__", script, raising=False)
    found = child.package_folders()
    assert found[0] == str(tmp_path / "installed")
    assert not any(str(folder) in found for folder in folders[1:])
    ours = Path(napari_biomedparse.__file__).parents[1]
    assert str(ours) in found
    monkeypatch.chdir(ours)  # also where the package lies in the current folder
    assert str(ours) in child.package_folders()


def test_slices_next_to_the_eye_come_first_and_done_ones_not_again(
    session_that, voxels
):
    run = session_that("slow").start(
        SegmentRequest(
            volume=as_volume(voxels),
            prompts=PROMPTS,
            options=OPTIONS,
            done=((3, 4),),
            front=4,
        )
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
