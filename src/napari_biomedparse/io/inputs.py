"""Recognise and find files, match them by name, and tell whether one has changed."""

from __future__ import annotations

import glob
import gzip
import hashlib
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from napari_biomedparse.errors import FormatError, OutputError
from napari_biomedparse.io.durable import is_zarr
from napari_biomedparse.io.lazy import read_windows

if TYPE_CHECKING:
    from napari_biomedparse.data.volume import Volume

Kind = Literal["dicom", "nifti", "npz", "picture", "tiff", "zarr"]
Paths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]

FORMATS: dict[Kind, tuple[str, ...]] = {
    "npz": (".npz",),
    "tiff": (".tif", ".tiff"),
    "nifti": (".nii", ".nii.gz"),
    "zarr": (".zarr",),
}
"""Extensions of each format that labels are saved in, in lower case."""
SUFFIXES = tuple(suffix for some in FORMATS.values() for suffix in some)
_MAGIC: dict[bytes, Kind] = {
    b"PK\x03\x04": "npz",
    b"PK\x05\x06": "npz",  # an empty one
    b"II*\0": "tiff",
    b"MM\0*": "tiff",
    b"II+\0": "tiff",
    b"MM\0+": "tiff",
}
_NIFTI_MAGIC = {348: (344, b"n+1\0"), 540: (4, b"n+2\0")}
"""First number of the file: offset and text of the magic."""
SAMPLES = 3
"""Number of slices that are sampled in a lazy volume."""
SAMPLE_EDGE = 64
"""Rows and columns of a sample."""
_FILE_KEYS = ("bytes", "changed", "files", "metadata")
STATES = (*_FILE_KEYS, "chunks")
"""Keys of a volume's identity that may differ while its voxels are the same."""
_ZARR_METADATA = ("zarr.json", ".zgroup", ".zarray", ".zattrs")
_PICTURES = (".bmp", ".jpeg", ".jpg", ".png")
_ENDINGS = (*_PICTURES, *SUFFIXES, ".dcm", ".gz", ".ome")


@dataclass(frozen=True)
class Pair:
    """The files of one case, whose `name` is that of the image without extension.

    `truth` is the image itself if it contains its own labels; `prediction` is None if
    labels are to be computed. `missing` is the kind of file that is missing, or empty.
    With a `prompt`, the truth is the mask of its target: whatever is above 0.
    """

    name: str
    image: Path
    truth: Path
    prediction: Path | None = None
    missing: str = ""
    prompt: str = ""


def recognise(path: str | os.PathLike[str]) -> Kind | None:
    """Recognise the format of a file by its first bytes, or of a folder by its content.

    Returns None if it is not supported, does not exist, or cannot be read.
    """
    path = Path(path)
    try:
        if path.is_dir():
            if is_zarr(path):
                return "zarr"
            others = any(p.name.lower().endswith(SUFFIXES) for p in path.iterdir())
            return "dicom" if not others and stack_files(path) else None
        if not path.is_file():  # a pipe would keep its reader waiting
            return None
        with path.open("rb") as file:
            start = file.read(132)
    except OSError:
        return None
    head = start[:4]
    if head == b"\x89PNG" or head[:3] == b"\xff\xd8\xff":
        return "picture"
    if head[:2] == b"BM" and start[6:10] == bytes(4):
        return "picture"
    if start[128:] == b"DICM":
        return "dicom"
    return _MAGIC.get(head) or ("nifti" if _is_nifti(path) else None)


def _is_nifti(path: Path) -> bool:
    """Return whether a file is NIfTI, by its first bytes and its extension."""
    if not path.name.lower().endswith(FORMATS["nifti"]):
        return False
    try:
        head = read_head(path)
    except (OSError, EOFError, zlib.error):
        return False
    return any(
        size.to_bytes(4, order) == head[:4] and head[at:].startswith(magic)
        for size, (at, magic) in _NIFTI_MAGIC.items()
        for order in ("little", "big")
    )


def read_head(path: Path) -> bytes:
    """Return the first 540 bytes of a file, unpacked: the header of NIfTI-2."""
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    with gzip.open(path) if packed else path.open("rb") as unpacked:
        return unpacked.read(540)


def stack_files(path: Path) -> tuple[Path, ...]:
    """Return the TIFF or DICOM files of a folder or a pattern, in order of their names.

    A pattern has ``*``, ``?`` or ``[``, and there is no file of that name. Empty for
    any other path. Hidden files, such as the ``._`` ones of a Mac, and the index of
    DICOM files are left out.
    """
    if path.is_dir():
        found = list(path.iterdir())
    elif _is_pattern(path):
        found = [Path(name) for name in glob.glob(str(path), recursive=True)]
    else:
        return ()
    files = [p for p in found if not p.name.startswith(".") and p.is_file()]
    chosen = [p for p in files if p.suffix.lower() in FORMATS["tiff"]] or [
        p
        for p in files
        if not p.name.lower().endswith((*SUFFIXES, *_PICTURES, "dicomdir"))
        and recognise(p) == "dicom"
    ]
    return tuple(sorted(chosen, key=lambda p: _by_number(str(p))))


def stands_for_several(path: Path) -> bool:
    """Return whether a path is a folder of files, or a pattern."""
    return recognise(path) is None if path.is_dir() else _is_pattern(path)


def find_files(inputs: Paths) -> tuple[Path, ...]:
    """Find the files that paths, folders and patterns stand for, each once.

    A Zarr folder counts as a file. In other folders, files with a supported format or
    extension are taken, by name; pictures only where there are no volumes. Raises
    `FormatError` if there is no file for an input.
    """
    found: dict[Path, None] = {}
    for given in [inputs] if isinstance(inputs, str | os.PathLike) else inputs:
        path = Path(given).expanduser()
        if not stands_for_several(path):
            some = [path]
        elif path.is_dir():
            some = [p for p in sorted(path.iterdir()) if _may_be_image(p)]
            # Beside volumes, pictures are thumbnails or plots.
            some = [p for p in some if p.suffix.lower() not in _PICTURES] or some
        else:
            some = [Path(p) for p in sorted(glob.glob(str(path), recursive=True))]
        if not some:
            raise FormatError(
                f"No file to segment was found for {path}; give files, folders that "
                f"contain some ({', '.join(SUFFIXES)}), or a pattern such as "
                "'scans/*.tif'."
            )
        found |= dict.fromkeys(some)
    return tuple(found)


def folder_names(files: Sequence[Path]) -> list[str]:
    """Name the result of each file after it, or after its path if names are equal.

    Raises `OutputError` if names are equal nevertheless.
    """
    stems = [file.name.partition(".")[0] or file.name for file in files]
    names = []
    for file, stem in zip(files, stems, strict=True):
        if stems.count(stem) > 1:
            parts = file.absolute().parent.parts[-2:]
            stem = "_".join(part.strip("/\\:") for part in (*parts, file.name))
        names.append(stem)
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise OutputError(
            f"The results of several files would be called {twice!r}; segment them "
            "separately, into different folders."
        )
    return [name.replace(".", "_") for name in names]


def find_pairs(
    images: Paths, labels: Paths, predictions: Paths | None = None
) -> tuple[Pair, ...]:
    """Match files whose names are equal except for the extension.

    A single image and a single file of labels match whatever their names.

    Given are files, folders of files, and patterns; an OME-Zarr image that contains its
    labels may be given as both. Returns pairs in the order of the images, incomplete
    ones included. Raises `FormatError` if there is no file for a path, no pair is
    complete, or two files of one kind have the same name.
    """
    found = find_files(images)
    truths = _by_name(find_files(labels), found)
    predicted = _by_name(find_files(predictions or ()), found)
    pairs = []
    for name, path in _by_name(found, ()).items():
        missing = "" if name in truths else "labels"
        if predictions is not None and name not in predicted:
            missing = missing or "predictions"
        pairs.append(
            Pair(name, path, truths.get(name, path), predicted.get(name), missing)
        )
    if all(pair.missing for pair in pairs):
        others = truths if pairs[0].missing == "labels" else predicted
        raise FormatError(
            f"None of the {len(pairs)} images has {pairs[0].missing}. A file of the "
            f"same name is needed, such as {pairs[0].name}, but the names found are "
            f"{', '.join(sorted(others)[:3])}."
        )
    return tuple(pairs)


def case_name(path: Path) -> str:
    """Return a file's name without the extensions of its format."""
    name = path.name
    while name.lower().endswith(_ENDINGS):
        name = name[: name.rindex(".")]
    return name


def _is_pattern(path: Path) -> bool:
    return not path.exists() and glob.has_magic(str(path))


def _may_be_image(path: Path) -> bool:
    known = recognise(path) is not None or path.name.lower().endswith(SUFFIXES)
    return known and not path.name.startswith(".")


def _by_number(name: str) -> list[tuple[int, str]]:
    """Return a key that sorts ``2`` before ``10``."""
    parts = re.split(r"(\d+)", name)
    return [(int(p), "") if p.isdecimal() else (-1, p) for p in parts if p]


def _by_name(files: tuple[Path, ...], partners: tuple[Path, ...]) -> dict[str, Path]:
    """Index files by name; a single file gets the name of its single partner."""
    if len(files) == len(partners) == 1:
        return {case_name(partners[0]): files[0]}
    named: dict[str, Path] = {}
    for path in files:
        other = named.setdefault(case_name(path), path)
        if other != path:
            raise FormatError(
                f"{other} and {path} have the same name, so it is not clear which one "
                "belongs to which labels; rename one of them."
            )
    return named


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
