"""Teaching in the window: corrected slices of a run become the model of its labels."""

from __future__ import annotations

import re
import weakref
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_biomedparse.io.durable import atomic_write, check_place, scratch_folder
from napari_biomedparse.process.messages import Learned
from napari_biomedparse.widgets.segment.estimation import Estimation

if TYPE_CHECKING:
    from collections.abc import Collection

    import numpy.typing as npt

    from napari_biomedparse.widgets.shared.task import Step

SUFFIX = ".taught.safetensors"
SAVE_FIRST = (
    "This model was taught here and is not saved, so it will be gone with napari. "
    "Press Save taught model… under Review labels first."
)


class Teaching(Estimation):
    """Has the model process learn from corrected slices."""

    activity = "to learn from corrections"
    learned: Learned | None = None
    """What it learned, at the end."""

    def _on_step(self, step: Step) -> None:
        if isinstance(step, Learned):
            self.learned = step
        else:
            super()._on_step(step)


class TaughtFiles:
    """Models that were taught in this window: temporary files until they are saved."""

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._count = 0

    def new(self, subject: str) -> Path:
        """Return a path for another one."""
        if self._folder is None:
            self._folder, remove = scratch_folder()
            weakref.finalize(self, remove)
        self._count += 1
        folder = self._folder / str(self._count)
        folder.mkdir()
        name = re.sub(r"\W+", "_", subject)[:40].strip("_")
        return folder / f"{name or 'model'}{SUFFIX}"

    def has(self, model: str) -> bool:
        """Return whether a model is one of these files."""
        return self._folder is not None and Path(model).is_relative_to(self._folder)

    def save(self, model: str, path: str) -> str:
        """Copy one to a path, which may exist; return it with the right ending."""
        target = Path(path)
        if not target.name.endswith(SUFFIX):
            target = target.with_name(target.name.partition(".")[0] + SUFFIX)
        check_place(target, overwrite=str(target) == path)
        with atomic_write(target) as partial:
            partial.write_bytes(Path(model).read_bytes())
        return str(target)


def most_doubtful(
    doubt: npt.NDArray[np.float32], accepted: Collection[int]
) -> int | None:
    """Choose the slice that would teach most, of doubts [P, slices]; None if none left.

    What is expected to be wrong of each prompt counts by its mean, so that a rare
    target has the weight of a frequent one. NaN is unknown.
    """
    known = np.flatnonzero(np.isfinite(doubt).all(axis=0))
    left = known[~np.isin(known, list(accepted))]
    if not len(left):
        return None
    usual = doubt[:, known].mean(axis=1, keepdims=True)
    return int(left[(doubt[:, left] / np.maximum(usual, 1e-9)).sum(axis=0).argmax()])
