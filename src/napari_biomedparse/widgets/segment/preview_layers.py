"""The layers of a preview, which lie on the slice that they show."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QObject, Signal

from napari_biomedparse.viewer.layers import (
    METADATA_KEY,
    labels_layer_kwargs,
    moved_translate,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    from napari import Viewer
    from napari.layers import Image, Labels, Layer
    from napari.utils.events import Event

    from napari_biomedparse.process.messages import Previewed
    from napari_biomedparse.widgets.segment.request import Request


class PreviewLayers(QObject):
    """Shows previews in a Labels layer and, with probabilities, an Image layer."""

    removed = Signal()

    def __init__(self, viewer: Viewer) -> None:
        super().__init__()
        self._viewer = viewer
        self._labels: Labels | None = None
        self._probabilities: Image | None = None
        self._removing = False
        viewer.layers.events.removed.connect(self._on_layer_removed)

    def show(self, request: Request, preview: Previewed) -> None:
        """Show a slice in place of the previous one."""
        flat = request.volumes[0].flat
        at, axis = preview.slices.start, preview.slices.axis
        keywords = labels_layer_kwargs(
            request.image,
            request.prompts_by_label,
            name=f"{request.image.name} preview",
        )
        start = [part.start or 0 for part in request.where]
        start[axis] += at
        keywords["translate"] = moved_translate(keywords, start[1:] if flat else start)
        labels = preview.slices.labels
        self._labels = self._put(self._labels, labels[0] if flat else labels, keywords)
        if preview.probabilities is None:
            self._drop(self._probabilities)
            self._probabilities = None
            return
        found = preview.probabilities
        for name in ("colormap", "features"):
            keywords.pop(name, None)
        keywords |= {
            "name": f"{request.image.name} probability",
            "colormap": "magma",
            "blending": "additive",
            "contrast_limits": (0.0, 1.0),
            "opacity": 0.6,
            "metadata": {METADATA_KEY: {"derived": True}},
        }
        self._probabilities = self._put(
            self._probabilities, found[0] if flat else found, keywords, image=True
        )

    def clear(self) -> None:
        """Remove the layers."""
        for layer in (self._labels, self._probabilities):
            self._drop(layer)
        self._labels = self._probabilities = None

    def give_away(self) -> Labels | None:
        """Remove the layers, but return the Labels layer for a run to fill."""
        given, self._labels = self._labels, None
        self.clear()
        return given

    def disconnect_viewer(self) -> None:
        """Disconnect from the viewer."""
        self._viewer.layers.events.removed.disconnect(self._on_layer_removed)

    def _put(
        self,
        layer: Any,
        data: npt.NDArray[Any],
        keywords: dict[str, Any],
        *,
        image: bool = False,
    ) -> Any:
        """Update a layer, or add one if it cannot be updated."""
        if layer is not None and layer.ndim == data.ndim:
            refill(layer, data, keywords, but=_CHOSEN_BY_USER)
            return layer
        self._drop(layer)
        selection = self._viewer.layers.selection
        chosen = selection.active
        add = self._viewer.add_image if image else self._viewer.add_labels
        added = add(data, **keywords)
        selection.active = chosen
        return added

    def _drop(self, layer: Layer | None) -> None:
        if layer is not None and layer in self._viewer.layers:
            self._removing = True
            self._viewer.layers.remove(layer)
            self._removing = False

    def _on_layer_removed(self, event: Event) -> None:
        if event.value not in (self._labels, self._probabilities) or self._removing:
            return
        if event.value is self._labels:
            self._labels = None
        else:
            self._probabilities = None
        self.removed.emit()


def refill(
    layer: Layer, data: Any, keywords: dict[str, Any], *, but: Sequence[str] = ()
) -> None:
    """Update a layer, which is faster than adding one, but keep some properties."""
    layer.editable = False  # painting cannot be undone in other data
    layer.data = data
    for name, value in keywords.items():
        if name not in but and not _is_so(layer, name, value):
            setattr(layer, name, value)


def _is_so(layer: Layer, name: str, value: Any) -> bool:
    """Return whether a layer has a transform already; setting it slices again."""
    if name == "affine":
        return np.array_equal(layer.affine.affine_matrix, value)
    return name in _TRANSFORMS and np.array_equal(getattr(layer, name), value)


_TRANSFORMS = ("scale", "translate", "rotate", "shear")
_CHOSEN_BY_USER = ("blending", "contrast_limits", "opacity", "name")
"""Properties that are set once and then left to the user."""
