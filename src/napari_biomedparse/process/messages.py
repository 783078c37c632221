"""What napari and its model process tell each other: one dataclass for each message.

napari sends a request, which begins a run, and may `LookAt`, `Retune` or `Cancel` it.
The model process asks for voxels by `Read`, which a `Slab` answers, reports events, and
ends the run by `Done` or `Failed`. A channel carries the number of the run with each.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_biomedparse.data.options import SegmentOptions
from napari_biomedparse.data.prompts import Prompt, PromptSet
from napari_biomedparse.data.results import SegmentedSlices
from napari_biomedparse.data.volume import Volume
from napari_biomedparse.runs.recipe import Recipe
from napari_biomedparse.training.options import FinetuneOptions
from napari_biomedparse.training.progress import Finetuned, Progress

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from napari_biomedparse.errors import BiomedParseError

Span = tuple[int, int]
"""First slice and the one after the last."""


# Requests: each begins a run.


@dataclass(frozen=True)
class VolumeRequest:
    """A request about a volume whose voxels stay in napari's process.

    Parameters
    ----------
    volume : Volume
        Three axes; numpy, dask or zarr. `Voxels` stand for its data on the way.
    model : str
        Name, file or folder, as `load_model` takes it.
    device : str
        "auto", "cpu", "cuda", "cuda:1", "mps", ...
    cache_bytes : int, optional
        Memory for features of recently seen slices; filled in by the session.
    """

    volume: Volume
    prompts: PromptSet
    options: SegmentOptions
    model: str = "v2"
    device: str = "auto"
    cache_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class SegmentRequest(VolumeRequest):
    """Segment a volume.

    Parameters
    ----------
    consensus : bool
        Whether to segment along all axes and vote.
    done : tuple of (int, int)
        Starts and stops of slices that an earlier run finished. `Planned` says which
        of them are kept.
    front : int, optional
        The slice in view: it comes first, then its neighbours.
    earlier : int, optional
        Number of that earlier run, whose scores may still be stored.
    again : bool
        Whether to recompute the finished slices, with other thresholds, and no more.
    beside : int
        Number of runs that share the room for scores, such as those of a time series.
    """

    consensus: bool = False
    done: tuple[Span, ...] = ()
    front: int | None = None
    earlier: int | None = None
    again: bool = False
    beside: int = 1


@dataclass(frozen=True, kw_only=True)
class PreviewRequest(VolumeRequest):
    """Segment one slice soon, without stopping the run in progress.

    Parameters
    ----------
    index : int
        Slice along the slicing axis.
    probabilities : bool
        Whether to send probabilities with the labels.
    """

    index: int
    probabilities: bool = False


@dataclass(frozen=True, kw_only=True)
class EstimateRequest(VolumeRequest):
    """Try a few slices and estimate what a run takes; the last `Status` tells.

    Parameters
    ----------
    consensus : bool
        As for `SegmentRequest`.
    to_folder : bool
        Whether labels are written to a run folder.
    times : int
        Number of time points; `volume` is the first.
    """

    consensus: bool = False
    to_folder: bool = False
    times: int = 1


@dataclass(frozen=True)
class FolderRequest:
    """Read a file and write its labels to a run folder, which the recipe names."""

    recipe: Recipe


@dataclass(frozen=True, kw_only=True)
class FinetuneRequest:
    """Fine-tune a network; a cancelled run keeps the best weights so far.

    Parameters
    ----------
    data, output, checkpoint, options, device
        As for `napari_biomedparse.finetune`.
    """

    data: Path
    output: Path
    checkpoint: str
    options: FinetuneOptions
    device: str = "auto"


@dataclass(frozen=True)
class Voxels:
    """Stand for the data of a volume, which the model process reads slab by slab.

    Parameters
    ----------
    number : int
        The same for all views of the same voxels.
    chunks : tuple, optional
        Shape of the parts that are cheap to read at once.
    """

    number: int
    shape: tuple[int, ...]
    dtype: str
    chunks: tuple[int, ...] | None


# Sent during a run by napari.


@dataclass(frozen=True)
class LookAt:
    """Process the slices nearest to this index first."""

    index: int


@dataclass(frozen=True)
class Retune:
    """Apply other thresholds to finished slices and to those to come."""

    options: SegmentOptions


@dataclass(frozen=True)
class Cancel:
    """Stop the run."""


@dataclass(frozen=True)
class Slab:
    """Answer a `Read`; without voxels if they could not be read."""

    read: int
    voxels: npt.NDArray[Any] | None


# Sent during a run by the model process.


@dataclass(frozen=True)
class Read:
    """Ask for voxels: a (start, stop) for each axis."""

    number: int
    ranges: tuple[Span, ...]


@dataclass(frozen=True)
class Done:
    """Report the end of a run, cancelled or not."""


@dataclass(frozen=True)
class Failed:
    """Report the error that ended a run; its text is meant for users."""

    error: BiomedParseError


# Events: what a run reports, besides `SegmentedSlices`, `Progress` and `Finetuned`.


@dataclass(frozen=True)
class Status:
    """What the model process is doing: a short line for users."""

    text: str


@dataclass(frozen=True)
class Planned:
    """What is about to be computed, reported before the first slice.

    Parameters
    ----------
    axis, start, stop : int
        Slicing axis, and the range of slices along it.
    intensity : str
        How grey levels are mapped to the 0 to 255 that the network sees.
    truncated : tuple of str
        Prompts that are longer than the network reads.
    parameters : dict
        Everything needed to repeat the run.
    total : int
        Slices to segment; more than the range holds for a consensus.
    provenance : dict
        Source, model, parameters and environment, as a run's manifest has them.
    folder : str, optional
        Where labels are written, if they are not sent.
    kept : tuple of (int, int)
        Starts and stops of slices that an earlier run finished and this one skips.
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
    kept: tuple[Span, ...] = ()


@dataclass(frozen=True)
class Previewed:
    """One slice, segmented for a preview.

    Parameters
    ----------
    slices : SegmentedSlices
        A single one.
    probabilities : float32 ndarray, optional
        Shape of the labels; probability of the likeliest prompt in each pixel.
    """

    slices: SegmentedSlices
    probabilities: npt.NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Voted:
    """Final labels of a consensus, along the first axis; they replace earlier ones."""

    slices: SegmentedSlices


@dataclass(frozen=True)
class Instances:
    """Separated objects, after the last slice.

    Parameters
    ----------
    start : int
        Position of this part along the volume's first axis.
    labels : int32 ndarray
        Part of the volume along the first axis; each object has a number of its own.
    owners : ndarray
        Label id of each object number; entry 0 is background.
    """

    start: int
    labels: npt.NDArray[np.int32]
    owners: npt.NDArray[Any]


@dataclass(frozen=True)
class Written:
    """Number of slices whose labels are in the run folder, out of all."""

    done: int
    total: int


@dataclass(frozen=True)
class FolderResult:
    """Results of a finished run in a folder.

    Parameters
    ----------
    existence : float32 ndarray [P, slices] or [P, T, slices]
        Probabilities; NaN where not run.
    voxels : int64 ndarray, of the same shape
        Voxels of each prompt.
    """

    existence: npt.NDArray[np.float32]
    voxels: npt.NDArray[np.int64]


Request = (
    SegmentRequest | PreviewRequest | EstimateRequest | FolderRequest | FinetuneRequest
)
Control = LookAt | Retune | Cancel | Slab
Event = (
    Status
    | Planned
    | SegmentedSlices
    | Previewed
    | Voted
    | Instances
    | Written
    | FolderResult
    | Progress
    | Finetuned
)
Reply = Event | Read | Done | Failed
Message = Request | Control | Reply
PARTS = (Prompt, PromptSet, SegmentOptions, FinetuneOptions, Volume, Voxels, Recipe)
"""Dataclasses that messages contain."""
