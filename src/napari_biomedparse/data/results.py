"""Results: finished slices as a run yields them, and the whole. Free of torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from napari_biomedparse.data.prompts import PromptSet

Kind = Literal["volume", "series", "consensus"]
"""What a request gives a result of."""
Span = tuple[int, int]
"""A range of slices: the first, and the one after the last."""


@dataclass(frozen=True)
class SegmentedSlices:
    """Finished slices, in the volume's own grid.

    Parameters
    ----------
    start, stop : int
        Range along the slicing axis.
    axis : int
        The slicing axis.
    labels : unsigned ndarray
        The volume's shape (three axes, also for a single image) but for the slicing
        axis, which is ``stop - start`` long; 0 is background, other values are label
        ids. Where overlapping prompts have separate labels, these are the first of
        four axes, [P, Z, Y, X].
    existence : float32 ndarray [P, stop - start]
        Probability that a prompt's target occurs in a slice.
    edges : ndarray like `labels`, optional
        Label ids at predicted object boundaries.
    """

    start: int
    stop: int
    axis: int
    labels: npt.NDArray[Any]
    existence: npt.NDArray[np.float32]
    edges: npt.NDArray[Any] | None = None

    @property
    def where(self) -> tuple[slice, ...]:
        """Index of these slices in the volume, its last three axes."""
        return tuple(
            slice(self.start, self.stop) if i == self.axis else slice(None)
            for i in range(3)
        )


@dataclass(frozen=True)
class Segmentation:
    """Result of a request: one volume, a time series, or a consensus.

    Parameters
    ----------
    labels : array, the volume's shape without colours
        0 is background, other values are label ids. A numpy array for a volume in
        memory, else a dask array over a Zarr store on disk. Of a series the first
        axis is time; where overlapping prompts have separate labels, it is these.
    existence : float32 ndarray [P, slices]
        Probability that a prompt's target occurs in a slice; NaN where not run. Of a
        series [P, T, slices]; of a consensus [P, 3, slices], a row for each axis in
        the volume's order, with NaN beyond the end of a shorter one.
    parameters : dict
        Everything that the labels depend on, as plain JSON types.
    instances : int32 ndarray like `labels`, optional
        0 is background, every object has a number of its own; those of a series are
        numbered anew at each time point.
    """

    labels: Any
    existence: npt.NDArray[np.float32]
    prompts: PromptSet
    parameters: Mapping[str, Any]
    instances: npt.NDArray[np.int32] | None = None

    @property
    def ids(self) -> tuple[int, ...]:
        """Label id of each prompt."""
        return self.prompts.ids
