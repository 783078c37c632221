"""What napari and its model process tell each other: one dataclass for each message.

napari sends a request, which begins a run, and may `LookAt`, `Retune` or `Cancel` it.
The model process asks for voxels by `Read`, which a `Slab` answers, reports events, and
ends the run by `Done` or `Failed`. A channel carries the number of the run with each.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from napari_biomedparse.data.options import SegmentOptions
from napari_biomedparse.data.prompts import Prompt, PromptSet
from napari_biomedparse.data.results import SegmentedSlices
from napari_biomedparse.data.volume import Volume

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from napari_biomedparse.data.results import Span
    from napari_biomedparse.errors import BiomedParseError
    from napari_biomedparse.runs.recipe import Recipe
    from napari_biomedparse.training.options import FinetuneOptions
    from napari_biomedparse.training.progress import Finetuned, Progress

# Requests: each begins a run.


@dataclass(frozen=True)
class VolumeRequest:
    """A request about a volume whose voxels stay in napari's process."""

    volume: Volume
    """Three axes; numpy, dask or zarr. `Voxels` stand for its data on the way."""
    prompts: PromptSet
    options: SegmentOptions
    model: str = "v2"
    """Name, file or folder, as `load_model` takes it."""
    device: str = "auto"
    cache_bytes: int | None = None
    """Memory for features of recently seen slices; filled in by the session."""


@dataclass(frozen=True, kw_only=True)
class SegmentRequest(VolumeRequest):
    """Segment a volume, or along all axes and vote."""

    consensus: bool = False
    done: tuple[Span, ...] = ()
    """Slices that an earlier run finished; `Planned` says which of them are kept."""
    front: int | None = None
    """The slice in view: it comes first, then its neighbours."""
    earlier: int | None = None
    """Number of that earlier run, whose scores may still be stored."""
    again: bool = False
    """Whether to recompute the finished slices, with other thresholds, and no more."""
    beside: int = 1
    """Number of runs that share the room for scores, such as those of a time series."""
    kind: str = ""
    """Kind of an image to recognize, the only slice; all its targets are prompts."""


@dataclass(frozen=True, kw_only=True)
class PreviewRequest(VolumeRequest):
    """Segment one slice soon, without stopping the run in progress."""

    index: int
    """Slice along the slicing axis."""
    probabilities: bool = False
    """Whether to send probabilities with the labels."""


@dataclass(frozen=True, kw_only=True)
class EstimateRequest(VolumeRequest):
    """Try a few slices and estimate what a run takes; the last `Status` tells."""

    consensus: bool = False
    to_folder: bool = False
    """Whether labels are written to a run folder."""
    times: int = 1
    """Number of time points; `volume` is the first."""


@dataclass(frozen=True, kw_only=True)
class TeachRequest(VolumeRequest):
    """Learn from corrected slices, and write a model that finds more."""

    corrected: tuple[int, ...]
    """Numbers of these slices along the slicing axis."""
    labels: npt.NDArray[np.int32]
    """Their labels [n, Y, X]; -1 where nothing is known."""
    output: Path
    """Ends in .taught.safetensors; is replaced."""
    earlier: int | None = None
    """Number of a run of the same prompts, whose features may still be stored."""


@dataclass(frozen=True)
class FolderRequest:
    """Read a file and write its labels to a run folder, which the recipe names."""

    recipe: Recipe


@dataclass(frozen=True, kw_only=True)
class FinetuneRequest:
    """Fine-tune a network by `finetune`; a cancelled run keeps the best weights."""

    data: Path
    output: Path
    checkpoint: str
    options: FinetuneOptions
    device: str = "auto"


@dataclass(frozen=True)
class Voxels:
    """Stand for the data of a volume, which the model process reads slab by slab."""

    number: int
    """The same for all views of the same voxels."""
    shape: tuple[int, ...]
    dtype: str
    chunks: tuple[int, ...] | None
    """Shape of the parts that are cheap to read at once."""


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
class Warned(Status):
    """What users should know of the result: a warning that was logged."""


@dataclass(frozen=True)
class Planned:
    """What is about to be computed, reported before the first slice."""

    axis: int
    """The slicing axis."""
    truncated: tuple[str, ...]
    """Prompts that are longer than the network reads."""
    parameters: dict[str, Any]
    """Everything needed to repeat the run."""
    total: int
    """Slices to segment, of all axes for a consensus; or targets to look for."""
    provenance: dict[str, Any]
    """Source, model, parameters and environment, as a run's manifest has them."""
    kept: tuple[Span, ...] = ()
    """Slices that an earlier run finished and this one skips."""


@dataclass(frozen=True)
class Previewed:
    """One slice, segmented for a preview."""

    slices: SegmentedSlices
    probabilities: npt.NDArray[np.float32] | None = None
    """Of the likeliest prompt in each pixel, in the shape of the labels."""


@dataclass(frozen=True)
class Voted:
    """Final labels of a consensus, along the first axis; they replace earlier ones."""

    slices: SegmentedSlices


@dataclass(frozen=True)
class Instances:
    """Separated objects in a part of the volume, after the last slice."""

    start: int
    """Position along the volume's first axis."""
    labels: npt.NDArray[np.int32]
    """Each object has a number of its own."""
    owners: npt.NDArray[Any]
    """Label id of each object number; entry 0 is background."""
    scores: npt.NDArray[np.float32]
    """Score of each object number; see `Owners`."""


@dataclass(frozen=True)
class Counted:
    """Slices whose labels are in the run folder, or targets looked for, out of all."""

    done: int
    total: int


@dataclass(frozen=True)
class Recognized:
    """What became of each target, after the labels; see `Recognition`."""

    p_values: tuple[float | None, ...]
    outcomes: tuple[str, ...]


@dataclass(frozen=True)
class Learned:
    """What corrections taught: a file that is a model."""

    path: Path
    slices: tuple[int, ...]
    """The corrected ones."""
    texts: tuple[str, ...]
    dice_text: tuple[float, ...]
    dice_taught: tuple[float, ...]
    """Dice coefficients on corrections left out, of each prompt; see `Lesson`."""


@dataclass(frozen=True)
class FolderResult:
    """Results of a finished run in a folder, [P, slices] or [P, T, slices]."""

    existence: npt.NDArray[np.float32]
    """Probabilities; NaN where not run."""
    voxels: npt.NDArray[np.int64]
    """Of each prompt."""


Request = (
    SegmentRequest
    | PreviewRequest
    | EstimateRequest
    | TeachRequest
    | FolderRequest
    | FinetuneRequest
)
Control = LookAt | Retune | Cancel | Slab
_SegmentEvent = (
    Status
    | Warned
    | Planned
    | SegmentedSlices
    | Previewed
    | Voted
    | Instances
    | Counted
    | Recognized
    | Learned
    | FolderResult
)
_Usual = Request | Control | _SegmentEvent | Read | Done | Failed
if TYPE_CHECKING:
    Event = _SegmentEvent | Progress | Finetuned
    Reply = Event | Read | Done | Failed
    Message = Request | Control | Reply


def usual_classes() -> tuple[type, ...]:
    """Return the dataclasses that occur in messages about segmenting a volume."""
    return (*get_args(_Usual), Prompt, PromptSet, SegmentOptions, Volume, Voxels)


def other_classes() -> tuple[type, ...]:
    """Return those of run folders and training, which are imported when they occur."""
    from napari_biomedparse.runs.recipe import Recipe
    from napari_biomedparse.training.options import FinetuneOptions
    from napari_biomedparse.training.progress import Finetuned, Progress

    return Recipe, FinetuneOptions, Progress, Finetuned
