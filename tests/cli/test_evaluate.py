"""The command `evaluate`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from evaluation.cases import truth, write_challenge, write_prediction
from PIL import Image
from tiny_v1 import tiny_v1
from typer.testing import CliRunner

from napari_biomedparse.cli import app
from napari_biomedparse.networks.checkpoint import save_weights


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


def test_the_published_layout_by_the_command_line(tmp_path: Path) -> None:
    network, image = tiny_v1(), np.zeros((30, 40, 3), np.uint8)
    weights, out = tmp_path / "v1.safetensors", tmp_path / "out"
    save_weights(weights, network.state_dict(), config=network.config)
    image[5:20, 5:20] = 200
    for name in ("train/1_X-Ray_chest", "train_mask/1_X-Ray_chest_left+lung"):
        path = tmp_path / "DATA" / f"{name}.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(image).save(path)
    done = CliRunner().invoke(
        app,
        ["evaluate", "--images", str(tmp_path / "DATA"), "-o", str(out),
         "-m", str(weights)],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "1 scored, 0 failed" in done.output and "precision@0.9" in done.output
    table = (out / "summary.csv").read_text("utf-8")
    assert "left lung in chest X-Ray,iou" in table and "mIoU [%]" in table
