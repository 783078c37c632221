"""The store in which labels are written durably."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from napari_biomedparse.io.painting import SyncedStore


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
