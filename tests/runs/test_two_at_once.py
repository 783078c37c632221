"""Two processes at one run's folder, and a reader while another one writes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from napari_biomedparse.errors import OutputError
from napari_biomedparse.io import open_file
from napari_biomedparse.networks.v2.biomedparse import BiomedParse
from napari_biomedparse.runs.folder import LOCK, Run
from napari_biomedparse.runs.run import segment_to_folder

WRITER = """
import sys, time
from napari_biomedparse import segment_to_folder
def tell(done, total):
    print(done, flush=True)
    time.sleep(float(sys.argv[3]))
segment_to_folder(sys.argv[1], ["liver", "cell"], sys.argv[2], "tiny", on_progress=tell)
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    grey = np.random.default_rng(0).integers(0, 255, (96, 40, 30), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "in.tif", grey, photometric="minisblack")
    return tmp_path / "in.tif"


@contextmanager
def writer(source: Path, folder: Path, pause: float) -> Iterator[Any]:
    """Start a process that does the run, and wait for its first block."""
    command = [sys.executable, "-c", WRITER, str(source), str(folder), str(pause)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "16\n"
            yield process
        finally:
            process.kill()


def test_the_second_is_refused_and_a_crash_unlocks(
    source: Path, tmp_path: Path, tiny_model: BiomedParse
) -> None:
    given: Any = (source, ["liver", "cell"], tmp_path / "run", "tiny")
    with writer(source, tmp_path / "run", pause=60) as process:
        for overwrite in (False, True):
            with pytest.raises(OutputError, match=r"run is being written by another"):
                segment_to_folder(*given, overwrite=overwrite)
        assert process.poll() is None
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    begun = Run(tmp_path / "run")
    assert not begun.finished
    assert (tmp_path / "run" / LOCK).exists()  # as a file, which nobody holds
    assert segment_to_folder(*given).finished


def test_a_reader_sees_whole_chunks_or_none(source: Path, tmp_path: Path) -> None:
    whole = segment_to_folder(source, ["liver", "cell"], tmp_path / "whole", "tiny")
    expected = np.asarray(whole.labels)
    assert expected.any(axis=(1, 2)).all()
    looks, partial = 0, 0
    with writer(source, tmp_path / "run", pause=0) as process:
        (found,) = open_file(tmp_path / "run" / "labels.ome.zarr").labels
        while process.poll() is None:
            for start in range(0, 96, 16):
                block = np.asarray(found.volume.data[start : start + 16])
                if block.any():
                    np.testing.assert_array_equal(block, expected[start : start + 16])
                else:
                    partial += 1
                looks += 1
            time.sleep(0.005)
    assert looks
    np.testing.assert_array_equal(Run(tmp_path / "run").labels, expected)
    assert partial  # some were looked at before they were there
