"""Labels on disk as an array: reads and writes as numpy does, and is locked."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from filelock import FileLock

from napari_biomedparse.data.prompts import parse_prompts
from napari_biomedparse.data.volume import as_volume
from napari_biomedparse.errors import OutputError
from napari_biomedparse.io.formats.ome_labels import Layout, create_labels
from napari_biomedparse.io.painting import LOCK, PaintableLabels, recover

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
