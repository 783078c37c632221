"""What is told while a network learns, and what is logged for TensorBoard."""

from __future__ import annotations

import csv
import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from training.data_folder import write_folder

from napari_biomedparse.training.finetune import finetune
from napari_biomedparse.training.folder import TENSORBOARD
from napari_biomedparse.training.options import FinetuneOptions
from napari_biomedparse.training.progress import Finetuned, Progress

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
    expected = [0, *range(1, epoch + 1), epoch, *range(epoch + 1, steps + 1), steps]
    assert [now.step for now in seen] == expected
    assert np.isnan(seen[0].loss) and not any(np.isnan(now.loss) for now in seen[1:])
    first, later = seen[: epoch + 1], seen[epoch + 1 :]
    assert all(now.val_loss and now.val_dice is not None for now in seen)
    assert len({now.val_loss for now in first}) == 1
    assert len({now.val_loss for now in later}) == 2


def test_the_untouched_model_is_the_line_before_the_first_epoch(
    tmp_path: Path,
) -> None:
    data, out = write_folder(tmp_path / "data"), tmp_path / "out"
    seen: list[Progress] = []

    def stop() -> bool:
        return seen[-1].step == seen[-1].steps // 2 + 1

    cut = finetune(
        data, out, "tiny", OPTIONS, device="cpu", on_progress=seen.append, stop=stop
    )
    whole = finetune(data, out, "tiny", OPTIONS, device="cpu")
    other = finetune(data, tmp_path / "other", "tiny", OPTIONS, device="cpu")
    with (out / "log.csv").open(encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["-1", "0", "1"]
    assert rows[0]["loss"] == "" and rows[0]["step"] == "0"
    assert float(rows[0]["val_loss"]) == pytest.approx(seen[0].val_loss, rel=1e-4)
    assert cut.before == whole.before == other.before
    assert cut.before == {"val_loss": seen[0].val_loss, "val_dice": seen[0].val_dice}
    assert (out / "log.csv").read_bytes() == (
        tmp_path / "other" / "log.csv"
    ).read_bytes()
    again = finetune(data, out, "tiny", OPTIONS, device="cpu")
    assert again == whole


@pytest.mark.parametrize(
    ("before", "best", "said"),
    [
        (
            {"val_dice": 0.5},
            {"val_dice": 0.75},
            "It helped: held-out Dice 0.500 before",
        ),
        ({"val_dice": 0.5}, {"val_dice": 0.5}, "It did not help"),
        ({}, {"val_dice": 0.5}, ""),
        ({}, {}, ""),
    ],
)
def test_whether_it_helped_is_told(
    before: dict[str, float], best: dict[str, float], said: str
) -> None:
    told = Finetuned(Path("finetuned.safetensors"), 3, best, "", before).gain
    assert told.startswith(said) and bool(told) is bool(said)


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
