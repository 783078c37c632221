"""The command `finetune`."""

from __future__ import annotations

import signal
from pathlib import Path

from training.data_folder import write_folder
from typer.testing import CliRunner

from napari_biomedparse.cli import app
from napari_biomedparse.networks.weights import load_model


def run(folder: Path, *more: str) -> tuple[int, str]:
    done = CliRunner().invoke(
        app,
        ["finetune", str(folder / "data"), "-o", str(folder / "out"), "-m", "tiny",
         "--device", "cpu", *more],
    )  # fmt: skip
    return done.exit_code, done.output


def test_it_trains_and_says_where_the_weights_are(tmp_path: Path) -> None:
    write_folder(tmp_path / "data", 2)
    before = signal.getsignal(signal.SIGINT)
    code, text = run(tmp_path, "--max-steps", "2", "--freeze", "text,backbone")
    assert code == 0 and "2 steps; held out: volumes squares" in text
    assert load_model(tmp_path / "out" / "finetuned.safetensors")
    assert signal.getsignal(signal.SIGINT) == before


def test_the_former_name_of_the_model_option(tmp_path: Path) -> None:
    code, text = run(tmp_path, "-c", "nowhere.pt")
    assert code == 1 and "--checkpoint has been renamed to --model" in text


def test_bad_data_are_told_in_plain_words(tmp_path: Path) -> None:
    write_folder(tmp_path / "data", 2)
    (tmp_path / "data" / "images" / "squares1.tif").write_bytes(b"II*\0 cut")
    code, text = run(tmp_path)
    assert code == 1 and "1 of 2 cases cannot be used" in text
    assert not (tmp_path / "out" / "run.json").exists()


def test_unknown_parts_are_refused(tmp_path: Path) -> None:
    code, text = run(tmp_path, "--freeze", "head")
    assert code == 2 and "pixel-decoder" in text
