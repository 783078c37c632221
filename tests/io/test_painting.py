"""Labels on disk as an array: reads and writes as numpy does, and is locked."""

from __future__ import annotations

import os
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from filelock import FileLock

from napari_biomedparse.data.prompts import parse_prompts
from napari_biomedparse.data.volume import as_volume
from napari_biomedparse.errors import FormatError, OutputError
from napari_biomedparse.io import painting
from napari_biomedparse.io.formats.ome_labels import LabelStore, Layout, create_labels
from napari_biomedparse.io.painting import (
    LOCK,
    Journal,
    PaintableLabels,
    accepted_of,
    accepted_slices,
    recover,
)

SHAPE = (20, 300, 520)
POINTS = (np.array([1, 19]), np.array([2, 299]), np.array([-1, 3]))
KEYS: list[Any] = [
    (3,),
    (slice(None, None, -2), 5, slice(3, 9)),
    (..., 4),
    (3, ..., slice(-5, None)),
    (-1, -1, -1),
    (slice(4, 4), slice(None), 3),
    POINTS,
    (slice(0, 18), slice(250, 270), slice(250, 300)),
]


@pytest.fixture(params=["0.4", "0.5"])
def image(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    layout = Layout(SHAPE, np.dtype(np.uint8), 0, 16, request.param)
    volume = as_volume(np.zeros(SHAPE, np.uint8))
    create_labels(tmp_path / "labels.ome.zarr", layout, volume, parse_prompts("a"))
    return tmp_path / "labels.ome.zarr"


def test_it_is_indexed_as_numpy_arrays_are(image: Path) -> None:
    labels, plain = PaintableLabels(image), np.zeros(SHAPE, np.uint8)
    for number, key in enumerate(KEYS, 1):
        labels[key] = plain[key] = number
        np.testing.assert_array_equal(labels[key], plain[key])
    mask = plain == 8
    labels[mask] = plain[mask] = 77
    np.testing.assert_array_equal(labels, plain)
    np.testing.assert_array_equal(labels[7], plain[7])
    assert labels[7].dtype == np.uint8
    labels.flush()
    stored: Any = zarr.open(str(image))
    np.testing.assert_array_equal(stored["s0"][:], plain)
    np.testing.assert_array_equal(stored["s1"][:], plain[:, ::2, ::2])
    for key in ((20, 0, 0), (0, 0, 0, 0)):
        with pytest.raises((IndexError, ValueError)):
            labels[key]


def test_a_copy_is_in_memory(image: Path) -> None:
    labels = PaintableLabels(image)
    copy = deepcopy(labels)
    copy[0, 0, 0] = 3
    assert isinstance(copy, np.ndarray)
    assert labels[0, 0, 0] == 0


def test_axes_are_shown_as_wanted(image: Path) -> None:
    labels = PaintableLabels(image, lambda array: array[:, None])
    assert labels.shape == (20, 1, 300, 520)
    labels[3, 0, 5:7, 8] = 4
    labels.flush()
    assert PaintableLabels(image)[3, 5, 8] == 4
    assert np.count_nonzero(labels) == 2


def test_nobody_else_writes_meanwhile(image: Path) -> None:
    labels = PaintableLabels(image)
    with FileLock(image.parent / LOCK):
        with pytest.raises(OutputError, match="being written by another process"):
            labels[0] = 1
        assert not labels[0, 0].any()
    labels[0] = 1
    labels.flush()
    with FileLock(image.parent / LOCK, timeout=0):  # released
        pass


def test_strokes_of_a_crash_are_recovered(image: Path) -> None:
    labels = PaintableLabels(image)
    labels[0, :5, :5] = 1
    labels.flush()
    before = {path: path.read_bytes() for path in image.rglob("*") if path.is_file()}
    labels[0, :9, :9] = 2
    labels.flush()
    journal = image.parent / "edits" / image.name
    journal.write_bytes(journal.read_bytes()[:-28])  # the mark that they were written
    for path, data in before.items():
        path.write_bytes(data)
    recover(image)
    stored: Any = zarr.open(str(image))
    assert (stored["s0"][0, :9, :9] == 2).all()
    assert np.count_nonzero(stored["s0"][:]) == 81
    at = journal.stat().st_size
    recover(image)
    assert journal.stat().st_size == at


def test_two_painters_keep_the_strokes_of_both(image: Path) -> None:
    one, other = PaintableLabels(image), PaintableLabels(image)
    one[0, 0, 0] = 1
    one.flush()
    stored: Any = zarr.open(str(image), mode="r+")
    stored["s0"][0, 0, 0] = 0  # as if killed before it was written
    journal = image.parent / "edits" / image.name
    journal.write_bytes(journal.read_bytes()[:-28])
    other[0, 0, 1] = 2
    other.flush()
    assert stored["s0"][0, 0, :2].tolist() == [1, 2]
    assert one[0, 0, :2].tolist() == [1, 2]


def test_accepted_slices_are_kept_beside_the_strokes(image: Path) -> None:
    labels = PaintableLabels(image)
    labels[3, :9, :9] = 2
    labels.accept({0: [3, 4], 1: [7]})
    labels[4, 0, 0] = 5  # by the brush
    labels.flush()
    again = PaintableLabels(image, lambda array: array[:, None])
    assert again.accepted == {0: [3, 4], 2: [7]}
    layout = Layout(SHAPE, np.dtype(np.uint8), 0, 16, "0.5")
    store = LabelStore(image, layout)
    written = store.write(0, np.full((16, *SHAPE[1:]), 9, np.uint8))
    expected = np.full((16, *SHAPE[1:]), 9)
    expected[3], expected[4], expected[:, 7] = 0, 0, 0
    expected[3, :9, :9], expected[4, 0, 0] = 2, 5
    np.testing.assert_array_equal(written, expected)
    before = store.as_written(0, 16, 0)
    assert not before[3:5].any() and (before[:3, 8:] == 9).all()
    again.accept({0: [4]})
    assert PaintableLabels(image).accepted == {0: [4]}
    assert accepted_slices(image) == 1
    assert store.journal.count() == 82


def test_a_single_image_is_accepted_as_one_slice(tmp_path: Path) -> None:
    layout = Layout((1, 30, 40), np.dtype(np.uint8), 0, 1, "0.5")
    volume = as_volume(np.zeros((30, 40), np.uint8))
    path = tmp_path / "labels.ome.zarr"
    create_labels(path, layout, volume, parse_prompts("a"))
    labels = PaintableLabels(path, lambda array: array[0])
    labels.accept({0: [0]})
    labels.flush()
    assert PaintableLabels(path, lambda array: array[0]).accepted == {0: [0]}
    written = LabelStore(path, layout).write(0, np.ones((1, 30, 40), np.uint8))
    assert not written.any()


@pytest.mark.parametrize(
    "text",
    ["", "[3]", '{"0": [20]}', '{"0": [-1]}', '{"7": [0]}', '{"0": 3}', "[" * 9999],
)
def test_a_strangers_accepted_slices_are_refused(image: Path, text: str) -> None:
    (image.parent / "edits").mkdir()
    accepted_of(image).write_text(text)
    with pytest.raises(FormatError, match="does not fit the labels beside it"):
        _ = PaintableLabels(image).accepted


def test_a_long_journal_is_shortened_on_opening(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels, plain = PaintableLabels(image), np.zeros(SHAPE, np.uint8)
    for number in range(400):
        where = number % 3, slice(50), slice(number % 250)
        labels[where] = plain[where] = number % 7
    labels.flush()
    journal = image.parent / "edits" / image.name
    size, end = journal.stat().st_size, labels._journal.end
    (journal.parent / "killed.partial").write_bytes(b"x")
    monkeypatch.setattr(painting, "_LONG", 1000)
    with FileLock(image.parent / LOCK):  # somebody writes, who may shorten it
        other = PaintableLabels(image)
        other.flush()
        assert journal.stat().st_size == size
    again = PaintableLabels(image)
    again.flush()
    assert journal.stat().st_size < size / 2
    assert os.listdir(journal.parent) == [journal.name]
    other[0, 299, 0] = labels[1, 299, 0] = plain[0, 299, 0] = plain[1, 299, 0] = 7
    other.flush()
    labels.flush()
    again.flush()
    np.testing.assert_array_equal(PaintableLabels(image), plain)
    assert Journal(image, SHAPE, np.uint8, labels._journal.chunks).end > end
