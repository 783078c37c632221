"""A small training folder with known content, and what may be wrong with it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import tifffile

from napari_biomedparse.training.wordings import FILE_NAME

SHAPE = (10, 32, 32)
WORDINGS = {"1": ["bright squares", "squares"], "2": ["dark corner"]}


def arrays(seed: int, shape: tuple[int, ...] = SHAPE) -> tuple[np.ndarray, np.ndarray]:
    """A bright square in the middle slices, label 1; label 2 in the first slice."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.uint8)
    y, x = rng.integers(2, 14, 2)
    labels[2:-2, y : y + 12, x : x + 12] = 1
    labels[0, 20:, 20:] = 2
    grey = rng.integers(60, 90, shape) + 120 * (labels == 1) - 50 * (labels == 2)
    return grey.astype(np.uint8), labels


def write_case(folder: Path, name: str, image: np.ndarray, labels: np.ndarray) -> None:
    for part, values in (("images", image), ("labels", labels)):
        (folder / part).mkdir(parents=True, exist_ok=True)
        path = folder / part / f"{name}.tif"
        tifffile.imwrite(path, values, photometric="minisblack")


def write_folder(folder: Path, count: int = 3) -> Path:
    for number in range(count):
        write_case(folder, f"squares{number}", *arrays(number))
    (folder / FILE_NAME).write_text(json.dumps({"squares": WORDINGS}))
    return folder
