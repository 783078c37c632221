"""A student learns from a teacher: targets that resume, the same changes to both."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from typer.testing import CliRunner

from napari_biomedparse.cli import app
from napari_biomedparse.data.options import SegmentOptions
from napari_biomedparse.errors import CheckpointError, OutputError
from napari_biomedparse.learning import distill as module
from napari_biomedparse.learning.distill import (
    DistilledBatches,
    Sample,
    TeacherTargets,
    distill,
)
from napari_biomedparse.networks import config, start
from napari_biomedparse.networks.config import TINY
from napari_biomedparse.networks.network import SlicePrediction
from napari_biomedparse.networks.weights import load_model
from napari_biomedparse.pipeline.plan import plan_run
from napari_biomedparse.pipeline.segment import segment
from napari_biomedparse.training.augment import Variation
from napari_biomedparse.training.options import FinetuneOptions

PROMPTS = ["bright things", "a dark thing"]
OPTIONS = FinetuneOptions(epochs=2, batch_size=4, learning_rate=1e-3)
LIGHT = replace(TINY, backbone_widths=(4, 8, 16, 32), image_size=32)


@pytest.fixture(autouse=True)
def light(monkeypatch: pytest.MonkeyPatch) -> None:
    """Know a light network."""
    known = {"light": LIGHT}
    for place in (config, start, module):
        monkeypatch.setattr(place, "ARCHITECTURES", known)


def grey() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (10, 60, 44), np.uint8)


def test_what_is_done_to_a_slice_is_done_to_its_truth(tmp_path: Path) -> None:
    """The teacher finds what is bright: so it must be after any turn or shift."""
    volume = np.zeros((1, 64, 64), np.uint8)
    volume[0, 8:30, 34:60] = 200
    plan = plan_run(volume, PROMPTS, SegmentOptions(), config=TINY)
    targets = TeacherTargets(tmp_path)
    bright = torch.from_numpy(volume[0][::4, ::4] > 0).float() * 40 - 20
    masks = torch.stack([bright, -bright])[None]
    targets.add(Sample(0, 0), SlicePrediction(masks, -masks, torch.tensor([[2.0, -2]])))
    still = Variation(brightness=0.0, noise=0.0, specks=0.0, chance=0.7)
    batches = DistilledBatches([plan], [Sample(0, 0)], targets, OPTIONS, still)
    seen = set()
    for number in range(12):
        batch = batches[number]
        shown = batch.slices[0, 0] > 100
        one = batch.targets.masks[0, 0] > 0.5
        assert (shown != one).float().mean() < 0.05
        # Beyond the slice there is nothing of either.
        assert (
            not ((batch.targets.masks[0, 1] > 0.5) & shown)[2:-2, 2:-2].float().sum()
            > 90
        )
        seen.add(shown.numpy().tobytes())
    assert len(seen) > 8
    torch.testing.assert_close(
        batch.targets.exists[0], torch.tensor([2.0, -2.0]).sigmoid()
    )
    plain = DistilledBatches([plan], [Sample(0, 0)], targets, OPTIONS, None)
    torch.testing.assert_close(plain[0].slices, plain[7].slices)


def test_a_student_agrees_more_and_more_and_runs_everywhere(tmp_path: Path) -> None:
    done = distill(
        [grey()], PROMPTS, tmp_path / "out", "light", teacher="tiny", device="cpu",
        options=replace(OPTIONS, epochs=30, patience=30, learning_rate=3e-3),
    )  # fmt: skip
    assert set(done.agreement) == set(PROMPTS) and done.speed > 0
    before = distill(
        [grey()], PROMPTS, tmp_path / "short", "light", teacher="tiny", device="cpu",
        options=replace(OPTIONS, epochs=1, learning_rate=1e-9),
    )  # fmt: skip
    assert np.mean([*done.agreement.values()]) > np.mean([*before.agreement.values()])
    assert segment(grey(), PROMPTS, done.checkpoint, device="cpu").labels.shape
    again = distill(
        [grey()], PROMPTS, tmp_path / "out", "light", teacher="tiny", device="cpu",
        options=replace(OPTIONS, epochs=30, patience=30, learning_rate=3e-3),
    )  # fmt: skip
    assert again == done
    with pytest.raises(OutputError, match="differs in prompts"):
        distill(
            [grey()], PROMPTS[:1], tmp_path / "out", "light", teacher="tiny",
            device="cpu",
            options=replace(OPTIONS, epochs=30, patience=30, learning_rate=3e-3),
        )  # fmt: skip
    with pytest.raises(OutputError, match="differs in data"):
        distill(  # of the same name and shape
            [grey()[::-1]], PROMPTS, tmp_path / "out", "light", teacher="tiny",
            device="cpu",
            options=replace(OPTIONS, epochs=30, patience=30, learning_rate=3e-3),
        )  # fmt: skip
    with pytest.raises(CheckpointError, match="no model"):
        distill([grey()], PROMPTS, tmp_path / "other", "heavy", teacher="tiny")


KILLED = """
import os, signal, sys
import numpy as np
from dataclasses import replace
from napari_biomedparse.learning import distill as module
from napari_biomedparse.networks import start
from napari_biomedparse.networks.config import TINY
from napari_biomedparse.training.options import FinetuneOptions

light = replace(TINY, backbone_widths=(4, 8, 16, 32), image_size=32)
module.ARCHITECTURES = start.ARCHITECTURES = {"light": light}
grey = np.random.default_rng(0).integers(0, 256, (10, 60, 44), np.uint8)

def kill(done, count):
    if done == 6:
        os.kill(os.getpid(), signal.SIGKILL)

module.distill(
    [grey], ["bright things", "a dark thing"], sys.argv[1], "light", teacher="tiny",
    device="cpu", on_target=kill,
    options=FinetuneOptions(epochs=2, batch_size=4, learning_rate=1e-3),
)
"""


def test_killed_while_the_teacher_speaks_it_goes_on(tmp_path: Path) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "killed")],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    asked: list[tuple[int, int]] = []
    how = {"teacher": "tiny", "device": "cpu", "options": OPTIONS}
    done = distill(
        [grey()], PROMPTS, tmp_path / "killed", "light", **how,
        on_target=lambda *step: asked.append(step),
    )  # fmt: skip
    assert asked == [(at, 10) for at in range(7, 11)]
    whole = distill([grey()], PROMPTS, tmp_path / "whole", "light", **how)
    first, second = (load_model(d.checkpoint).state_dict() for d in (done, whole))
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, msg=name)


def test_the_command_says_how_well_they_agree(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", grey(), photometric="minisblack")
    command = ["distill", str(tmp_path / "a.tif"), "-o", str(tmp_path / "out")]
    command += ["-p", PROMPTS[0], "-m", "tiny", "--student", "light", "--epochs", "1"]
    done = CliRunner().invoke(app, [*command, "--device", "cpu", "--modality", "none"])
    assert done.exit_code == 0, done.output
    assert "times as fast as the teacher" in done.output
    assert "agreement with the teacher" in done.output
