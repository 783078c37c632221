"""Fine-tuning: one's own images and labels in, weights out."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from napari_biomedparse.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_biomedparse.training.progress import Finetuned


def load_finetune() -> Callable[..., Finetuned]:
    """Import `finetune`, which takes seconds, and not all have what it needs.

    Raises
    ------
    OptionError
        If a package is missing.
    """
    try:
        from napari_biomedparse.training.finetune import finetune
    except ModuleNotFoundError as error:
        raise OptionError(
            f"Fine-tuning needs more packages ({error}); install them with: pip "
            "install 'napari-biomedparse[train]'"
        ) from error
    return finetune


def is_helper() -> bool:
    """Tell whether Lightning started this process for another's training."""
    return os.environ.get("LOCAL_RANK", "0") != "0"
