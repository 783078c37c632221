"""Fine-tuning in the real model process: progress, a checkpoint, and stopping."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from training.data_folder import write_folder

from napari_biomedparse.errors import VolumeError
from napari_biomedparse.networks.weights import load_model
from napari_biomedparse.process import RunHandle, Session
from napari_biomedparse.process.messages import FinetuneRequest, Status
from napari_biomedparse.training.options import FinetuneOptions
from napari_biomedparse.training.progress import Finetuned, Progress

OPTIONS = FinetuneOptions(epochs=2, batch_size=4, prompts=2, learning_rate=2e-3)


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    made = Session()
    yield made
    made.close()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("data"))


def finetune(
    session: Session, data: Path, tmp_path: Path, options: FinetuneOptions
) -> RunHandle:
    return session.start(
        FinetuneRequest(
            data=data,
            output=tmp_path / "out",
            checkpoint="tiny",
            options=options,
            device="cpu",
        )
    )


def test_progress_comes_and_then_a_checkpoint(
    session: Session, data: Path, tmp_path: Path
) -> None:
    run = finetune(session, data, tmp_path, OPTIONS)
    events = list(run)
    assert "Reading squares0 (1 of 3)…" in [
        event.text for event in events if isinstance(event, Status)
    ]
    trained = [event for event in events if isinstance(event, Progress)]
    assert trained[-1].step == trained[-1].steps and trained[-1].loss > 0
    steps = [event.step for event in trained]
    assert steps == sorted(steps) and trained[-1].val_dice is not None
    tuned = events[-1]
    assert isinstance(tuned, Finetuned) and tuned.step == trained[-1].step
    assert tuned.held_out.startswith("volumes squares") and tuned.best["val_loss"] > 0
    assert load_model(tuned.checkpoint)


def test_cancelled_it_ends_soon_with_what_it_has(
    session: Session, data: Path, tmp_path: Path
) -> None:
    long = FinetuneOptions(epochs=10_000, patience=10_000, batch_size=4)
    run = finetune(session, data, tmp_path, long)
    events = []
    for event in run:
        events.append(event)
        if isinstance(event, Progress):
            run.cancel()
    assert isinstance(events[-1], Finetuned) and events[-1].step < 100
    assert load_model(events[-1].checkpoint)


def test_bad_data_are_named(session: Session, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "data", 1)
    (folder / "images" / "squares0.tif").write_bytes(b"damaged")
    run = finetune(session, folder, tmp_path, OPTIONS)
    with pytest.raises(VolumeError, match="1 of 1 cases cannot be used"):
        list(run)
