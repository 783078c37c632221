"""Files of a fine-tuning: the record of its start and end, and its log."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_biomedparse.data.text import csv_text
from napari_biomedparse.errors import OutputError
from napari_biomedparse.io.durable import write_durably
from napari_biomedparse.networks.catalogue import MODELS
from napari_biomedparse.networks.checkpoint import read_checkpoint
from napari_biomedparse.networks.weights import model_identity
from napari_biomedparse.training.options import FinetuneOptions
from napari_biomedparse.training.volumes import OnDemand
from napari_biomedparse.version import __version__

if TYPE_CHECKING:
    from napari_biomedparse.networks.network import Network
    from napari_biomedparse.training.slices import Split
    from napari_biomedparse.training.volumes import TrainingVolume

BEST, LAST, LOG, RUN, CACHE = (
    "finetuned.safetensors", "last.ckpt", "log.csv", "run.json", "cache",
)  # fmt: skip
TENSORBOARD = "tensorboard"
HELD_OUT = ("val_loss", "val_dice")
"""Measured on held-out slices."""


def describe_training(
    model: Network,
    checkpoint: str | os.PathLike[str],
    volumes: Sequence[TrainingVolume],
    parts: Split,
    options: FinetuneOptions,
) -> dict[str, str]:
    """Describe what the weights are made from; equal data give equal text."""
    classes: dict[str, dict[str, str]] = {}
    for volume in volumes:
        texts = volume.wordings.texts
        classes.setdefault(
            volume.dataset, {str(k): texts[k][0] for k in volume.wordings.classes}
        )
    return {
        "name": "fine-tuned BiomedParse",
        "base": model_identity(model),
        "base_licence": _licence(checkpoint),
        "data": json.dumps([volume.name for volume in volumes]),
        "content": _checksum(volumes),
        "classes": json.dumps(classes),
        "held_out": parts.how,
        "options": json.dumps(asdict(options)),
        "napari_biomedparse": __version__,
    }


def open_training(folder: Path, facts: Mapping[str, str]) -> dict[str, Any] | None:
    """Start or resume a training; return its result if it has finished.

    An `OutputError` is raised if the folder holds a different training.
    """
    path = folder / RUN
    if not path.exists():
        if there := [name for name in (BEST, LAST, LOG) if (folder / name).exists()]:
            raise OutputError(
                f"{folder} holds {', '.join(there)} of something else; choose another "
                "folder."
            )
        save_training(folder, facts, None)
        return None
    try:
        stored = json.loads(path.read_text("utf-8"))
        known, finished = dict(stored["facts"]), stored["finished"]
        options = json.loads(known.get("options", "{}"))  # without those added since
        known["options"] = json.dumps({**asdict(FinetuneOptions()), **options})
        different = [k for k, value in facts.items() if known.get(k) != value]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise OutputError(
            f"{path} is damaged ({type(error).__name__}: {error}). Delete {folder}, or "
            "choose another folder."
        ) from error
    if different:
        raise OutputError(
            f"{folder} holds another training, which differs in "
            f"{', '.join(different)}. Choose another folder, or delete this one."
        )
    result: dict[str, Any] | None = finished
    return result


def save_training(
    folder: Path, facts: Mapping[str, str], finished: Mapping[str, Any] | None
) -> None:
    """Record what a training is of, and its result if it has finished."""
    content = {"facts": dict(facts), "finished": finished}
    write_durably(folder / RUN, json.dumps(content, indent=1))


def write_log(
    folder: Path, rows: Sequence[Mapping[str, Any]], terms: Iterable[str]
) -> None:
    """Write the log atomically, with the terms of the loss."""
    columns = ("epoch", "step", "loss", *terms, *HELD_OUT)
    write_durably(folder / LOG, csv_text(columns, rows, digits=6))


def _checksum(volumes: Sequence[TrainingVolume]) -> str:
    """Return a checksum that changes with the labels or the reviewed slices."""
    digest = hashlib.sha256()
    for volume in volumes:
        digest.update(repr((volume.name, volume.axes, volume.reviewed)).encode())
        for array in (volume.image, volume.labels):
            if isinstance(array, OnDemand):
                digest.update(array.identity.encode())
            else:
                digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:12]


def _licence(checkpoint: str | os.PathLike[str]) -> str:
    if isinstance(checkpoint, str) and checkpoint in MODELS:
        return MODELS[checkpoint].licence or "unknown"
    if not Path(checkpoint).is_file():
        return "unknown"
    return read_checkpoint(checkpoint).metadata.get("licence", "unknown")
