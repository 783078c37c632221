"""Names of earlier versions, which work for one release with a warning."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Unpack

from napari_biomedparse.data.results import Segmentation
from napari_biomedparse.data.volume import choose_channel, volume_of
from napari_biomedparse.pipeline.plan import Times, merge_options, open_series
from napari_biomedparse.pipeline.segment import Model, Watch, segment

if TYPE_CHECKING:
    from napari_biomedparse.data.options import OptionChanges, SegmentOptions
    from napari_biomedparse.data.prompts import PromptsLike
    from napari_biomedparse.data.volume import VolumeLike

    Consensus = Segmentation


def __getattr__(name: str) -> object:
    """Return the result of a consensus by its earlier name."""
    if name != "Consensus":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    _warn("Consensus is now Segmentation")
    return Segmentation


def segment_series(
    volume: VolumeLike,
    prompts: PromptsLike,
    model: Model | None = None,
    options: SegmentOptions | None = None,
    *,
    channel: int | str | None = None,
    time: Times = None,
    device: str = "auto",
    **changes: Unpack[OptionChanges],
) -> Segmentation:
    """Segment a volume over time, as `segment` does now; deprecated."""
    _warn("segment_series is now segment, which recognises an axis t")
    axes = merge_options(options, changes).axes
    image = volume_of(volume, axes)
    series = open_series(choose_channel(image, channel), time)
    times = series.start, series.stop
    return segment(
        series.volume, prompts, model, options, time=times, device=device, **changes
    )


def segment_consensus(
    volume: VolumeLike,
    prompts: PromptsLike,
    model: Model | None = None,
    options: SegmentOptions | None = None,
    *,
    force: bool = False,
    watch: Watch | None = None,
    device: str = "auto",
    **changes: Unpack[OptionChanges],
) -> Segmentation:
    """Let runs along all axes vote, as ``segment(consensus=True)``; deprecated."""
    _warn("segment_consensus(...) is now segment(..., consensus=True)")
    return segment(
        volume,
        prompts,
        model,
        options,
        consensus=True,
        force=force,
        watch=watch,
        device=device,
        **changes,
    )


def _warn(message: str) -> None:
    warnings.warn(
        f"{message}; the old name will be removed in the next release.",
        DeprecationWarning,
        stacklevel=3,
    )
