"""What is written lasts: whole files or the old ones."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from napari_biomedparse.errors import OutputError
from napari_biomedparse.io import durable
from napari_biomedparse.io.durable import (
    atomic_write,
    check_place,
    is_zarr,
    sync_files,
    sync_folder,
    whole_or_nothing,
    write_durably,
    writing,
)


def test_a_text_is_written_whole(tmp_path: Path, synced: list[Path]) -> None:
    path = tmp_path / "a.json"
    for text in ("old\n", "nü\n"):
        write_durably(path, text)
        assert path.read_bytes() == text.encode()
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    first, folder = synced[:2]
    assert first.name.startswith("a.json.")
    assert first.suffix == durable.PARTIAL
    assert folder == tmp_path


def test_what_was_there_stays_if_writing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    write_durably(path, "old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(durable.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_durably(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path, synced: list[Path]) -> None:
    path = tmp_path / "a"
    for text in ("old", "new"):
        with atomic_write(path) as partial:
            (partial / "deep").mkdir(parents=True)
            (partial / "deep" / "b").write_text(text)
            assert not path.exists() or (path / "deep" / "b").read_text() == "old"
        assert (path / "deep" / "b").read_text() == text
        assert synced[0] == partial / "deep" / "b"
        assert synced[-1] == tmp_path
        synced.clear()
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_folder_that_cannot_take_its_place_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "labels.zarr"
    folder.mkdir()
    (folder / "old").write_text("old")

    def fail(self: Path, target: Path) -> None:
        raise PermissionError(13, "Permission denied", str(target))

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(PermissionError), atomic_write(folder) as partial:
        partial.mkdir()
    assert [path.name for path in tmp_path.iterdir()] == ["labels.zarr"]
    assert (folder / "old").read_text() == "old"


def test_a_folder_that_is_not_finished_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.mkdir()
    with pytest.raises(ZeroDivisionError), atomic_write(path) as partial:
        partial.mkdir()
        (partial / "b").write_text("half")
        raise ZeroDivisionError
    assert [p.name for p in tmp_path.rglob("*")] == ["a"]


def test_errors_that_say_what_to_do_pass_unchanged(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"^mine$"), writing(tmp_path):
        raise OutputError("mine")
    with pytest.raises(OutputError, match="No space left"), writing(tmp_path):
        raise OSError(28, "No space left on device")


def test_files_and_their_folders_are_waited_for(
    tmp_path: Path, synced: list[Path]
) -> None:
    (tmp_path / "b").mkdir()
    files = [tmp_path / "a", tmp_path / "b" / "c", tmp_path / "b" / "d"]
    for file in files:
        file.write_text("x")
    sync_files([*files, tmp_path / "gone"])
    assert sorted(synced) == sorted([*files, tmp_path, tmp_path / "b"])
    assert files[0].read_text() == "x"


def test_folders_need_no_waiting_on_windows(
    tmp_path: Path, synced: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durable.sys, "platform", "win32")
    sync_folder(tmp_path)
    assert synced == []


@pytest.mark.parametrize("name", ["zarr.json", ".zgroup", ".zarray"])
def test_zarr_folders_are_told_from_chunks(tmp_path: Path, name: str) -> None:
    (tmp_path / "c").mkdir()
    assert not is_zarr(tmp_path)
    (tmp_path / name).write_text("{}")
    assert is_zarr(tmp_path)


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


@pytest.mark.parametrize("name", ["file/a.txt", "file/more/a.txt"])
def test_a_file_in_the_way_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="file is a file, not a folder"):
        check_place(tmp_path / name, overwrite=True)


def test_a_place_is_tried_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_place(tmp_path / f"{'ä' * 120}.tif", overwrite=False)
    assert list(tmp_path.iterdir()) == []

    def refuse(*_: Any) -> None:
        raise OSError(30, "Read-only file system")

    with pytest.raises(OutputError, match="cannot be written: File name too long"):
        check_place(tmp_path / f"{'a' * 300}.tif", overwrite=False)
    monkeypatch.setattr("pathlib.Path.write_bytes", refuse)
    with pytest.raises(OutputError, match="cannot be written: Read-only file system"):
        check_place(tmp_path / "a.tif", overwrite=False)


def test_inputs_are_never_replaced(tmp_path: Path) -> None:
    image, folder, link = (tmp_path / name for name in ("a.tif", "a.zarr", "link.tif"))
    image.write_text("x")
    (folder / "s0").mkdir(parents=True)
    (folder / "zarr.json").write_text("{}")
    link.symlink_to(image)
    hard = tmp_path / "hard.tif"
    hard.hardlink_to(image)
    slices = tmp_path / "slices"
    slices.mkdir()
    (slices / "1.tif").write_text("x")
    run = tmp_path / "run"
    (run / "labels.zarr").mkdir(parents=True)
    (run / "labels.zarr" / ".zgroup").write_text("{}")
    for path, given in (
        (image, image),
        (link, image),
        (hard, image),
        (slices / ".." / "a.tif", image),
        (image, tmp_path / "*.tif"),
        (folder, folder),
        (folder / "s0", folder),
        (run, run / "labels.zarr"),
        (slices / "1.tif", slices),
    ):
        with pytest.raises(OutputError, match="which is never replaced"):
            check_place(path, overwrite=True, inputs=[None, given])
    check_place(slices / "out.tif", overwrite=True, inputs=[slices, image])
