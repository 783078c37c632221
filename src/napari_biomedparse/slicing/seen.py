"""What the network sees of a slice, for display. Free of torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from napari_biomedparse.data.volume import Volume, VolumeLike, as_volume
from napari_biomedparse.errors import OptionError
from napari_biomedparse.slicing.intensity import Intensity, choose_intensity
from napari_biomedparse.slicing.read import read_slices, region_of, slice_geometry

if TYPE_CHECKING:
    from napari_biomedparse.data.options import SegmentOptions

PUBLISHED_SIZE = 512
"""Edge length of the published network's input."""


def seen_slice(
    volume: VolumeLike,
    options: SegmentOptions,
    index: int,
    *,
    intensity: Intensity | None = None,
    size: int = PUBLISHED_SIZE,
) -> npt.NDArray[np.uint8]:
    """Return a slice with the grey levels and the padding that the network gets.

    The result is that of `grey_slice`, padded but not resized. `volume` and errors are
    as for `segment`; `index` is along the slicing axis of the region, an `OptionError`
    if there is no such slice. `intensity` is an earlier result of `choose_intensity`,
    which may take seconds for a large volume. The edge length `size` of the network's
    input affects the padding of slices that are cut into tiles.
    """
    volume = region_of(as_volume(volume, axes=options.axes), options)
    geometry = slice_geometry(volume, options, size)
    if not 0 <= index < geometry.depth:
        raise OptionError(
            f"{volume.name} has no slice {index} along axis "
            f"{volume.axes[geometry.axis]}; choose 0 to {geometry.depth - 1}."
        )
    if intensity is None:
        intensity = choose_intensity(volume.data, options.modality)
    grey = grey_slice(volume, geometry.axis, index, intensity)
    return np.pad(grey, (*geometry.pad, (0, 0))[: grey.ndim])


def grey_slice(
    volume: Volume, axis: int, at: int, intensity: Intensity
) -> npt.NDArray[np.uint8]:
    """Return the grey levels of a slice, uint8 [Y, X] or, in colour, [Y, X, 3].

    Values that the network gets unchanged are clipped to 0 to 255.
    """
    values = intensity.apply(read_slices(volume, axis, at, at + 1))[0]
    return np.asarray(np.clip(values, 0, 255).astype(np.uint8))
