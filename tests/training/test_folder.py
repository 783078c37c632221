"""A training's folder: what it is of, and a log that is whole."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from training.data_folder import arrays, write_case, write_folder

from napari_biomedparse.errors import OutputError
from napari_biomedparse.training.cases import load_cases
from napari_biomedparse.training.folder import (
    LOG,
    describe_training,
    open_training,
    save_training,
    write_log,
)
from napari_biomedparse.training.losses import Losses
from napari_biomedparse.training.options import FinetuneOptions
from napari_biomedparse.training.slices import split
from napari_biomedparse.training.volumes import TrainingVolume
from napari_biomedparse.training.wordings import Wordings


def facts(model: Any, *volumes: TrainingVolume) -> dict[str, str]:
    parts = split(volumes, 0.2, 0)
    return describe_training(model, "tiny", volumes, parts, FinetuneOptions())


def test_a_finished_training_is_found_again_and_another_refused(tmp_path: Path) -> None:
    known = {"data": "a", "content": "1"}
    assert open_training(tmp_path, known) is None
    assert open_training(tmp_path, known) is None
    save_training(tmp_path, known, {"step": 3})
    assert open_training(tmp_path, known) == {"step": 3}
    with pytest.raises(OutputError, match=r"which differs in content\. Choose another"):
        open_training(tmp_path, known | {"content": "2"})


@pytest.mark.parametrize("content", ["{", "[]", '{"facts": 3, "finished": null}'])
def test_a_damaged_record_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content, "utf-8")
    with pytest.raises(OutputError, match=r"run\.json is damaged"):
        open_training(tmp_path, {"data": "a"})


def test_corrected_labels_are_other_content(tiny_model: Any, tmp_path: Path) -> None:
    image, labels = arrays(0)
    wordings = Wordings({1: ("a",), 2: ("b",)})
    one = TrainingVolume("layer", "layer", image, labels, wordings, (0,))
    before = facts(tiny_model, one)
    assert facts(tiny_model, replace(one, labels=labels.copy())) == before
    corrected = labels.copy()
    corrected[5, 5, 5] = 2
    for other in (
        replace(one, labels=corrected),
        replace(one, reviewed=(2, 3, 4)),
        replace(one, image=np.ascontiguousarray(image[:, ::-1])),
    ):
        assert facts(tiny_model, other)["content"] != before["content"]

    folder = write_folder(tmp_path / "data", 1)
    kept = facts(tiny_model, *load_cases(folder, tmp_path / "cache"))
    assert facts(tiny_model, *load_cases(folder, tmp_path / "cache")) == kept
    write_case(folder, "squares0", image, corrected)
    again = facts(tiny_model, *load_cases(folder, tmp_path / "cache"))
    assert {k for k in kept if kept[k] != again[k]} == {"content"}


def test_the_log_is_a_table_with_gaps(tmp_path: Path) -> None:
    rows = [
        {"epoch": 0, "step": 2, "loss": 0.5},
        {"epoch": 1, "step": 4, "loss": 1 / 3},
    ]
    better = rows[1] | {"val_loss": 0.25, "val_dice": 0.75}
    write_log(tmp_path, [rows[0], better], Losses._fields)
    head, first, second = (tmp_path / LOG).read_text("utf-8").splitlines()
    assert head.startswith("epoch,step,loss,") and head.endswith("val_loss,val_dice")
    assert first.startswith("0,2,0.5,") and first.endswith(",,")
    assert second.startswith("1,4,0.333333,") and second.endswith(",0.25,0.75")


def test_weights_of_something_else_are_kept(tmp_path: Path) -> None:
    (tmp_path / "finetuned.safetensors").write_text("precious")
    with pytest.raises(OutputError, match=r"holds finetuned\.safetensors of something"):
        open_training(tmp_path, {"data": "a"})
    assert [path.read_text() for path in tmp_path.iterdir()] == ["precious"]
