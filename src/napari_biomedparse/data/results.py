"""What a run hands on as it goes, and ranges of slices. Free of torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

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
        axis, which is ``stop - start`` long;
        0 is background, other values are label ids. Where overlapping prompts have
        separate labels, these are the first of four axes, [P, Z, Y, X].
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


def spans(indices: Iterable[int]) -> list[Span]:
    """Put slices together to ranges as long as possible.

    Parameters
    ----------
    indices : iterable of int
        In any order.

    Returns
    -------
    list of (int, int)
        Starts and stops, ascending.
    """
    found: list[Span] = []
    for index in sorted(indices):
        if found and found[-1][1] == index:
            found[-1] = (found[-1][0], index + 1)
        else:
            found.append((index, index + 1))
    return found
