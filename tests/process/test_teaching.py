"""Teaching in the model process: the same file as in Python, and labels without it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from discs import discs

from napari_biomedparse.data.options import SegmentOptions
from napari_biomedparse.data.prompts import parse_prompts
from napari_biomedparse.data.results import SegmentedSlices
from napari_biomedparse.data.volume import as_volume
from napari_biomedparse.errors import OptionError
from napari_biomedparse.learning.teach import teach
from napari_biomedparse.networks.weights import load_model
from napari_biomedparse.pipeline.segment import segment
from napari_biomedparse.process import Session
from napari_biomedparse.process.messages import (
    Learned,
    SegmentRequest,
    Status,
    TeachRequest,
)

PROMPTS = parse_prompts(["nuclei in light-sheet microscopy"])
CORRECTED = (2, 5)


@pytest.fixture(scope="module")
def volume() -> np.ndarray:
    """Return an image and its labels."""
    grey, found = discs()
    return np.stack([grey, found.astype(np.uint8)])


@pytest.fixture(scope="module")
def session() -> Any:
    session = Session()
    yield session
    session.close()


def labels_of(events: list[Any], shape: tuple[int, ...]) -> np.ndarray:
    labels = np.zeros(shape, np.uint8)
    for event in events:
        if isinstance(event, SegmentedSlices):
            labels[event.where] = event.labels
    return labels


@pytest.mark.parametrize("instance", [False, True])
def test_what_is_taught_is_that_of_python_and_labels_follow_without_the_network(
    volume: np.ndarray, session: Session, tmp_path: Path, instance: bool
) -> None:
    image, truth = volume
    options = SegmentOptions(instances=instance)
    prompts = replace(PROMPTS, instance=instance)
    common: dict[str, Any] = {
        "volume": as_volume(image),
        "prompts": prompts,
        "options": options,
        "device": "cpu",
    }
    run = session.start(SegmentRequest(model="demo", **common))
    plain = list(run)
    path = tmp_path / "mine.taught.safetensors"
    asked: dict[str, Any] = {
        "corrected": CORRECTED,
        "labels": truth[list(CORRECTED)].astype(np.int32),
        "output": path,
    }
    request = TeachRequest(model="demo", earlier=run.number, **asked, **common)
    events = list(session.start(request))
    (learned,) = [event for event in events if isinstance(event, Learned)]
    expected = teach(image, truth, prompts, "demo", options, corrected=CORRECTED)
    kept = expected.save(tmp_path / "python.taught.safetensors")
    assert learned.path == path
    assert learned.slices == CORRECTED
    assert learned.dice_taught[0] == expected.lessons[0].dice_taught > 0.8
    mine, theirs = load_model(path), load_model(kept)
    np.testing.assert_array_equal(mine.heads, theirs.heads)  # type: ignore[arg-type]
    again: dict[str, Any] = {"earlier": run.number, "again": True, "done": ((0, 7),)}
    run = session.start(SegmentRequest(model=str(path), **again, **common))
    better = list(run)
    assert not any("Loading" in e.text for e in better[:1] if isinstance(e, Status))
    want = segment(image, prompts, path, options, device="cpu")
    np.testing.assert_array_equal(labels_of(better, image.shape), want.labels)
    # Forget: the text's labels come back.
    back = {**again, "earlier": run.number}
    run = session.start(SegmentRequest(model="demo", **back, **common))
    plain_again = labels_of(list(run), image.shape)
    np.testing.assert_array_equal(plain_again, labels_of(plain, image.shape))
    assert (plain_again != want.labels).any()


def test_what_nobody_ran_is_computed_and_what_cannot_be_taught_is_told(
    volume: np.ndarray, session: Session, tmp_path: Path
) -> None:
    image, truth = volume
    asked: dict[str, Any] = {
        "volume": as_volume(image),
        "prompts": PROMPTS,
        "options": SegmentOptions(),
        "device": "cpu",
        "corrected": CORRECTED,
        "labels": truth[list(CORRECTED)].astype(np.int32),
        "output": tmp_path / "mine.taught.safetensors",
    }
    (learned,) = [
        event
        for event in session.start(TeachRequest(model="demo", **asked))
        if isinstance(event, Learned)
    ]
    assert learned.dice_taught[0] > 0.8
    taught = str(tmp_path / "mine.taught.safetensors")
    with pytest.raises(OptionError, match="taught already"):
        list(session.start(TeachRequest(model=taught, **asked)))
