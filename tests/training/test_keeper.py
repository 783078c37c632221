"""What is told while a network learns, and what is logged for TensorBoard."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
from training.data_folder import write_folder

from napari_biomedparse.training.finetune import finetune
from napari_biomedparse.training.folder import TENSORBOARD
from napari_biomedparse.training.options import FinetuneOptions
from napari_biomedparse.training.progress import Progress

OPTIONS = FinetuneOptions(epochs=2, batch_size=4, prompts=2, learning_rate=2e-3)


def test_held_out_scores_are_told_once_they_are_measured(tmp_path: Path) -> None:
    seen: list[Progress] = []
    finetune(
        write_folder(tmp_path / "data"),
        tmp_path / "out",
        "tiny",
        OPTIONS,
        device="cpu",
        on_progress=seen.append,
    )
    steps = seen[-1].steps
    epoch = steps // 2
    expected = [*range(1, epoch + 1), epoch, *range(epoch + 1, steps + 1), steps]
    assert [now.step for now in seen] == expected
    first, later = seen[:epoch], seen[epoch:]
    assert all(now.val_loss is now.val_dice is None for now in first)
    assert all(now.val_loss and now.val_dice is not None for now in later)
    assert len({now.val_loss for now in later}) == 2


@pytest.mark.parametrize("installed", [True, False])
def test_tensorboard_is_served_where_it_is_installed(
    installed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if installed:
        pytest.importorskip("tensorboard")
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "napari_biomedparse.training.fit.find_spec",
        lambda name: find(name) if installed else None,
    )
    folder = write_folder(tmp_path / "data")
    short = replace(OPTIONS, epochs=1)
    finetune(folder, tmp_path / "out", "tiny", short, device="cpu")
    written = list((tmp_path / "out").glob(f"{TENSORBOARD}/events*"))
    assert bool(written) is installed
