"""Cases in the challenge's layout and others, with known answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from napari_biomedparse.data.prompts import parse_prompts
from napari_biomedparse.data.volume import Volume
from napari_biomedparse.io import save_labels

SHAPE = (4, 24, 20)
SPACING = (2.0, 0.5, 0.5)
TEXTS = {1: "liver", 2: "spleen", 3: "kidney"}


def truth() -> np.ndarray:
    """Two boxes; the third prompt is absent."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[:, 2:10, 2:10] = 1
    labels[1:3, 12:20, 8:18] = 2
    return labels


def volume(seed: int = 0) -> Volume:
    grey = np.random.default_rng(seed).integers(0, 255, SHAPE, np.uint8)
    unit = ("millimeter",) * 3
    return Volume(grey, ("z", "y", "x"), SPACING, unit, (0.0,) * 3, "a")


def write_challenge(folder: Path, name: str, *, instance: int = 0) -> None:
    """Write ``imgs`` and ``gts`` as the challenge has them, with pickled prompts."""
    for part in ("imgs", "gts"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    prompts = np.empty((), object)
    texts = {"1": "nuclei"} if instance else {str(k): v for k, v in TEXTS.items()}
    prompts[()] = {**texts, "instance_label": instance}
    spacing = np.array(SPACING[::-1])
    np.savez(
        folder / "imgs" / f"{name}.npz",
        imgs=volume(len(name)).data,
        spacing=spacing,
        text_prompts=prompts,
    )
    np.savez(folder / "gts" / f"{name}.npz", gts=truth(), spacing=spacing)


def write_prediction(path: Path, labels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_labels(path, labels, volume=volume(), prompts=parse_prompts(TEXTS))
