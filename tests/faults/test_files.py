"""Commands that write a file are told what is wrong at once, or go on."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from faults.cells import FILES, Cell, cells
from faults.here import DISK, Scene, _ordinary_user, mount
from faults.volumes import make_volume
from typer.testing import CliRunner

from napari_biomedparse.cli import app
from napari_biomedparse.io import open_volume
from napari_biomedparse.io.files import open_labels
from napari_biomedparse.networks import weights
from napari_biomedparse.networks.v2.biomedparse import BiomedParse
from napari_biomedparse.pipeline.segment import segment

MARKUP = "liver [flair] [/b] \u2713"
TOLD = {
    "temporary files full": "Temporary files cannot be written to .*: No space left",
    "output not writable": "out.tif cannot be written: Permission denied",
    "output under a file": "file is a file, not a folder; choose another place",
    "output is the input": "holds the input .*never replaced; choose another name",
}


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that other users of the machine may look into."""
    with tempfile.TemporaryDirectory(prefix="napari-biomedparse-faults-") as folder:
        Path(folder).chmod(0o755)
        (Path(folder) / "temporary").mkdir(mode=0o777)
        monkeypatch.setattr(tempfile, "tempdir", f"{folder}/temporary")
        yield Path(folder)


@contextlib.contextmanager
def temporary_files_full(place: Path, patched: pytest.MonkeyPatch) -> Iterator[None]:
    disk = place / "disk"
    disk.mkdir()
    mount("-o", "size=64k", DISK, str(disk))
    with contextlib.suppress(OSError), (disk / "other").open("wb") as file:
        file.write(bytes(2**17))
    patched.setattr(tempfile, "tempdir", str(disk))
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def ask(source: Path, out: Path, prompt: str) -> tuple[int, str]:
    """Do the command; return its exit code and what it said."""
    command = ["segment", str(source), "-p", prompt, "-m", "tiny", "--instances"]
    done = CliRunner().invoke(app, [*command, "-o", str(out), "--overwrite"])
    return done.exit_code, " ".join(done.output.split())


@pytest.mark.parametrize("cell", cells(FILES))
def test_the_file_is_written_or_the_command_refuses(
    cell: Cell,
    place: Path,
    tiny_model: BiomedParse,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:
    source, out, prompt = make_volume(place, cell.format), place / "out.tif", "liver"
    refused: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
    early = patch.object(weights, "load_model", side_effect=AssertionError("too late"))
    if cell.fault == "temporary files full":
        refused = temporary_files_full(place, monkeypatch)
    elif cell.fault == "output not writable":
        out = place / "locked" / "out.tif"
        out.parent.mkdir(mode=0o500)
        refused = _ordinary_user(Scene(source, out.parent))
    elif cell.fault == "output under a file":
        (place / "file").write_text("x")
        out = place / "file" / "out.tif"
    elif cell.fault == "output is the input":
        out = source
    elif cell.fault == "scratch of a killed run":
        (place / "temporary" / "napari-biomedparse-1").mkdir()
        (place / "temporary" / "napari-biomedparse-1.lock").touch()
    elif cell.fault == "name not UTF-8":
        source = source.rename(place / os.fsdecode(b"\xe9" + os.fsencode(source.name)))
        out = place / os.fsdecode(b"\xe9.tif")
    else:
        prompt = MARKUP
    volume = open_volume(source)
    whole = segment(volume, prompt, tiny_model, instances=True).instances
    before = source.read_bytes() if source.is_file() else b""
    if cell.fault in TOLD:
        with refused, early if cell.stage == "looking" else contextlib.nullcontext():
            code, said = ask(source, out, prompt)
        assert code != 0
        assert "Traceback" not in said
        with pytest.raises(AssertionError, match=TOLD[cell.fault]):
            raise AssertionError(said)
        record_property("told", said.replace(f"{place}/", ""))
        assert not source.is_file() or source.read_bytes() == before
        assert not list(place.rglob("*.partial"))
        monkeypatch.setattr(tempfile, "tempdir", f"{place}/temporary")
        if "under" in cell.fault or "input" in cell.fault:
            out = place / "out.tif"
        out.parent.chmod(0o755)
    if cell.fault == "console without letters":
        for name in ("stdout", "stderr"):
            stream = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
            monkeypatch.setattr(sys, name, stream)
        command = ["segment", str(source), "-p", prompt, "-m", "tiny", "--instances"]
        with pytest.raises(SystemExit) as ended:
            app([*command, "-o", str(out)])
        assert ended.value.code == 0
    else:
        code, said = ask(source, out, prompt)
        assert code == 0, said
        assert prompt not in (MARKUP,) or prompt in said
    np.testing.assert_array_equal(open_labels(out).volume.data, whole)
    assert not (place / "temporary" / "napari-biomedparse-1").exists()
    shutil.rmtree(place / "locked", ignore_errors=True)
