"""Temporary folders go with their process, also with one that was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from napari_biomedparse.errors import OutputError
from napari_biomedparse.io.durable import (
    remove_abandoned,
    scratch_file,
    scratch_folder,
    scratching,
)

KEEP = """
import sys, time
from napari_biomedparse.io.durable import scratch_folder
folder, remove = scratch_folder()
(folder / "voxels").write_bytes(bytes(9))
print(folder, flush=True)
if len(sys.argv) > 1:
    time.sleep(60)
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def started(place: Path, *arguments: str) -> tuple[subprocess.Popen[str], Path]:
    process = subprocess.Popen(
        [sys.executable, "-c", KEEP, *arguments],
        env=os.environ | {"TMPDIR": str(place)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    folder = Path(process.stdout.readline().strip())
    process.stdout.close()
    return process, folder


def test_what_a_process_leaves_is_removed(place: Path) -> None:
    ended, _ = started(place)
    assert ended.wait() == 0
    assert list(place.iterdir()) == []
    killed = [started(place, "wait") for _ in range(2)]
    alive, kept = started(place, "wait")
    for sent, (process, folder) in zip(
        (signal.SIGKILL, signal.SIGTERM), killed, strict=True
    ):
        process.send_signal(sent)
        process.wait()
        assert (folder / "voxels").is_file()
    own, _ = scratch_folder()  # the next start
    assert sorted(p.name for p in place.iterdir() if p.is_dir()) == sorted(
        (kept.parent.name, own.parent.name)
    )
    assert (kept / "voxels").is_file()
    alive.kill()
    alive.wait()
    remove_abandoned()
    assert not kept.exists()
    assert own.is_dir()


WRITE = """
import sys, time
from pathlib import Path
from napari_biomedparse.io.durable import atomic_write
with atomic_write(Path(sys.argv[1])) as partial:
    if sys.argv[2] == "folder":
        partial.mkdir()
        (partial / "c").write_bytes(bytes(9))
    else:
        partial.write_bytes(bytes(9))
    print(flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_killed_output_is_removed_at_the_next_start(place: Path, kind: str) -> None:
    home = place / "home"
    home.mkdir()
    precious = home / "out.tif.0123.partial"
    precious.write_text("x")
    running = []
    for _ in range(2):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITE, str(home / "out.tif"), kind],
            env=os.environ | {"TMPDIR": str(place)},
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        running.append(process)
    killed, alive = running
    killed.kill()
    killed.wait()
    assert len(list(home.iterdir())) == 3
    remove_abandoned()
    (left,) = set(home.iterdir()) - {precious}  # of the one that is alive
    alive.kill()
    alive.wait()
    remove_abandoned()
    assert set(home.iterdir()) == {precious}
    assert not left.exists()


def test_nothing_else_is_touched(place: Path) -> None:
    precious = place / "precious"
    precious.mkdir()
    (precious / "thesis").write_text("x")
    (place / "napari-biomedparse-1").symlink_to(precious)
    (place / "napari-biomedparse-1.lock").symlink_to(precious / "thesis")
    (place / "napari-biomedparse-2").mkdir()
    (place / "napari-biomedparse-2.lock").hardlink_to(precious / "thesis")
    (place / "napari-biomedparse-3").mkdir()
    remove_abandoned()
    assert len(list(place.iterdir())) == 6
    assert (precious / "thesis").read_text() == "x"


def test_a_place_without_room_is_named(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        pytest.raises(OutputError, match=rf"{place}: No space left.*TMPDIR"),
        scratching(),
    ):
        raise OSError(28, os.strerror(28))

    def nowhere() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", nowhere)
    with pytest.raises(OutputError, match=r"No usable temporary directory.*TMPDIR"):
        scratch_folder()
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: nowhere())
    with pytest.raises(OutputError, match=r"No usable temporary directory.*TMPDIR"):
        scratch_file()
