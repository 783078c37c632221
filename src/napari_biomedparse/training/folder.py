"""What a fine-tuning leaves on disk: how it was begun and ended, and its log."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_biomedparse.errors import OutputError
from napari_biomedparse.io.durable import write_durably
from napari_biomedparse.networks.catalogue import MODELS
from napari_biomedparse.networks.checkpoint import read_checkpoint
from napari_biomedparse.networks.weights import model_identity
from napari_biomedparse.training.losses import Losses
from napari_biomedparse.training.volumes import KeptArray
from napari_biomedparse.version import __version__

if TYPE_CHECKING:
    from napari_biomedparse.networks.v2.biomedparse import BiomedParse
    from napari_biomedparse.training.options import FinetuneOptions
    from napari_biomedparse.training.slices import Split
    from napari_biomedparse.training.volumes import TrainingVolume

BEST, LAST, LOG, RUN, CACHE = (
    "finetuned.safetensors", "last.ckpt", "log.csv", "run.json", "cache",
)  # fmt: skip
TENSORBOARD = "tensorboard"
HELD_OUT = ("val_loss", "val_dice")
"""What is measured on held-out slices."""
COLUMNS = ("epoch", "step", "loss", *Losses._fields, *HELD_OUT)


def describe_training(
    model: BiomedParse,
    checkpoint: str | os.PathLike[str],
    volumes: Sequence[TrainingVolume],
    parts: Split,
    options: FinetuneOptions,
) -> dict[str, str]:
    """Say what the weights are made from, as text; the same data say the same."""
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
    """Begin a training, or go on with one; return how it ended if it did.

    Raises
    ------
    OutputError
        If the folder holds a training of something else.
    """
    path = folder / RUN
    if not path.exists():
        save_training(folder, facts, None)
        return None
    stored = json.loads(path.read_text("utf-8"))
    different = [k for k, value in facts.items() if stored["facts"].get(k) != value]
    if different:
        raise OutputError(
            f"{folder} holds another training, which differs in "
            f"{', '.join(different)}; choose another folder, or delete it."
        )
    finished: dict[str, Any] | None = stored["finished"]
    return finished


def save_training(
    folder: Path, facts: Mapping[str, str], finished: Mapping[str, Any] | None
) -> None:
    """Note what a training is of, and how it ended if it did."""
    content = {"facts": dict(facts), "finished": finished}
    write_durably(folder / RUN, json.dumps(content, indent=1))


def write_log(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the log, whole or as it was before."""
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    table.writeheader()
    for row in rows:
        table.writerow(
            {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()}
        )
    write_durably(folder / LOG, text.getvalue())


def _checksum(volumes: Sequence[TrainingVolume]) -> str:
    """Return what changes when labels were corrected, or other slices reviewed."""
    digest = hashlib.sha256()
    for volume in volumes:
        digest.update(repr((volume.name, volume.axes, volume.reviewed)).encode())
        for array in (volume.image, volume.labels):
            if isinstance(array, KeptArray):
                digest.update(array.identity.encode())
            elif isinstance(array, np.ndarray):
                digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:12]


def _licence(checkpoint: str | os.PathLike[str]) -> str:
    if isinstance(checkpoint, str) and checkpoint in MODELS:
        return MODELS[checkpoint].licence or "unknown"
    if not Path(checkpoint).is_file():
        return "unknown"
    return read_checkpoint(checkpoint).metadata.get("licence", "unknown")
