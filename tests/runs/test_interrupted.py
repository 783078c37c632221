"""Ctrl-C at a run that a cluster does: at once, with a sentence, and no harm done."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from napari_biomedparse.runs.folder import JOB, Run
from napari_biomedparse.runs.run import segment_to_folder

pytest.importorskip("distributed")
from distributed import LocalCluster

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="process groups")
COMMAND = """
import signal
from napari_biomedparse.cli import app
signal.signal(signal.SIGINT, signal.default_int_handler)  # not ignored, as by nohup
app()
"""
LONGEST = 2.0
"""Seconds that the command line may take to end."""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    grey = np.random.default_rng(0).integers(0, 255, (320, 60, 50), dtype=np.uint8)
    zarr.create_array(str(tmp_path / "in.zarr"), data=grey, chunks=(8, 60, 50))
    return tmp_path / "in.zarr"


def interrupted(source: Path, out: Path, *more: str) -> str:
    """Start the command line, interrupt it as a terminal does; return what it says."""
    given = ["segment", str(source), "-p", "liver", "-o", str(out), "--model", "tiny"]
    with subprocess.Popen(
        [sys.executable, "-c", COMMAND, *given, *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        while process.poll() is None and not list(out.glob("blocks/*.json")):
            time.sleep(0.05)
        begun = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)
        said, _ = process.communicate(timeout=60)
        assert time.monotonic() - begun < LONGEST, said
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert "leaked" not in said
    begun = Run(out)
    assert not begun.finished
    assert 0 < len(begun.manifest.blocks) < 20
    return " ".join(said.split())


def test_workers_of_this_machine_end(source: Path, tmp_path: Path) -> None:
    said = interrupted(source, tmp_path / "run", "--workers", "1")
    assert said == (
        "Interrupted; finished blocks are kept: run the same command again to resume."
    )
    # Nobody works on it any more: the lock is free.
    run = segment_to_folder(source, "liver", tmp_path / "run", "tiny", device="cpu")
    assert run.finished


def test_a_cluster_goes_on(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    cluster: Any
    with LocalCluster(
        n_workers=1,
        threads_per_worker=1,
        memory_limit=0,
        dashboard_address="127.0.0.1:0",
    ) as cluster:
        address = cluster.scheduler_address
        said = interrupted(source, out, "--scheduler", address)
        assert re.fullmatch(
            rf"Interrupted; the cluster at {address} continues the run: run the "
            "same again to attach to it.",
            said,
        )
        assert (out / JOB).is_file()
        seen: list[int] = []
        run = segment_to_folder(
            source, "liver", out, "tiny", on_progress=lambda done, _: seen.append(done)
        )
        assert run.finished
        assert seen[0] > 0
