"""Layers of a run folder, read from disk while it is being written."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from napari_biomedparse.viewer.axes import shown_series
from napari_biomedparse.viewer.layers import labels_layer_kwargs, object_features

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Labels

    from napari_biomedparse.widgets.segment.request import Request


class FolderLayers:
    """Adds the layers of a request that has a folder."""

    def __init__(self, viewer: Viewer, request: Request) -> None:
        self._viewer = viewer
        self._request = request

    def add_labels(self) -> Labels:
        """Add the labels, which are on disk from the start of a run."""
        from napari_biomedparse.runs.folder import LABELS

        return self._add(LABELS, "", instance=False)

    def add_objects(self) -> Labels:
        """Add the objects, which are on disk at the end of a run."""
        from napari_biomedparse.runs.folder import OBJECTS

        return self._add(OBJECTS, " objects", instance=True)

    def _add(self, place: str, what: str, *, instance: bool) -> Labels:
        from napari_biomedparse.io import open_file
        from napari_biomedparse.viewer.painting import paintable_or_pyramid

        request = self._request
        assert request.folder is not None
        (found,) = open_file(request.folder / place).labels
        volume = found.volume
        levels = [self._as_shown(level) for level in (volume.data, *volume.levels)]
        keywords = labels_layer_kwargs(
            request.image,
            replace(request.prompts, instance=instance),
            name=f"{request.title}{what}",
            series_at=request.channel_of_series,
        )
        if found.owners is not None:
            keywords["features"] = object_features(found.owners, request.prompts)
        # With its cache, napari would keep showing what it read before.
        image = request.folder / place
        keywords |= paintable_or_pyramid(image, levels, self._as_shown)
        keywords["cache"] = False
        for layer in self._viewer.layers:  # of an earlier run over this folder
            if layer.name.startswith(keywords["name"]):
                layer.visible = False
        return self._viewer.add_labels(**keywords)

    def _as_shown(self, level: Any) -> Any:
        """Return a level with the axes of the image's labels."""
        level = level[..., 0, :, :] if self._request.volumes[0].flat else level
        return (
            shown_series(self._request.image, level) if self._request.series else level
        )
