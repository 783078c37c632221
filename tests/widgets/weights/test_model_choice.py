"""The choice of a model: what is recalled from another session."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import save_file

from napari_biomedparse.networks.weights import is_fine_tuned
from napari_biomedparse.widgets.weights.model_choice import ModelChoice


def weights(path, **metadata):
    save_file({"w": np.zeros(1)}, path, metadata or None)
    return str(path)


def test_a_fine_tuned_model_is_offered_again_but_not_chosen(qapp, tmp_path):
    tuned = weights(tmp_path / "tuned.safetensors", best="{}")
    plain = weights(tmp_path / "plain.safetensors")
    assert is_fine_tuned(tuned) and not is_fine_tuned(plain)
    choice = ModelChoice()
    choice.choose("demo")
    choice.recall(tuned)
    assert choice.value == "demo" and tuned in choice.choices
    choice.recall(plain)
    assert choice.value == plain
    choice.recall("tiny")
    assert choice.value == "tiny"
    with pytest.raises(ValueError, match="no model"):
        choice.recall(str(tmp_path / "gone.safetensors"))


def test_other_files_are_not_fine_tuned(tmp_path):
    other = tmp_path / "weights.ckpt"
    other.write_bytes(b"not of this kind")
    assert not is_fine_tuned(other) and not is_fine_tuned(tmp_path / "gone")
