"""Runs whose process is killed or interrupted resume where they were."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from faults.cells import APART, Cell, cells
from faults.volumes import (
    assert_finished_blocks_are_intact,
    assert_same,
    do_run,
    make_volume,
)

from napari_biomedparse.networks.v2.biomedparse import BiomedParse
from napari_biomedparse.runs.folder import Run

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks")
SCRIPT = Path(__file__).with_name("apart.py")
LONGEST = 2.0
"""Seconds that the command line may take to end once it is interrupted."""


@pytest.fixture(scope="module")
def strike() -> Iterator[Callable[[Cell, Path, Path], dict[str, Any]]]:
    """Give what does a run, in another process, that a fault ends."""
    paths = [str(SCRIPT.parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    with subprocess.Popen(
        [sys.executable, str(SCRIPT)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def ask(cell: Cell, source: Path, folder: Path) -> dict[str, Any]:
            question = {"source": str(source), "folder": str(folder)}
            question |= {"fault": cell.fault, "stage": cell.stage}
            print(json.dumps(question), file=process.stdin, flush=True)
            answer: dict[str, Any] = json.loads(process.stdout.readline())  # type: ignore[union-attr]
            return answer

        yield ask
        process.stdin.close()


@pytest.mark.parametrize("cell", cells(APART))
def test_the_run_can_be_resumed(
    cell: Cell,
    tmp_path: Path,
    strike: Callable[[Cell, Path, Path], dict[str, Any]],
    undisturbed: Run,
    tiny_model: BiomedParse,
    record_property: Callable[[str, object], None],
) -> None:
    source, folder = make_volume(tmp_path, cell.format), tmp_path / "run"
    ended = strike(cell, source, folder)
    if cell.fault == "SIGINT":
        assert ended["status"] == 130, ended["said"]
        assert ended["seconds"] < LONGEST
        said = " ".join(ended["said"].split())
        assert (
            "Interrupted; finished blocks are kept: run the same command again" in said
        )
        assert "Traceback" not in said
        record_property("told", said)
    else:
        assert ended["status"] == -9, ended["said"]
    done = assert_finished_blocks_are_intact(folder, undisturbed)
    assert done < 6 or cell.stage in ("components", "objects", "manifest")
    assert_same(do_run(source, folder, tiny_model), undisturbed)
