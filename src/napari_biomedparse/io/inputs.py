"""Find the files of paths, folders and patterns, and name their results.

Loads neither torch nor any file.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from napari_biomedparse.errors import FormatError, OutputError
from napari_biomedparse.io import recognise

SUFFIXES = (".npz", ".tif", ".tiff", ".nii", ".nii.gz", ".zarr")


def stands_for_several(path: Path) -> bool:
    """Return whether a path is a folder of files, or a pattern."""
    if path.is_dir():
        return recognise(path) is None
    return not path.exists() and glob.has_magic(str(path))


def find_files(inputs: Iterable[str | os.PathLike[str]]) -> tuple[Path, ...]:
    """Find the files that paths, folders and patterns stand for, each once.

    Parameters
    ----------
    inputs : iterable of path
        A Zarr folder counts as a file. In other folders, files with a supported format
        or extension are taken.

    Returns
    -------
    tuple of Path
        In the order of the inputs, and by name within a folder or pattern.

    Raises
    ------
    FormatError
        If there is no file for an input.
    """
    found: dict[Path, None] = {}
    for given in inputs:
        path = Path(given).expanduser()
        if not stands_for_several(path):
            some = [path]
        elif path.is_dir():
            some = [p for p in sorted(path.iterdir()) if _may_be_image(p)]
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
    """Name the result of each file after it, or after its path if names are equal."""
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


def _may_be_image(path: Path) -> bool:
    return recognise(path) is not None or path.name.lower().endswith(SUFFIXES)
