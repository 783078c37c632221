"""What the stored runs were made from, and how they are laid out to be used again."""

from __future__ import annotations

import json
import lzma
import os
import platform
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

import napari_biomedparse as biomedparse
from napari_biomedparse.training.volumes import TrainingVolume
from napari_biomedparse.training.wordings import Wordings
from napari_biomedparse.version import __version__

HERE = Path(__file__).parent
CHANGED = 1_700_000_000_000_000_000
"""When ``volume.tif`` was changed, in nanoseconds, as the records of its runs say."""
PROMPTS = {
    1: "nuclei in light-sheet microscopy",
    2: "blood vessels in light-sheet microscopy",
}
TRAINING = {"killed_at": 6}
FINETUNE: dict[str, Any] = {
    "epochs": 2,
    "batch_size": 4,
    "prompts": 2,
    "learning_rate": 2e-3,
    "save_every": 2,
    "seed": 1,
}


def film_of(grey: npt.NDArray[Any]) -> Any:
    """Make a time series of two time points out of the volume."""
    data = np.ascontiguousarray(grey[:16].reshape(2, 8, *grey.shape[1:]))
    return biomedparse.Volume(
        data, ("t", "z", "y", "x"), (1.0,) * 4, ("pixel",) * 4, (0.0,) * 4, "film"
    )


def cube_of(grey: npt.NDArray[Any]) -> Any:
    """Cut a piece out of the volume that is seen along all axes."""
    data = np.ascontiguousarray(grey[2:18, 4:24, 10:28])
    return biomedparse.Volume(
        data, ("z", "y", "x"), (1.0,) * 3, ("pixel",) * 3, (0.0,) * 3, "cube"
    )


def training_data() -> list[Any]:
    """Draw bright squares on noise."""
    wordings = Wordings({1: ("bright squares", "squares")})
    volumes = []
    for number in range(3):
        rng = np.random.RandomState(number)  # its numbers never change
        labels = np.zeros((8, 24, 24), np.uint8)
        y, x = rng.randint(2, 12, 2)
        labels[2:-2, y : y + 9, x : x + 9] = 1
        grey = rng.randint(60, 90, labels.shape) + 120 * (labels == 1)
        volumes.append(
            TrainingVolume(
                f"squares{number}",
                "squares",
                grey.astype(np.uint8),
                labels,
                wordings,
                (0,),
            )
        )
    return volumes


def place(name: str, folder: Path) -> Path:
    """Copy a stored run and its volume to where a test may write.

    The records of runs on a file hold the file's absolute path and its time of change,
    and all hold the version of the package. None of these can be the same here, so they
    are put into the copies: the file gets its recorded time, the records the file's
    new path and the version that is installed. Runs on arrays need no path.

    Parameters
    ----------
    name : str
        Of the stored folder.
    folder : Path
        Gets it, and ``volume.tif``.

    Returns
    -------
    Path
        The copied run.
    """
    volume, out = folder / "volume.tif", folder / name
    shutil.copy(HERE / "volume.tif", volume)
    os.utime(volume, ns=(CHANGED, CHANGED))
    shutil.copytree(HERE / name, out)
    for path in out.rglob("manifest.json"):
        record = json.loads(path.read_text("utf-8"))
        _renew(record, str(volume))
        path.write_text(json.dumps(record, indent=1), "utf-8")
    return out


def _renew(record: dict[str, Any], volume: str) -> None:
    if record["source"]["path"] is not None:
        record["source"]["path"] = volume
    record["parameters"]["napari_biomedparse"] = __version__
    for part in record["parts"]:
        _renew(part, volume)


def place_training(folder: Path) -> tuple[Path, Path]:
    """Unpack the stored training and the weights it began with.

    Returns
    -------
    training, weights : Path
    """
    weights, out = folder / "smallest.safetensors", folder / "training"
    out.mkdir()
    unpack(HERE / f"{weights.name}.xz", weights)
    for path in (HERE / "training").iterdir():
        if path.suffix == ".xz":
            unpack(path, out / path.stem)
        else:
            shutil.copy(path, out)
    record = json.loads((out / "run.json").read_text("utf-8"))
    record["facts"]["napari_biomedparse"] = __version__
    (out / "run.json").write_text(json.dumps(record, indent=1), "utf-8")
    return out, weights


def unpack(packed: Path, out: Path) -> None:
    """Unpack one ``.xz`` file."""
    out.write_bytes(lzma.decompress(packed.read_bytes()))


def cpu() -> str:
    """Name the processor, as rounding depends on it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text("utf-8").splitlines() if info.exists() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def made_here() -> bool:
    """Tell whether the files were made by such a processor and this torch."""
    facts = json.loads((HERE / "made_on.json").read_text("utf-8"))
    return bool(facts == {"cpu": cpu(), "torch": torch.__version__})
