from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import pytest

from napari_biomedparse.data.prompts import PromptSet, parse_prompts
from napari_biomedparse.errors import OutputError, VolumeError
from napari_biomedparse.io.output import (
    fit,
    label_colour,
    label_dtype,
    whole_or_nothing,
)

if TYPE_CHECKING:
    from pathlib import Path


def _write(path: Path, text: str, *, overwrite: bool = False) -> None:
    with whole_or_nothing(path, overwrite=overwrite) as temporary:
        temporary.write_text(text)
        assert not path.exists() or overwrite


def test_the_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    _write(tmp_path / "a.txt", "first")
    assert (tmp_path / "a.txt").read_text() == "first"
    with pytest.raises(OutputError, match="exists already"):
        _write(tmp_path / "a.txt", "second")
    _write(tmp_path / "a.txt", "third", overwrite=True)
    assert (tmp_path / "a.txt").read_text() == "third"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    _write(tmp_path / "a.txt", "first")
    with (
        pytest.raises(ZeroDivisionError),
        whole_or_nothing(tmp_path / "a.txt", overwrite=True) as temporary,
    ):
        temporary.write_text("half")
        raise ZeroDivisionError
    assert (tmp_path / "a.txt").read_text() == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_full_disk(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match=r"a\.txt cannot be written: No space left"),
        whole_or_nothing(tmp_path / "a.txt", overwrite=False),
    ):
        raise OSError(28, os.strerror(28))
    assert list(tmp_path.iterdir()) == []


def test_only_a_zarr_folder_is_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "a.zarr"
    folder.mkdir()
    (folder / "thesis.txt").write_text("precious")
    with pytest.raises(OutputError, match="folder of other files"):
        _write(folder, "x", overwrite=True)
    (folder / "zarr.json").write_text("{}")
    with whole_or_nothing(folder, overwrite=True) as temporary:
        temporary.mkdir()
    assert list(folder.iterdir()) == []


def test_places_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(OutputError, match="does not exist; create it first"):
        _write(tmp_path / "no" / "a.txt", "x")

    def refuse(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.replace", refuse)
    with pytest.raises(OutputError, match="cannot be written: Permission denied"):
        _write(tmp_path / "a.txt", "x")


ZERO = np.zeros((2, 2, 2), np.int64)


@pytest.mark.parametrize(
    ("labels", "dtype"),
    [(ZERO + 1, "u1"), (ZERO + 256, "u2"), (ZERO + 70000, "u4"), (ZERO > 0, "u1")],
)
def test_numpy_labels_get_the_smallest_type(labels: Any, dtype: str) -> None:
    assert label_dtype(labels, None) == dtype


def test_the_type_of_lazy_labels_follows_from_the_prompts() -> None:
    lazy: Any = da.from_array(ZERO.astype(np.int32))
    semantic = parse_prompts({300: "a"})
    assert label_dtype(lazy, parse_prompts("a")) == np.uint8
    assert label_dtype(lazy, semantic) == np.uint16
    assert label_dtype(lazy, PromptSet(semantic.prompts, instance=True)) == np.uint32
    assert label_dtype(lazy, None) == np.uint32


def test_labels_must_be_whole_numbers_that_fit() -> None:
    with pytest.raises(VolumeError, match="convert them to integers"):
        label_dtype(np.zeros((1, 1, 1)), None)
    with pytest.raises(VolumeError, match="value -1"):
        fit(ZERO - 1, np.dtype("u1"))
    with pytest.raises(VolumeError, match="value 256"):
        fit(ZERO + 256, np.dtype("u1"))
    assert fit(ZERO + 255, np.dtype("u1")).dtype == np.uint8
    assert fit(ZERO[:0], np.dtype("u1")).size == 0


def test_colours_differ_and_are_stable() -> None:
    colours = [label_colour(i) for i in range(1, 65)]
    assert len(set(colours)) == 64
    assert all(len(c) == 4 and c[3] == 255 for c in colours)
    assert label_colour(1) == colours[0]
