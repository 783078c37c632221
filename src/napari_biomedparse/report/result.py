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

    The volume has three axes, or four of which the last are the colours. Labels
    [Z, Y, X] are prompt ids, instances [Z, Y, X] numbers of the separated objects;
    existence is [P, slices] along the slicing axis. Facts are how the labels were made:
    sections of names and values. The threshold is that of the scores, whose name says
    what `existence` holds; see `score_of`.
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
    score: str = "existence"
