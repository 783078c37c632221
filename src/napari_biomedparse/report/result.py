"""The noun `RunResult`: what a page shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from napari_biomedparse.data.prompts import PromptSet
    from napari_biomedparse.data.volume import ArrayLike, Volume


@dataclass(frozen=True)
class RunResult:
    """A run's labels and what is known about them.

    Parameters
    ----------
    volume : Volume
        Three axes, or four of which the last are the colours.
    labels : array [Z, Y, X]
        Values are prompt ids.
    existence : float32 ndarray [P, slices], optional
    axis : int
        The slicing axis.
    instances : integer array [Z, Y, X], optional
        Numbers of the separated objects.
    facts : mapping
        How the labels were made: sections of names and values.
    threshold : float, optional
        Existence threshold of the run.
    """

    name: str
    volume: Volume
    labels: ArrayLike
    prompts: PromptSet
    existence: npt.NDArray[np.float32] | None = None
    axis: int = 0
    instances: ArrayLike | None = None
    facts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    threshold: float | None = None
