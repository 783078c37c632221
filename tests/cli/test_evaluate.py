"""The command `evaluate`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from evaluation.cases import truth, write_challenge, write_prediction
from typer.testing import CliRunner

from napari_biomedparse.cli import app


def run(folder: Path, *more: str) -> tuple[int, str]:
    done = CliRunner().invoke(
        app,
        ["evaluate", "--images", str(folder / "imgs"), "--labels", str(folder / "gts"),
         "-o", str(folder / "out"), *more],
    )  # fmt: skip
    return done.exit_code, done.output


def test_given_predictions_are_scored(tmp_path: Path) -> None:
    write_challenge(tmp_path, "a")
    write_prediction(tmp_path / "pred" / "a.tif", truth())
    code, text = run(tmp_path, "--predictions", str(tmp_path / "pred"))
    assert code == 0 and "1 scored, 0 failed" in text
    assert "1.0000" in text and "kidney" in text
    assert (tmp_path / "out" / "index.html").exists()


def test_a_model_is_scored_on_some_slices(tmp_path: Path) -> None:
    write_challenge(tmp_path, "a")
    code, text = run(tmp_path, "-m", "tiny", "--slices", "0:1", "-p", "liver")
    assert code == 0 and "liver" in text and "spleen" not in text
    again = run(tmp_path, "-m", "tiny", "--slices", "0:1", "-p", "liver")
    assert again == (code, text)


def test_failed_cases_make_the_exit_code_1(tmp_path: Path) -> None:
    write_challenge(tmp_path, "a")
    np.savez(tmp_path / "gts" / "a.npz", gts=truth()[1:])
    code, text = run(tmp_path, "-m", "tiny")
    assert code == 1 and "0 scored, 1 failed" in text and "must be the same" in text
