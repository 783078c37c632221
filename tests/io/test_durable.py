"""What is written lasts: whole files or the old ones."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from napari_biomedparse.io import durable
from napari_biomedparse.io.durable import (
    SyncedStore,
    is_zarr,
    sync_files,
    sync_folder,
    write_durably,
)


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Files and folders that were waited for."""
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("which file is open is asked of Linux")
    found: list[Path] = []
    fsync = os.fsync

    def noting(descriptor: int) -> None:
        found.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        fsync(descriptor)

    monkeypatch.setattr(durable.os, "fsync", noting)
    return found


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


def test_a_store_waits_for_what_was_written_since(
    tmp_path: Path, synced: list[Path]
) -> None:
    root = tmp_path / "a.zarr"
    store = SyncedStore(root)
    group = zarr.create_group(store=store)
    array: Any = group.create_array("x", shape=(4,), chunks=(2,), dtype="u1")
    store.sync()
    assert {root / "zarr.json", root / "x" / "zarr.json"} <= set(synced)
    synced.clear()
    array[2:] = np.ones(2, np.uint8)
    store.sync()
    assert sorted(synced) == sorted([root / "x" / "c" / "1", root / "x" / "c"])
    synced.clear()
    store.sync()
    assert synced == []
    assert not store.read_only
    assert SyncedStore(root, read_only=True).read_only
    asyncio.run(store.delete("x/c/1"))


@pytest.mark.parametrize("name", ["zarr.json", ".zgroup", ".zarray"])
def test_zarr_folders_are_told_from_chunks(tmp_path: Path, name: str) -> None:
    (tmp_path / "c").mkdir()
    assert not is_zarr(tmp_path)
    (tmp_path / name).write_text("{}")
    assert is_zarr(tmp_path)
