"""Layers of a run folder, read from disk while it is being written."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from napari_biomedparse.viewer.axes import shown_series
from napari_biomedparse.viewer.layers import (
    METADATA_KEY,
    known_of,
    labels_layer_kwargs,
    object_features,
    reviewed,
    show_accepted,
)

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Labels

    from napari_biomedparse.widgets.segment.request import Request


def add_labels_of_folder(viewer: Viewer, request: Request) -> Labels:
    """Add the labels, which are on disk from the start of a run."""
    from napari_biomedparse.runs.folder import LABELS

    return _add(viewer, request, LABELS, "", instance=False)


def add_objects_of_folder(viewer: Viewer, request: Request) -> Labels:
    """Add the objects, which are on disk at the end of a run."""
    from napari_biomedparse.runs.folder import OBJECTS

    return _add(viewer, request, OBJECTS, " objects", instance=True)


def _add(
    viewer: Viewer, request: Request, place: str, what: str, *, instance: bool
) -> Labels:
    from napari_biomedparse.io import open_file
    from napari_biomedparse.viewer.painting import paintable_or_pyramid

    assert request.folder is not None
    path = request.folder / place
    (found,) = open_file(path).labels

    def as_shown(level: Any) -> Any:
        """Return a level with the axes of the image's labels."""
        level = level[..., 0, :, :] if request.volumes[0].flat else level
        return shown_series(request.image, level) if request.series else level

    levels = [as_shown(level) for level in (found.volume.data, *found.volume.levels)]
    keywords = labels_layer_kwargs(
        request.image,
        replace(request.prompts, instance=instance),
        name=request.title(request.subject + what, viewer.layers),
        series_at=request.channel_of_series,
    )
    if found.owners is not None:
        keywords["features"] = object_features(found.owners, request.prompts)
    shown = paintable_or_pyramid(path, levels, as_shown, reviewed=reviewed)
    show_accepted(keywords, shown)
    # With its cache, napari would keep showing what it read before.
    keywords["cache"] = False
    for layer in viewer.layers:  # of an earlier run over this folder
        if known_of(layer).get("source") == str(path):
            layer.visible = False
    keywords["metadata"][METADATA_KEY]["source"] = str(path)
    return viewer.add_labels(**keywords)
