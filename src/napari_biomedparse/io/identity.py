"""Identify a volume, so that a run is not resumed with another one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_biomedparse.errors import FormatError
from napari_biomedparse.io.inputs import stack_files
from napari_biomedparse.io.lazy import read_windows

if TYPE_CHECKING:
    from napari_biomedparse.data.volume import Volume

SAMPLES = 3
"""Number of slices that are sampled in a lazy volume."""
SAMPLE_EDGE = 64
"""Rows and columns of a sample."""
_FILE_KEYS = ("bytes", "changed", "files", "metadata")
_ZARR_METADATA = ("zarr.json", ".zgroup", ".zarray", ".zattrs")


def identify(volume: Volume, sampled: str = "") -> dict[str, Any]:
    """Describe a volume so that it can be distinguished from others.

    Parameters
    ----------
    sampled : str
        Checksum of voxels read earlier; used instead of reading a volume on disk.

    Returns
    -------
    dict
        Plain JSON types: path, axes, shape, dtype, spacing, units, origin; size and
        modification time of a file, or a checksum of these for a stack of files, or a
        checksum of the metadata of a Zarr folder; and a checksum of the voxels: all of
        an array in memory, three small windows of a volume on disk, or `sampled`.
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
    return found if path is None else found | _on_disk(path)


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
        return {"files": _files_checksum(files)}
    return {"metadata": _zarr_checksum(path)} if path.is_dir() else {}


def _checksum(volume: Volume, sampled: str) -> str:
    digest = hashlib.sha256()
    if isinstance(volume.data, np.ndarray):
        for plane in volume.data:
            digest.update(np.ascontiguousarray(plane).data)
        return digest.hexdigest()[:16]
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
    for part in read_windows(volume.data, windows):
        digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()[:16]


def _files_checksum(files: Iterable[Path]) -> str:
    """Compute a checksum of the names, sizes and modification times of files."""
    digest = hashlib.sha256()
    for file in files:
        status = file.stat()
        line = f"{file.name} {status.st_size} {status.st_mtime_ns}\n"
        digest.update(line.encode())
    return digest.hexdigest()[:16]


def _zarr_checksum(folder: Path) -> str:
    """Compute a checksum of the metadata of a Zarr folder and of its children."""
    digest = hashlib.sha256()
    children = sorted(path for path in folder.iterdir() if path.is_dir())
    for place in (folder, *children):
        for name in _ZARR_METADATA:
            if (place / name).is_file():
                digest.update(f"{place.relative_to(folder)}/{name}\n".encode())
                digest.update((place / name).read_bytes())
    return digest.hexdigest()[:16]
