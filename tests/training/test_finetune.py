"""Fine-tuning with a tiny network: it learns, goes on after kill -9, and stops."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from training.data_folder import arrays, write_folder

from napari_biomedparse.errors import CheckpointError, OptionError, OutputError
from napari_biomedparse.networks.checkpoint import read_checkpoint, save_weights
from napari_biomedparse.networks.weights import load_model, model_identity
from napari_biomedparse.pipeline.segment import segment
from napari_biomedparse.training.finetune import finetune
from napari_biomedparse.training.folder import BEST, LAST, LOG
from napari_biomedparse.training.module import prepare
from napari_biomedparse.training.options import FinetuneOptions
from napari_biomedparse.training.progress import Progress
from napari_biomedparse.training.volumes import TrainingVolume
from napari_biomedparse.training.wordings import Wordings

OPTIONS = FinetuneOptions(
    epochs=2, batch_size=4, prompts=2, learning_rate=2e-3, save_every=2
)
KILLED = """
import os, signal, sys
from napari_biomedparse.training.finetune import finetune
from napari_biomedparse.training.options import FinetuneOptions
def die(progress):
    if progress.step == 4:
        os.kill(os.getpid(), signal.SIGKILL)
options = FinetuneOptions(
    epochs=2, batch_size=4, prompts=2, learning_rate=2e-3, save_every=2
)
finetune(sys.argv[1], sys.argv[2], "tiny", options, device="cpu", on_progress=die)
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training that was never interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    finetune(data, folder, "tiny", OPTIONS, device="cpu")
    return folder


def log(folder: Path) -> list[dict[str, str]]:
    with (folder / LOG).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_it_learns_and_the_result_loads_everywhere(whole: Path) -> None:
    rows = log(whole)
    assert float(rows[-1]["loss"]) < 0.8 * float(rows[1]["loss"])
    model = load_model(whole / BEST)
    assert not torch.equal(
        model.pixel_decoder.mask_features.weight,
        load_model("tiny").pixel_decoder.mask_features.weight,
    )
    found = segment(arrays(9)[0], ["bright squares"], model)
    assert found.labels.shape == arrays(9)[0].shape
    running = load_model(whole / LAST)
    assert running.config == model.config


def test_weights_remember_what_they_are_made_from(whole: Path) -> None:
    facts = read_checkpoint(whole / BEST).metadata
    assert facts["base"] == model_identity("tiny")
    assert json.loads(facts["data"]) == ["squares0", "squares1", "squares2"]
    assert json.loads(facts["classes"])["squares"]["1"] == "bright squares"
    assert json.loads(facts["options"])["learning_rate"] == 2e-3
    assert facts["held_out"].startswith("volumes squares")
    assert json.loads(facts["best"])["val_loss"] > 0


def test_the_text_encoder_is_kept_and_the_rest_is_not(whole: Path) -> None:
    before, after = load_model("tiny").state_dict(), load_model(whole / BEST)
    changed = {
        k for k, v in after.state_dict().items() if not torch.equal(v, before[k])
    }
    assert not any(".language_encoder." in name for name in changed)
    assert any(name.startswith("backbone.") for name in changed)
    assert any(".pixel_decoder." in name for name in changed)


def test_killed_in_the_middle_of_an_epoch_it_goes_on_with_the_same_data(
    data: Path, whole: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", KILLED, str(data), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert [row["step"] for row in log(tmp_path)] == ["0", "2"]
    steps: list[int] = []
    finetune(
        data,
        tmp_path,
        "tiny",
        OPTIONS,
        device="cpu",
        on_progress=lambda now: steps.append(now.step),
    )
    assert steps[0] == 3
    again, once = (read_checkpoint(f / LAST).tensors for f in (tmp_path, whole))
    for name, value in once.items():
        torch.testing.assert_close(again[name], value, msg=name)
    assert (tmp_path / LOG).read_text("utf-8") == (whole / LOG).read_text("utf-8")


def test_stopped_it_keeps_the_best_and_goes_on_later(
    data: Path, whole: Path, tmp_path: Path
) -> None:
    seen: list[Progress] = []
    result = finetune(
        data,
        tmp_path,
        "tiny",
        OPTIONS,
        device="cpu",
        on_progress=seen.append,
        stop=lambda: len(seen) == 4,
    )
    assert result.step == 3 and load_model(result.checkpoint)
    result = finetune(data, tmp_path, "tiny", OPTIONS, device="cpu")
    assert result.step == int(log(whole)[-1]["step"])
    again, once = (read_checkpoint(f / LAST).tensors for f in (tmp_path, whole))
    for name, value in once.items():
        torch.testing.assert_close(again[name], value, msg=name)


def test_a_finished_training_is_not_done_again(data: Path, whole: Path) -> None:
    seen: list[Progress] = []
    result = finetune(
        data, whole, "tiny", OPTIONS, device="cpu", on_progress=seen.append
    )
    assert not seen and result.step == int(log(whole)[-1]["step"])


def test_another_training_in_the_folder_is_refused(data: Path, whole: Path) -> None:
    with pytest.raises(OutputError, match="another training, which differs in options"):
        finetune(data, whole, "tiny", replace(OPTIONS, clip=1.0), device="cpu")


def test_it_stops_early_when_held_out_slices_get_no_better(
    data: Path, tmp_path: Path
) -> None:
    hopeless = replace(OPTIONS, epochs=9, patience=1, learning_rate=1e-9)
    result = finetune(data, tmp_path, "tiny", hopeless, device="cpu")
    epochs = {int(row["epoch"]) for row in log(tmp_path)}
    assert epochs == {-1, 0, 1} and result.step == int(log(tmp_path)[-1]["step"])


def test_a_loss_that_is_no_number_is_named(data: Path, tmp_path: Path) -> None:
    model, path = load_model("tiny"), tmp_path / "odd.safetensors"
    model.pixel_decoder.mask_features.weight[:] = float("nan")
    save_weights(path, model.state_dict(), config=model.config)
    with pytest.raises(OptionError, match="lower learning rate"):
        finetune(data, tmp_path / "run", path, OPTIONS, device="cpu")
    assert not (tmp_path / "run" / LAST).exists()


def test_layers_are_learned_from_with_nothing_held_out(tmp_path: Path) -> None:
    image, labels = arrays(0)
    layer = TrainingVolume(
        "layer", "layer", image, labels, Wordings({1: ("a",), 2: ("b",)}), (0,)
    )
    options = replace(OPTIONS, validation=0.0, max_steps=2, checkpointing=True)
    result = finetune([layer], tmp_path, "tiny", options, device="cpu")
    assert (result.step, result.held_out) == (2, "nothing")
    assert load_model(result.checkpoint)


def test_computing_blocks_again_changes_no_gradient() -> None:
    gradients = []
    slices = torch.from_numpy(
        np.random.default_rng(0).integers(0, 255, (2, 3, 64, 64)).astype(np.float32)
    )
    for again in (False, True):
        model = load_model("tiny")
        prepare(model, replace(OPTIONS, checkpointing=again, freeze=("pixel-decoder",)))
        sum(part.square().mean() for part in model.backbone(slices)).backward()
        gradients.append([p.grad for p in model.backbone.parameters()])
        assert all(not p.requires_grad for p in model.pixel_decoder.parameters())
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "Epochs"),
        ({"learning_rate": float("nan")}, "Learning rate"),
        ({"batch_size": 2.5}, "whole number"),
        ({"freeze": ("head",)}, "choose from text"),
        ({"modality": "x-ray"}, "choose one of"),
    ],
)
def test_options_outside_their_limits(change: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        replace(OPTIONS, **change)


def test_other_networks_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "napari_biomedparse.training.finetune.load_model", lambda name: torch.nn.Linear
    )
    with pytest.raises(CheckpointError, match="cannot be fine-tuned"):
        finetune(write_folder(tmp_path / "data"), tmp_path / "out", "other")
    assert not (tmp_path / "out" / "run.json").exists()
