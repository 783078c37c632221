"""BoltzFormer by all doors, and training it from the beginning."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from tiny_boltz import HIERA, tiny_boltz
from training.data_folder import arrays, write_folder
from typer.testing import CliRunner

from napari_biomedparse import load_model, segment, segment_to_folder
from napari_biomedparse.cli import app
from napari_biomedparse.errors import OptionError
from napari_biomedparse.networks import start
from napari_biomedparse.networks.boltzformer.boltzformer import BoltzFormer
from napari_biomedparse.networks.checkpoint import save_weights
from napari_biomedparse.networks.weights import config_of
from napari_biomedparse.training.finetune import finetune
from napari_biomedparse.training.options import FinetuneOptions

PROMPTS = ["bright things", "a dark thing that has a long name"]


@pytest.fixture
def file(tmp_path: Path) -> str:
    model, path = tiny_boltz(), tmp_path / "tiny.safetensors"
    save_weights(path, model.state_dict(), config=model.config)
    assert config_of(str(path)) == HIERA
    return str(path)


def grey() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (4, 70, 50), np.uint8)


def test_python_command_line_and_run_folder_agree(file: str, tmp_path: Path) -> None:
    expected = segment(grey(), PROMPTS, file, device="cpu")
    assert {0, 1, 2} == set(np.unique(expected.labels))
    assert expected.parameters["prompts_apart"]  # as the original has it
    alone = segment(grey(), PROMPTS[0], file, device="cpu")
    np.testing.assert_array_equal(expected.existence[0], alone.existence[0])
    run = segment_to_folder(grey(), PROMPTS, tmp_path / "run", file, device="cpu")
    np.testing.assert_array_equal(np.asarray(run.labels), expected.labels)
    tifffile.imwrite(tmp_path / "grey.tif", grey(), photometric="minisblack")
    command = ["segment", str(tmp_path / "grey.tif"), "-o", str(tmp_path / "out.tif")]
    for text in PROMPTS:
        command += ["-p", text]
    done = CliRunner().invoke(app, [*command, "-m", file, "--device", "cpu"])
    assert done.exit_code == 0, done.output
    np.testing.assert_array_equal(
        tifffile.imread(tmp_path / "out.tif"), expected.labels
    )


def test_a_color_image_is_seen_in_color(file: str) -> None:
    image = np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)
    found = segment(image, PROMPTS[0], file, device="cpu").labels
    other = segment(image[..., ::-1].copy(), PROMPTS[0], file, device="cpu").labels
    assert found.any() and (found != other).any()


def test_it_learns_from_random_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = replace(HIERA, output_layer=False)
    monkeypatch.setattr(start, "ARCHITECTURES", {"hiera-s": small})
    options = FinetuneOptions(epochs=12, patience=12, batch_size=4, learning_rate=3e-3)
    data = write_folder(tmp_path / "data")
    done = finetune(
        data, tmp_path / "out", options=options, network="hiera-s", device="cpu"
    )
    assert done.best["val_dice"] > done.before["val_dice"] + 0.5
    model = load_model(done.checkpoint)
    assert isinstance(model, BoltzFormer)
    found = segment(arrays(9)[0], ["bright squares"], model, device="cpu")
    assert found.labels.any()
    again = finetune(
        data, tmp_path / "out", options=options, network="hiera-s", device="cpu"
    )
    assert again == done
    with pytest.raises(OptionError, match="name that, too"):
        finetune(data, tmp_path / "x", options=options, backbone=tmp_path / "sam2.pt")
