"""Blocks on dask.distributed workers: the same labels, also when one is killed."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import zarr

from napari_biomedparse.errors import OptionError, WorkerError
from napari_biomedparse.model.biomedparse import BiomedParse
from napari_biomedparse.runs.run import segment_to_folder

pytest.importorskip("distributed")
from napari_biomedparse.plan import plan_run
from napari_biomedparse.runs.blocks import split_range, task_size
from napari_biomedparse.runs.cluster import connect

PROMPTS = ["liver", "cell"]


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


def test_the_environment_is_as_before_a_cluster() -> None:
    before = dict(os.environ)
    with connect(workers=1):
        pass
    assert dict(os.environ) == before


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
