"""The noun `TrainingVolume`, and what training asks of labels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from napari_biomedparse.errors import PromptError, VolumeError

if TYPE_CHECKING:
    from napari_biomedparse.training.wordings import Wordings


class Planes(Protocol):
    """What is asked of the arrays of a volume; numpy's do it, too."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Size along each axis."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of one voxel."""

    def take(self, index: int, axis: int, /) -> npt.NDArray[Any]:
        """Return one plane."""

    def __array__(self) -> npt.NDArray[Any]:
        """Return everything."""


class KeptArray:
    """An array in a file, open only while it is looked at: there may be thousands.

    Parameters
    ----------
    path : Path
        An ``.npy``, whose name tells what it holds.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.identity = path.name
        array = self.__array__()
        self.shape, self.dtype = array.shape, array.dtype

    def take(self, index: int, axis: int, /) -> npt.NDArray[Any]:
        """Return one plane, in memory."""
        return np.array(self.__array__().take(index, axis))

    def __array__(
        self, dtype: Any = None, copy: bool | None = None
    ) -> npt.NDArray[Any]:
        """Map everything into memory."""
        array: npt.NDArray[Any] = np.load(self._path, mmap_mode="r")
        return array if dtype is None else array.astype(dtype)


@dataclass(frozen=True)
class TrainingVolume:
    """An image with its labels, checked, on one grid.

    Parameters
    ----------
    name, dataset : str
    image : uint8 array [Z, Y, X] or [Z, Y, X, 3]
        In grey, or with channels that enter the network as they are, such as colours.
    labels : integer array [Z, Y, X]
        Label ids, or object numbers where the wordings say so; 0 is background.
    wordings : Wordings
    axes : tuple of int
        Along which slices are cut; with channels the first one only.
    reviewed : tuple of int, optional
        Slices along the one axis there is that may be learned from; all by default.
    """

    name: str
    dataset: str
    image: Planes
    labels: Planes
    wordings: Wordings
    axes: tuple[int, ...]
    reviewed: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        """Refuse arrays that do not fit, labels of fractions and unknown classes."""
        check_fit(self.name, self.image.shape[:3], self.labels.shape)
        if self.labels.dtype.kind not in "bui":
            raise VolumeError(
                f"{self.name} has labels of type {self.labels.dtype}; whole numbers "
                "are needed."
            )
        if self.has_channels and self.axes != (0,):
            raise VolumeError(
                f"{self.name} has channels; it can be sliced along its first axis only."
            )
        if self.reviewed is not None:
            (axis,) = self.axes
            if not set(self.reviewed) <= set(range(self.labels.shape[axis])):
                raise VolumeError(
                    f"{self.name} names slices as reviewed that it does not have."
                )

    @property
    def has_channels(self) -> bool:
        """Whether slices bring their three channels instead of their neighbours."""
        return len(self.image.shape) == 4


def refuse_problems(problems: Sequence[str], count: int) -> None:
    """Name all that is wrong with `count` cases, if anything is.

    Raises
    ------
    VolumeError
    """
    if problems:
        listed = "\n".join(f"- {problem}" for problem in problems)
        raise VolumeError(
            f"{len(problems)} of {count} cases cannot be used:\n{listed}\n"
            "Mend or remove them; nothing was trained."
        )


def require_targets(volumes: Iterable[TrainingVolume]) -> None:
    """Refuse data without a single voxel of any class.

    Raises
    ------
    VolumeError
    """
    if not any(targets(volume.labels, volume.wordings).any() for volume in volumes):
        raise VolumeError(
            "The training data are empty: no voxel has a label with a prompt."
        )


def targets(labels: Planes, wordings: Wordings) -> npt.NDArray[np.bool_]:
    """Tell which voxels belong to a class that is asked for, bool [Z, Y, X]."""
    values = np.asarray(labels)
    if wordings.instance:
        return np.asarray(values > 0)
    return np.isin(values, wordings.classes)


def check_fit(name: str, image: tuple[int, ...], labels: tuple[int, ...]) -> None:
    """Refuse an image and labels of different shape.

    Raises
    ------
    VolumeError
    """
    if tuple(image) != tuple(labels):
        raise VolumeError(
            f"{name} has an image of shape {tuple(image)} and labels of shape "
            f"{tuple(labels)}; they must be the same."
        )


def check_classes(values: Iterable[int], wordings: Wordings) -> None:
    """Refuse label values that nothing is known of.

    Raises
    ------
    PromptError
    """
    found = {int(value) for value in values} - {0}
    if any(value < 0 for value in found):
        raise PromptError("its labels are below 0; 0 is background, classes lie above")
    unknown = sorted(found - set(wordings.texts))
    if unknown and not wordings.instance:
        shown = ", ".join(map(str, unknown[:5]))
        raise PromptError(
            f"its labels have {len(unknown)} classes without a prompt ({shown}); add "
            "wordings for them, or an empty list to make them background (set "
            "instance_label to 1 if the values are objects)"
        )
