"""From corrected slices to a model that finds more, and never less."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from napari_biomedparse.errors import OptionError, OutputError, VolumeError
from napari_biomedparse.learning.teach import Taught, teach
from napari_biomedparse.networks.network import Network
from napari_biomedparse.networks.weights import load_model, model_identity
from napari_biomedparse.pipeline.segment import segment

PROMPT = "nuclei in light-sheet microscopy"
CORRECTED = (2, 6)


@pytest.fixture(scope="module")
def demo() -> Network:
    return load_model("demo")


@pytest.fixture(scope="module")
def volume() -> np.ndarray:
    """Dark rings on a bright, noisy ground, which no text describes."""
    rng = np.random.default_rng(0)
    z, y, x = np.ogrid[:9, :96, :120]
    distance = np.full((9, 96, 120), 99.0)
    for cy, cx in rng.uniform(12, 84, (9, 2)):
        distance = np.minimum(distance, np.hypot(y - cy, x - cx - z * 0.2))
    rings = (distance > 5) & (distance < 9)
    grey = 170 - 70 * rings + rng.normal(0, 15, rings.shape)
    return np.stack([grey.clip(0, 255).astype(np.uint8), rings.astype(np.uint8)])


@pytest.fixture(scope="module")
def taught(volume: np.ndarray, demo: Network) -> Taught:
    return teach(volume[0], volume[1], PROMPT, demo, corrected=CORRECTED)


def dice(found: np.ndarray, truth: np.ndarray) -> float:
    return float(2 * (found & truth).sum() / (found.sum() + truth.sum()))


def test_slices_that_were_not_corrected_become_better(
    volume: np.ndarray, demo: Network, taught: Taught
) -> None:
    others = [z for z in range(9) if z not in CORRECTED]
    truth = volume[1][others] > 0
    before = segment(volume[0], PROMPT, demo).labels[others] > 0
    after = segment(volume[0], PROMPT, taught.network).labels[others] > 0
    (lesson,) = taught.lessons
    assert lesson.helps
    assert dice(before, truth) < 0.5
    assert dice(after, truth) > 0.85
    assert abs(lesson.dice_taught - dice(after, truth)) < 0.1


def test_corrected_slices_are_by_default_those_with_a_label(
    volume: np.ndarray, demo: Network, taught: Taught
) -> None:
    labels = np.zeros_like(volume[1])
    labels[list(CORRECTED)] = volume[1][list(CORRECTED)]
    again = teach(volume[0], labels, PROMPT, demo)
    assert again.slices == CORRECTED
    assert torch.equal(again.network.heads, taught.network.heads)


def test_what_cannot_be_learned_leaves_the_text_alone(
    volume: np.ndarray, demo: Network
) -> None:
    labels = volume[1] * 0
    labels[8] = 1  # which is not among the corrected slices
    found = teach(volume[0], labels, PROMPT, demo, corrected=[1, 4, 7])
    assert not found.lessons[0].helps
    assert found.network.texts == ()
    plain = segment(volume[0], PROMPT, demo)
    same = segment(volume[0], PROMPT, found.network)
    np.testing.assert_array_equal(same.labels, plain.labels)
    np.testing.assert_array_equal(same.existence, plain.existence)
    assert plain.existence.min() > 0


def test_a_file_gives_the_same_labels_also_in_tiles(
    volume: np.ndarray, taught: Taught, tmp_path: Path
) -> None:
    path = taught.save(tmp_path / "rings.taught.safetensors")
    assert path.stat().st_size < 2**20
    found = segment(volume[0], PROMPT, path, tile=96)
    again = segment(volume[0], PROMPT, taught.network, tile=96)
    np.testing.assert_array_equal(found.labels, again.labels)
    assert found.parameters["model"] == model_identity(path)
    with pytest.raises(OutputError, match="exists"):
        taught.save(path)
    with pytest.raises(OptionError, match="must end in"):
        taught.save(tmp_path / "rings.safetensors")


def test_mistakes_are_named(volume: np.ndarray, demo: Network, taught: Taught) -> None:
    image, labels = volume
    with pytest.raises(VolumeError, match="must be equal"):
        teach(image, labels[1:], PROMPT, demo)
    with pytest.raises(OptionError, match="empty"):
        teach(image, labels * 0, PROMPT, demo)
    with pytest.raises(OptionError, match="from 0 to 8"):
        teach(image, labels, PROMPT, demo, corrected=[9])
    with pytest.raises(OptionError, match="taught already"):
        teach(image, labels, PROMPT, taught.network)
