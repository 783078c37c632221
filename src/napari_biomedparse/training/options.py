"""How a network is fine-tuned: every option with its default and limits.

Free of torch, so that forms and the command line can be made from it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any

from napari_biomedparse.data.options import MODALITIES, check_fields, documented, option
from napari_biomedparse.errors import OptionError

PARTS = ("text", "backbone", "pixel-decoder")
"""Parts of the network that can be kept as they are."""


def _check_freeze(parts: Iterable[str]) -> tuple[str, ...]:
    if unknown := sorted(set(parts) - set(PARTS)):
        raise OptionError(
            f"Frozen parts (freeze) are {', '.join(unknown)}; choose from "
            f"{', '.join(PARTS)}."
        )
    return tuple(parts)


@documented
@dataclass(frozen=True)
class FinetuneOptions:
    """How a network is fine-tuned; the defaults are those of the original."""

    epochs: int = option(
        10, "Epochs", "Maximum number of passes over all slices.", limits=(1, 100_000)
    )
    batch_size: int = option(
        8, "Batch size", "Number of slices per batch.", limits=(1, 4096)
    )
    prompts: int = option(
        8,
        "Prompts per batch",
        "Number of prompts per batch. Targets that occur in its slices come first.",
        limits=(1, 256),
    )
    learning_rate: float = option(
        1e-5,
        "Learning rate",
        "Learning rate of AdamW. A small network or little data may need more, 1e-4 to "
        "1e-3.",
        limits=(1e-9, 1.0),
    )
    weight_decay: float = option(
        0.01, "Weight decay", "Weight decay of matrices and kernels.", limits=(0.0, 1.0)
    )
    clip: float = option(
        5.0,
        "Maximum gradient norm",
        "Norm to which gradients are clipped.",
        limits=(1e-6, 1e6),
    )
    existence_weight: float = option(
        3.0,
        "Existence weight",
        "How much more a missed target costs than one that is not there but predicted.",
        limits=(1e-3, 1e3),
    )
    validation: float = option(
        0.2,
        "Validation share",
        "Share of the volumes that is held out to select the best weights; of a single "
        "volume, a block of slices. 0 keeps the last weights.",
        limits=(0.0, 0.9),
    )
    patience: int = option(
        3,
        "Patience",
        "Stop after this many epochs without a lower validation loss.",
        limits=(1, 100_000),
    )
    augment: bool = option(
        True,
        "Augment slices",
        "Vary the slices by quarter turns, flips, shifts, brightness, noise and "
        "swapped neighbors; for v1, by their size only.",
    )
    turns: bool = option(
        False,
        "Quarter turns for v1",
        "Also turn half of the slices by quarters, where the orientation means nothing "
        "(v1).",
    )
    freeze: tuple[str, ...] = option(
        ("text",),
        "Frozen parts",
        f"Parts of the network that are not trained: {', '.join(PARTS)}, or none.",
        check=_check_freeze,
        metavar="PART,PART|none",
    )
    rank: int = option(
        0,
        "Adapter rank",
        "Train a low-rank change of each matrix, of this rank, instead of the matrix "
        "itself; for little data or memory. 0 trains everything.",
        limits=(0, 1024),
    )
    accumulate: int = option(
        1,
        "Batches per step",
        "Number of batches whose gradients are accumulated for one step.",
        limits=(1, 1024),
    )
    checkpointing: bool = option(
        False,
        "Save memory",
        "Compute the backbone twice instead of storing it (gradient checkpointing).",
    )
    max_steps: int | None = option(
        None, "Maximum steps", "Stop after this many steps.", limits=(1, 10**9)
    )
    save_every: int = option(
        100,
        "Batches between checkpoints",
        "Save a checkpoint after this many batches. After a crash, training resumes "
        "from the last one.",
        limits=(1, 10**6),
    )
    modality: str = option(
        "auto",
        "Modality",
        "Kind of image, which determines how its values are scaled to the range 0 to "
        "255.",
        choices=tuple(MODALITIES),
        metavar="KIND",
    )
    seed: int = option(
        0,
        "Seed",
        "Seed for the order of the data, the augmentation and the network's random "
        "numbers.",
        limits=(0, 2**31 - 1),
    )

    def __post_init__(self) -> None:
        """Refuse values outside an option's limits."""
        check_fields(self)


def _other(name: str, default: Any) -> Any:
    """Declare a field of `FinetuneOptions` again, with another default."""
    known = {item.name: item for item in fields(FinetuneOptions)}
    return field(default=default, metadata=known[name].metadata)


@documented
@dataclass(frozen=True)
class DistillOptions(FinetuneOptions):
    """How a student is taught: it learns for longer, in larger steps, and all of it."""

    epochs: int = _other("epochs", 100)
    batch_size: int = _other("batch_size", 4)
    learning_rate: float = _other("learning_rate", 1e-3)
    patience: int = _other("patience", 20)
    freeze: tuple[str, ...] = _other("freeze", ())
