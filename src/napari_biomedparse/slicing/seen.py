"""What the network sees of a slice, for display. Free of torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from napari_biomedparse.data.volume import as_volume
from napari_biomedparse.errors import OptionError
from napari_biomedparse.slicing.intensity import choose_intensity
from napari_biomedparse.slicing.read import read_slices, region_of, slice_geometry

if TYPE_CHECKING:
    from napari_biomedparse.data.options import SegmentOptions
    from napari_biomedparse.data.volume import VolumeLike
    from napari_biomedparse.slicing.intensity import Intensity

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

    The resize is left out.

    Parameters
    ----------
    volume : array or Volume
        As for `segment`.
    options : SegmentOptions
    index : int
        Which slice, along the slicing axis of the region.
    intensity : Intensity, optional
        An earlier result of `choose_intensity`, which may take seconds for a large
        volume.
    size : int
        Edge length of the network's input, which affects the padding of slices that
        are cut into tiles.

    Returns
    -------
    uint8 ndarray [Y, X] or, in colour, [Y, X, 3]
        0 to 255. Values that the network gets unchanged are clipped to that.

    Raises
    ------
    VolumeError, OptionError, FormatError
        If there is no such slice, or as for `segment`.
    """
    volume = region_of(as_volume(volume), options)
    geometry = slice_geometry(volume, options, size)
    if not 0 <= index < geometry.depth:
        raise OptionError(
            f"{volume.name} has no slice {index} along axis "
            f"{volume.axes[geometry.axis]}; choose 0 to {geometry.depth - 1}."
        )
    if intensity is None:
        intensity = choose_intensity(
            volume.data, options.modality, colour=volume.is_colour
        )
    planes = intensity.apply(read_slices(volume, geometry.axis, index, index + 1))
    grey = np.clip(planes[0], 0, 255).astype(np.uint8)
    return np.pad(grey, (*geometry.pad, (0, 0))[: grey.ndim])
