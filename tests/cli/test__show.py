"""What is shown cannot break what shows it, or what was done before."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import typer
from rich.table import Table
from typer.testing import CliRunner

from napari_biomedparse.cli import _show, app
from napari_biomedparse.io import open_file

EVIL = "lesion [flair] [/b] :smile: \x1b[31m"
SEEN = r"lesion [flair] [/b] :smile: \x1b[31m"


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    for console in (_show.out, _show.err):
        monkeypatch.setattr(console, "width", 200)


def test_text_is_shown_as_it_is_everywhere(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(EVIL)
    table.add_row(EVIL)
    _show.out.print(table)
    _show.say(EVIL)
    assert capsys.readouterr().out.count(SEEN) == 3
    _show.complain(EVIL)
    with _show.warnings_shown():
        logging.getLogger("tifffile").warning("%s", EVIL)
    assert capsys.readouterr().err.count(SEEN) == 2
    with _show.progress_bar() as progress:
        progress.add_task(EVIL)
        shown = _show.err.render_str(EVIL).plain
        (column, *_) = progress.columns
        assert column(progress.tasks[0]).plain == shown == SEEN  # type: ignore[union-attr]


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_letters_that_a_console_lacks_are_escaped(
    encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("stdout", "stderr"):
        stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True)
        monkeypatch.setattr(sys, name, stream)
    _show.print_any_letter()
    table = Table("prompt")
    table.add_row("\u809d \u2713")
    _show.out.print(table)
    _show.say(os.fsdecode(b"caf\xe9"))
    written = sys.stdout.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
    assert ("\u809d" if encoding == "utf-8" else r"\u809d \u2713") in written
    assert r"caf\udce9" in written


def test_labels_are_saved_whatever_a_prompt_or_a_name_holds(tmp_path: Path) -> None:
    grey = np.random.default_rng(0).integers(0, 255, (2, 40, 50)).astype(np.uint8)
    for name in ("[b] :smile:.npz", os.fsdecode(b"caf\xe9.npz")):
        path = tmp_path / name
        np.savez(path, imgs=grey, prompt_ids=[1], prompt_texts=[EVIL])
        out = path.with_suffix(".tif")
        command = ["segment", str(path), "-o", str(out), "-m", "tiny"]
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 0, done.output
        assert SEEN in done.stdout
        assert len(open_file(out).labels) == 1


def test_labels_are_saved_before_anything_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez(tmp_path / "a.npz", imgs=np.zeros((2, 40, 50), np.uint8))

    def closed(*_: object, **__: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(_show.out, "print", closed)
    out = tmp_path / "out.tif"
    command = ["segment", str(tmp_path / "a.npz"), "-p", "liver", "-o", str(out)]
    assert CliRunner().invoke(app, [*command, "-m", "tiny"]).exit_code != 0
    assert len(open_file(out).labels) == 1


def test_a_batch_and_its_pages_survive_any_name(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    grey = np.random.default_rng(0).integers(0, 255, (2, 40, 50)).astype(np.uint8)
    names = [os.fsdecode(b"caf\xe9.npz"), "=1+1.npz", "a.npz"]
    for name in names:
        np.savez(tmp_path / name, imgs=grey)
    command = ["segment", str(tmp_path), "-p", "=cmd", "-m", "tiny"]
    done = CliRunner().invoke(app, [*command, "-o", str(tmp_path / "o")])
    assert done.exit_code == 0, done.output
    table = pd.read_csv(tmp_path / "o" / "summary.csv")
    assert table["status"].tolist() == ["done"] * 3
    assert table["prompt"].tolist() == ["'=cmd"] * 3
    for folder in (tmp_path / "o").iterdir():
        if folder.is_dir():
            page = CliRunner().invoke(app, ["report", str(folder)])
            assert page.exit_code == 0, page.output


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("std::bad_alloc")])
def test_a_shortage_is_told_in_one_line(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit), _show.one_line_errors():
        raise error
    assert capsys.readouterr().err.startswith("Error: Memory ran out. Close other")
    with pytest.raises(RuntimeError, match="a bug"), _show.one_line_errors():
        raise RuntimeError("a bug, not a shortage")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no such device")
@pytest.mark.parametrize("command", ["vocabulary kidney", "--version"])
def test_a_full_disk_behind_the_output_ends_in_a_sentence(command: str) -> None:
    run = "from napari_biomedparse.cli import app; app()"
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-c", run, *command.split()],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert ended.returncode != 0
    assert "cannot be printed: No space left on device" in ended.stderr
    assert "Traceback" not in ended.stderr
