"""What is to be done, and on what, in words that JSON can hold."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from napari_biomedparse.data.options import SegmentOptions
    from napari_biomedparse.data.prompts import PromptSet
    from napari_biomedparse.data.volume import Volume


def describe_task(prompts: PromptSet, options: SegmentOptions) -> dict[str, Any]:
    """Put what is to be found, and how, in words that JSON can hold."""
    return {
        "prompts": [[prompt.id, prompt.text] for prompt in prompts.prompts],
        "instance": prompts.instance,
        "order": prompts.order,
        "options": asdict(options),
    }


class Volumes:
    """Describes volumes, and tells by a number whether two have the same voxels."""

    def __init__(self) -> None:
        self._count = 0
        self._last: tuple[object, Any] | None = None

    def describe(self, volume: Volume) -> dict[str, Any]:
        """Put all but the voxels of a volume in words that JSON can hold."""
        data = volume.data
        chunks = getattr(data, "chunksize", getattr(data, "chunks", None))
        return {
            "volume": {
                "number": self._number_of(volume),
                "shape": volume.shape,
                "dtype": volume.dtype.str,
                "chunks": chunks,
                "axes": volume.axes,
                "spacing": volume.spacing,
                "units": volume.units,
                "origin": volume.origin,
                "name": volume.name,
            },
        }

    def _number_of(self, volume: Volume) -> int:
        """Return the same number for the same voxels, if in another view of them."""
        same = _identity(volume.data)
        if self._last is None or self._last[0] != same:
            self._count += 1
            self._last = same, volume.data  # which keeps the memory from others
        return self._count

    def forget(self) -> None:
        """Let go of the last volume."""
        self._last = None


def _identity(data: Any) -> object:
    """Return what two views of the same voxels have in common."""
    if isinstance(data, np.ndarray):
        about = data.__array_interface__
        return about["data"], data.shape, data.strides, data.dtype
    return getattr(data, "name", None) or id(data)  # dask's name tells what it holds
