"""`TrainingVolume`, and checks of its labels."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_biomedparse.errors import (
    BiomedParseError,
    PromptError,
    VolumeError,
    check_shortage,
)

if TYPE_CHECKING:
    from napari_biomedparse.training.wordings import Wordings

logger = logging.getLogger(__name__)


class OnDemand:
    """An array that is read each time it is used, as there may be thousands.

    `read` returns everything, perhaps mapped into memory; `identity` names the content,
    by default its checksum.
    """

    def __init__(
        self, read: Callable[[], npt.NDArray[Any]], identity: str = ""
    ) -> None:
        self._read, array = read, read()
        self.shape, self.dtype = array.shape, array.dtype
        self.identity = identity or sha256(array.tobytes()).hexdigest()

    def take(self, index: int, axis: int, /) -> npt.NDArray[Any]:
        """Return one plane, in memory."""
        return np.array(self._read().take(index, axis))

    def __array__(
        self, dtype: Any = None, copy: bool | None = None
    ) -> npt.NDArray[Any]:
        """Return everything."""
        return np.asarray(self._read(), dtype)


Planes = npt.NDArray[Any] | OnDemand


@dataclass(frozen=True)
class TrainingVolume:
    """An image with its labels, checked, on one grid.

    Parameters
    ----------
    image : uint8 array [Z, Y, X] or [Z, Y, X, 3]
        Grey levels, or channels that enter the network unchanged, such as colours.
    labels : integer array [Z, Y, X]
        Label ids, or instance numbers if ``wordings.instance``; 0 is background.
    axes : tuple of int
        Slicing axes; with channels only the first one.
    reviewed : tuple of int, optional
        Slices to train on, which requires a single slicing axis; all by default.
    nifti : bool
        Whether they are from a NIfTI file, of which v1 is shown x downwards.
    """

    name: str
    dataset: str
    image: Planes
    labels: Planes
    wordings: Wordings
    axes: tuple[int, ...]
    reviewed: tuple[int, ...] | None = None
    nifti: bool = False

    def __post_init__(self) -> None:
        """Refuse arrays that do not fit, and labels that are not integers."""
        check_fit(self.name, self.image.shape[:3], self.labels.shape)
        if self.labels.dtype.kind not in "bui":
            raise VolumeError(
                f"{self.name} has labels of type {self.labels.dtype}; integers are "
                "required."
            )
        if self.has_channels and self.axes != (0,):
            raise VolumeError(
                f"{self.name} has channels, so it can only be sliced along its first "
                "axis."
            )
        if self.reviewed is not None:
            (axis,) = self.axes
            if not set(self.reviewed) <= set(range(self.labels.shape[axis])):
                raise VolumeError(
                    f"{self.name} lists reviewed slices that it does not have."
                )

    @property
    def has_channels(self) -> bool:
        """Whether slices have three channels of their own instead of neighbours."""
        return len(self.image.shape) == 4


def load_each(
    cases: Sequence[tuple[str, Path, Callable[[], Iterable[TrainingVolume]]]],
    on_case: Callable[[str, int, int], None] | None,
) -> tuple[TrainingVolume, ...]:
    """Load cases, each given by name, image and loader; report all problems at once."""
    volumes: list[TrainingVolume] = []
    problems: list[str] = []
    for number, (name, path, load) in enumerate(cases):
        if on_case:
            on_case(name, number, len(cases))
        try:
            volumes += load()
        except BiomedParseError as error:
            problems.append(f"{name}: {error}")
        except Exception as error:  # codecs report damage in any way
            check_shortage(error)
            logger.debug("%s", name, exc_info=True)
            problems.append(f"{path}: {type(error).__name__}: {error}")
    if problems:
        listed = "\n".join(f"- {problem}" for problem in problems)
        raise VolumeError(
            f"{len(problems)} of {len(cases)} cases cannot be used:\n{listed}\n"
            "Fix or remove them. Nothing was trained."
        )
    require_targets(volumes)
    return tuple(volumes)


def require_targets(volumes: Iterable[TrainingVolume]) -> None:
    """Raise a `VolumeError` if no voxel belongs to any class."""
    if not any(targets(volume.labels, volume.wordings).any() for volume in volumes):
        raise VolumeError(
            "The training data are empty: no voxel has a label with a prompt."
        )


def targets(labels: Planes, wordings: Wordings) -> npt.NDArray[np.bool_]:
    """Return which voxels belong to a class with a prompt, bool [Z, Y, X]."""
    values = np.asarray(labels)
    if wordings.instance or wordings.overlapping:
        return np.asarray(values > 0)
    return np.isin(values, wordings.classes)


def check_fit(name: str, image: tuple[int, ...], labels: tuple[int, ...]) -> None:
    """Raise a `VolumeError` if image and labels have different shapes."""
    if tuple(image) != tuple(labels):
        raise VolumeError(
            f"{name} has an image of shape {tuple(image)} and labels of shape "
            f"{tuple(labels)}; they must be equal."
        )


def check_classes(values: Iterable[int], wordings: Wordings) -> None:
    """Raise a `PromptError` for negative labels and classes without prompts."""
    found = {int(value) for value in values} - {0}
    if any(value < 0 for value in found):
        raise PromptError("it has negative labels; 0 is background, classes are > 0")
    unknown = sorted(found - set(wordings.texts))
    if unknown and not wordings.instance:
        shown = ", ".join(map(str, unknown[:5]))
        raise PromptError(
            f"its labels have {len(unknown)} classes without a prompt ({shown}); add "
            "wordings for them, or an empty list to make them background (set "
            "instance_label to 1 if the values are instances)"
        )
