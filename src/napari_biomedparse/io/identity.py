"""Identify a volume, so that a run is not resumed with another one."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_biomedparse.errors import FormatError
from napari_biomedparse.io.durable import is_zarr
from napari_biomedparse.io.inputs import stack_files
from napari_biomedparse.io.lazy import read_windows

if TYPE_CHECKING:
    from napari_biomedparse.data.volume import Volume

SAMPLES = 3
"""Number of slices that are sampled in a lazy volume."""
SAMPLE_EDGE = 64
"""Rows and columns of a sample."""
_FILE_KEYS = ("bytes", "changed", "files", "metadata")
STATES = (*_FILE_KEYS, "chunks")
"""Keys of a volume's identity that may differ while its voxels are the same."""
_ZARR_METADATA = ("zarr.json", ".zgroup", ".zarray", ".zattrs")


def identify(volume: Volume, sampled: str = "") -> dict[str, Any]:
    """Describe a volume in plain JSON types, so that it differs from all others.

    Beside path, shape and scale there are size and modification time of a file, or a
    checksum of these for a stack of files, or one of the metadata of a Zarr folder; and
    a checksum of the voxels: all of an array in memory, three small windows of a volume
    on disk, or `sampled`, the checksum of voxels read earlier.
    """
    path = None if volume.source is None else volume.source.absolute()
    found: dict[str, Any] = {
        "path": None if path is None else str(path),
        "axes": list(volume.axes),
        "shape": list(volume.shape),
        "dtype": str(volume.dtype),
        "spacing": list(volume.spacing),
        "units": list(volume.units),
        "origin": list(volume.origin),
        "voxels": _checksum(volume, sampled),
    }
    if volume.matrix is not None:
        found["matrix"] = [list(row) for row in volume.matrix]
    return found if path is None else found | _on_disk(path)


def chunk_states(volume: Volume) -> dict[str, str]:
    """Return a checksum of names, sizes and times of a Zarr folder's files, if any."""
    path = volume.source
    if path is None or not is_zarr(path):
        return {}
    digest = hashlib.sha256()
    for folder, folders, files in os.walk(path):
        folders[:] = sorted(set(folders) - {"labels"})
        digest.update(os.fsencode(folder.removeprefix(str(path))))
        for name in sorted(files):
            state = os.stat(f"{folder}/{name}")
            told = f"/{state.st_size}/{state.st_mtime_ns}\n"
            digest.update(os.fsencode(name) + told.encode())
    return {"chunks": digest.hexdigest()[:16]}


def states(volume: Volume) -> dict[str, Any]:
    """Return sizes and times of the files of a volume, or checksums of these."""
    path = volume.source
    return {} if path is None else _on_disk(path.absolute()) | chunk_states(volume)


def check_unchanged(volume: Volume, known: Mapping[str, Any]) -> None:
    """Raise `FormatError` if a volume's files changed or disappeared while it was read.

    A Zarr folder whose disk is lost reads as if it were empty. `known` is the result
    of `identify`.
    """
    if volume.source is None:
        return
    path = volume.source.absolute()
    found = _on_disk(path)
    if any(known.get(key) != found.get(key) for key in _FILE_KEYS):
        what = "changed" if path.exists() else "disappeared"
        raise FormatError(
            f"{path} {what} while it was being read. Finished blocks are kept: restore "
            "it as it was, and run the same again to continue."
        )


def _on_disk(path: Path) -> dict[str, Any]:
    """Return what identifies files, without reading voxels."""
    if path.is_file():
        status = path.stat()
        return {"bytes": status.st_size, "changed": status.st_mtime_ns}
    if files := stack_files(path):
        return {"files": _digest(_file_states(files))}
    return {"metadata": _digest(_zarr_metadata(path))} if path.is_dir() else {}


def _checksum(volume: Volume, sampled: str) -> str:
    if isinstance(volume.data, np.ndarray):
        return _digest(np.ascontiguousarray(plane).data for plane in volume.data)
    if sampled:
        return sampled
    depth, *others = volume.grid
    edges = [1] * (len(others) - 2) + [SAMPLE_EDGE] * 2
    window = tuple(
        slice((n - min(n, edge)) // 2, (n + min(n, edge)) // 2)
        for n, edge in zip(others, edges, strict=True)
    )
    places = sorted({i * (depth - 1) // (SAMPLES - 1) for i in range(SAMPLES)})
    windows = [(slice(at, at + 1), *window) for at in places]
    parts = read_windows(volume.data, windows)
    return _digest(np.ascontiguousarray(part).data for part in parts)


def _file_states(files: Iterable[Path]) -> Iterator[bytes]:
    """Yield the names, sizes and modification times of files."""
    for file in files:
        status = file.stat()
        yield f"{file.name} {status.st_size} {status.st_mtime_ns}\n".encode()


def _zarr_metadata(folder: Path) -> Iterator[bytes]:
    """Yield the metadata of a Zarr folder and of its children."""
    children = sorted(path for path in folder.iterdir() if path.is_dir())
    for place in (folder, *children):
        for name in _ZARR_METADATA:
            if (place / name).is_file():
                yield f"{place.relative_to(folder)}/{name}\n".encode()
                yield (place / name).read_bytes()


def _digest(parts: Iterable[bytes | memoryview]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:16]
