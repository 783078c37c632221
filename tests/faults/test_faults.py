"""After any fault: a clear message, finished blocks intact, and the same labels."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from faults.cells import HERE, Cell, cells
from faults.here import DISK, FAULTS, Scene, mount
from faults.volumes import (
    assert_finished_blocks_are_intact,
    assert_same,
    do_run,
    make_volume,
)

from napari_biomedparse.errors import BiomedParseError
from napari_biomedparse.networks.v2.biomedparse import BiomedParse
from napari_biomedparse.runs.folder import Run


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that other users of the machine may look into."""
    with tempfile.TemporaryDirectory(prefix="napari-biomedparse-faults-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture
def disk(place: Path) -> Iterator[Path]:
    """A disk of a megabyte."""
    there = place / "disk"
    there.mkdir()
    mount("-o", "size=1m", DISK, str(there))
    yield there
    subprocess.run(["umount", str(there)], check=True)


@pytest.mark.parametrize("cell", cells(HERE))
def test_the_run_can_be_resumed(
    cell: Cell,
    place: Path,
    undisturbed: Run,
    tiny_model: BiomedParse,
    request: pytest.FixtureRequest,
    record_property: Callable[[str, object], None],
) -> None:
    source, folder = make_volume(place, cell.format), place / "run"
    scene = Scene(source, folder)
    if cell.fault == "disk full":
        scene.disk = request.getfixturevalue("disk")
        scene.folder = folder = scene.disk / "run"
    make, message = FAULTS[cell.fault]
    if cell.continues:
        with make(scene, cell.stage):
            run = do_run(source, folder, tiny_model)
        assert_same(run, undisturbed)
        return
    with (
        pytest.raises(BiomedParseError) as raised,
        make(scene, cell.stage),
    ):
        do_run(source, folder, tiny_model)
    told = str(raised.value)
    assert re.search(message, told), told
    record_property("told", told.replace(f"{place}/", ""))
    scene.undo.close()
    assert_finished_blocks_are_intact(folder, undisturbed)
    assert_same(do_run(source, folder, tiny_model), undisturbed)
