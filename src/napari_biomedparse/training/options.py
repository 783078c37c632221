"""How a network is fine-tuned: every option with its default and limits.

Free of torch, so that forms and the command line can be made from it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from napari_biomedparse.data.modalities import MODALITIES
from napari_biomedparse.errors import OptionError

PARTS = ("text", "backbone", "pixel-decoder")
"""Parts of the network that can be kept as they are."""


def _option(default: Any, label: str, help_text: str, **limits: Any) -> Any:
    return field(
        default=default, metadata={"label": label, "help": help_text, **limits}
    )


@dataclass(frozen=True)
class FinetuneOptions:
    """How a network is fine-tuned; the defaults are those of the original."""

    epochs: int = _option(
        10, "Epochs", "How often every slice is seen at most.", min=1, max=100_000
    )
    batch_size: int = _option(
        8, "Slices a batch", "Slices that are learned from at once.", min=1, max=4096
    )
    prompts: int = _option(
        8,
        "Prompts a batch",
        "Prompts that are asked about its slices; what occurs in them comes first.",
        min=1,
        max=256,
    )
    learning_rate: float = _option(
        1e-5,
        "Learning rate",
        "Of AdamW. A small network or little data may need more, 1e-4 to 1e-3.",
        min=1e-9,
        max=1.0,
    )
    weight_decay: float = _option(
        0.01, "Weight decay", "Of matrices and kernels.", min=0.0, max=1.0
    )
    clip: float = _option(
        5.0, "Largest gradient", "Norm to which gradients are cut.", min=1e-6, max=1e6
    )
    existence_weight: float = _option(
        3.0,
        "Weight of existence",
        "How much more a target costs that is missed than one that is invented.",
        min=1e-3,
        max=1e3,
    )
    validation: float = _option(
        0.2,
        "Held out",
        "Share of the volumes that is not trained on but tells the best weights; of a "
        "single volume a block of slices. 0 keeps the last weights.",
        min=0.0,
        max=0.9,
    )
    patience: int = _option(
        3,
        "Patience",
        "Epochs without a lower loss on what is held out, after which training stops.",
        min=1,
        max=100_000,
    )
    augment: bool = _option(
        True,
        "Vary slices",
        "Quarter turns, flips, shifts, brightness, noise, swapped neighbours.",
    )
    freeze: tuple[str, ...] = _option(
        ("text",), "Keep", f"Parts that are not trained, of {', '.join(PARTS)}."
    )
    rank: int = _option(
        0,
        "Rank of adapters",
        "Train a change of so low a rank of each matrix instead of the matrix itself, "
        "for few data or little memory; 0 trains everything.",
        min=0,
        max=1024,
    )
    accumulate: int = _option(
        1, "Batches a step", "Batches whose gradients are added up.", min=1, max=1024
    )
    checkpointing: bool = _option(
        False,
        "Save memory",
        "Compute the backbone twice instead of remembering it (gradient checkpointing)",
    )
    max_steps: int | None = _option(
        None, "Most steps", "Stop after so many steps.", min=1, max=10**9
    )
    save_every: int = _option(
        100,
        "Batches between checkpoints",
        "After a crash training goes on from the last of them.",
        min=1,
        max=10**6,
    )
    modality: str = _option(
        "auto",
        "Modality",
        "Kind of image, which decides how values become 0 to 255.",
        choices=tuple(MODALITIES),
    )
    seed: int = _option(
        0, "Seed", "Fixes data order, variations and fields.", min=0, max=2**31 - 1
    )

    def __post_init__(self) -> None:
        """Refuse values outside an option's limits."""
        for item in fields(self):
            value, limits = getattr(self, item.name), item.metadata
            label = f"{limits['label']} ({item.name})"
            if "choices" in limits and value not in limits["choices"]:
                raise OptionError(
                    f"{label} is {value!r}; choose one of "
                    f"{', '.join(limits['choices'])}."
                )
            if "min" in limits and value is not None:
                whole = isinstance(limits["min"], int)
                kinds = (int,) if whole else (int, float)
                if isinstance(value, bool) or not isinstance(value, kinds):
                    kind = "a whole number" if whole else "a number"
                    raise OptionError(f"{label} must be {kind}, not {value!r}.")
                if not limits["min"] <= value <= limits["max"]:
                    raise OptionError(
                        f"{label} is {value}; it must lie between {limits['min']} and "
                        f"{limits['max']}."
                    )
        if unknown := sorted(set(self.freeze) - set(PARTS)):
            raise OptionError(
                f"Keep (freeze) names {', '.join(unknown)}; parts are "
                f"{', '.join(PARTS)}."
            )
