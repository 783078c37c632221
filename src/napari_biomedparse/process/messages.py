"""What a run tells besides its finished slices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from napari_biomedparse.data.results import SegmentedSlices


@dataclass(frozen=True)
class Status:
    """What the model process is doing.

    Parameters
    ----------
    text : str
        A short line for people, for example "Loading the model".
    """

    text: str


@dataclass(frozen=True)
class Planned:
    """What is about to be computed, said before the first slice.

    Parameters
    ----------
    axis, start, stop : int
        Slicing axis, and the range of slices along it.
    intensity : str
        How grey levels become the 0 to 255 that the network sees.
    truncated : tuple of str
        Prompts too long for the network, which were cut.
    parameters : dict
        Everything needed to repeat the run.
    total : int
        Slices that will go through the network; more than those of the range if they
        are cut along several axes.
    provenance : dict
        What a run's manifest says of source, model, parameters and environment.
    folder : str, optional
        Where the labels are written, if they are not sent.
    kept : tuple of (int, int)
        Starts and stops of slices that an earlier run did and this one need not.
    """

    axis: int
    start: int
    stop: int
    intensity: str
    truncated: tuple[str, ...]
    parameters: dict[str, Any]
    total: int
    provenance: dict[str, Any]
    folder: str | None = None
    kept: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Previewed:
    """One slice, segmented for a look at it.

    Parameters
    ----------
    slices : SegmentedSlices
        A single one.
    probabilities : float32 ndarray, optional
        The shape of the labels: how probable the likeliest prompt is in each pixel.
    """

    slices: SegmentedSlices
    probabilities: npt.NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Voted:
    """Final labels of a consensus, in place of those of its runs.

    Parameters
    ----------
    slices : SegmentedSlices
        Along the first axis.
    """

    slices: SegmentedSlices


@dataclass(frozen=True)
class Written:
    """Labels are in the run's folder.

    Parameters
    ----------
    done, total : int
        Slices.
    """

    done: int
    total: int


@dataclass(frozen=True)
class Found:
    """What a finished run in a folder found.

    Parameters
    ----------
    existence : float32 ndarray [P, slices] or [P, T, slices]
        Probabilities; NaN where not run.
    voxels : int64 ndarray, of the same shape
        Voxels of each prompt.
    """

    existence: npt.NDArray[np.float32]
    voxels: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Tuned:
    """Fine-tuning is over, or was stopped.

    Parameters
    ----------
    checkpoint : str
        The best weights.
    step : int
        Steps that were made.
    held_out : str
        What was not trained on.
    best : dict
        Step, loss and Dice of the best weights, as far as they were measured.
    """

    checkpoint: str
    step: int
    held_out: str
    best: dict[str, float]


@dataclass(frozen=True)
class Objects:
    """Objects told apart, after the last slice.

    Parameters
    ----------
    start : int
        Position of this part along the volume's first axis.
    labels : int32 ndarray
        Part of the volume along the first axis; every object has its own number.
    owners : ndarray
        Label id of each object number; entry 0 is background.
    """

    start: int
    labels: npt.NDArray[np.int32]
    owners: npt.NDArray[Any]
