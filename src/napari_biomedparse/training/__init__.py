"""Fine-tuning: one's own images and labels in, weights out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_biomedparse.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_biomedparse.training.progress import Finetuned


def load_finetune() -> Callable[..., Finetuned]:
    """Import `finetune`, which takes seconds and needs further packages.

    Raises
    ------
    OptionError
        If a package is missing.
    """
    try:
        from napari_biomedparse.training.finetune import finetune
    except ModuleNotFoundError as error:
        raise OptionError(
            f"Fine-tuning needs further packages ({error}). Install them with: pip "
            "install 'napari-biomedparse[train]'"
        ) from error
    return finetune
