"""Fine-tuning: one's own images and labels in, weights out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_biomedparse.errors import needs_extra

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_biomedparse.training.progress import Finetuned


def load_finetune() -> Callable[..., Finetuned]:
    """Import `finetune`, which takes seconds; `OptionError` if a package is missing."""
    with needs_extra("train", "Training and fine-tuning"):
        from napari_biomedparse.training.finetune import finetune
    return finetune
