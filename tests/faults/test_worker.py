"""A worker of a cluster that is killed costs the block that it was at."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from faults.cells import CLUSTER, Cell, cells
from faults.volumes import GIVEN, assert_same, make_volume

from napari_biomedparse.data.options import SegmentOptions
from napari_biomedparse.data.prompts import parse_prompts
from napari_biomedparse.runs.folder import Run
from napari_biomedparse.runs.run import RunRequest, do_request

pytest.importorskip("distributed")
from napari_biomedparse.runs.cluster import connect


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with connect(workers=2) as client:
        yield client


@pytest.mark.parametrize("cell", cells(CLUSTER))
def test_the_run_goes_on(
    cell: Cell, tmp_path: Path, cluster: Any, undisturbed: Run
) -> None:
    victims: list[int] = []

    def kill_one(done: int, total: int) -> None:
        if not victims:
            victims.extend(cluster.run(os.getpid).values())
            os.kill(victims[0], signal.SIGKILL)

    given = dict(GIVEN)
    request = RunRequest(
        make_volume(tmp_path, cell.format),
        parse_prompts(given.pop("prompts")),
        tmp_path / "run",
        "tiny",
        SegmentOptions(**given),
    )
    run = do_request(request, cluster, kill_one)
    assert victims
    assert_same(run, undisturbed)
