"""The noun `RunResult`: what there is to report on."""

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
    """What there is to report on.

    Parameters
    ----------
    name : str
    volume : Volume
        Three axes, or four of which the last are the colours.
    labels : array [Z, Y, X]
        Values are prompt ids.
    prompts : PromptSet
    existence : float32 ndarray [P, slices], optional
    axis : int
        The slicing axis.
    objects : integer array [Z, Y, X], optional
        Objects that the run told apart.
    facts : mapping
        How it was made, in sections of names and values.
    threshold : float, optional
        Existence that a slice had to reach.
    """

    name: str
    volume: Volume
    labels: ArrayLike
    prompts: PromptSet
    existence: npt.NDArray[np.float32] | None = None
    axis: int = 0
    objects: ArrayLike | None = None
    facts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    threshold: float | None = None
