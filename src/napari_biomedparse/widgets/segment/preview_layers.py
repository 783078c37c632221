"""The layers of a preview: one slice thin, lying on the slice that they show."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from napari.utils.transforms import Affine
from qtpy.QtCore import QObject, Signal

from napari_biomedparse.viewer.layers import METADATA_KEY, labels_layer_kwargs

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    from napari import Viewer
    from napari.layers import Image, Labels, Layer
    from napari.utils.events import Event

    from napari_biomedparse.process.messages import Previewed
    from napari_biomedparse.widgets.segment.request import Request


class PreviewLayers(QObject):
    """Shows previews in a Labels layer and, if wanted, in an Image layer.

    Parameters
    ----------
    viewer : napari.Viewer
    """

    removed = Signal()

    def __init__(self, viewer: Viewer) -> None:
        super().__init__()
        self._viewer = viewer
        self._labels: Labels | None = None
        self._probabilities: Image | None = None
        self._removing = False
        viewer.layers.events.removed.connect(self._on_layer_removed)

    def show(self, asked: Request, preview: Previewed) -> None:
        """Show a slice, in place of the last one.

        Parameters
        ----------
        asked : Request
            Whose image it is a slice of.
        preview : Previewed
        """
        flat = asked.volumes[0].flat
        at, axis = preview.slices.start, preview.slices.axis
        keywords = labels_layer_kwargs(
            asked.image, asked.prompts_by_label, name=f"{asked.image.name} preview"
        )
        start = [part.start or 0 for part in asked.where]
        start[axis] += at
        keywords["translate"] = _moved(keywords, start[1:] if flat else start)
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
            "name": f"{asked.image.name} probability",
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
        """Remove what is shown."""
        for layer in (self._labels, self._probabilities):
            self._drop(layer)
        self._labels = self._probabilities = None

    def give_away(self) -> Labels | None:
        """Remove what is shown, but for the labels' layer, which somebody else fills.

        Returns
        -------
        napari.layers.Labels or None
            In the viewer; None if there is none.
        """
        given, self._labels = self._labels, None
        self.clear()
        return given

    def disconnect_viewer(self) -> None:
        """Stop following the viewer."""
        self._viewer.layers.events.removed.disconnect(self._on_layer_removed)

    def _put(
        self,
        layer: Any,
        data: npt.NDArray[Any],
        keywords: dict[str, Any],
        *,
        image: bool = False,
    ) -> Any:
        """Give a layer other data and another place, or make one."""
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
    """Have a layer show other data, which napari does sooner than making a layer.

    Parameters
    ----------
    layer : napari.layers.Layer
    data : array
        With as many axes.
    keywords : dict
        What the layer would be made with.
    but : sequence of str
        What of it stays as it is.
    """
    layer.editable = False  # what was painted cannot be undone in other data
    layer.data = data
    for name, value in keywords.items():
        if name not in but and not _is_so(layer, name, value):
            setattr(layer, name, value)


def _is_so(layer: Layer, name: str, value: Any) -> bool:
    """Say whether a layer has a transform, after each of which napari slices anew."""
    if name == "affine":
        return np.array_equal(layer.affine.affine_matrix, value)
    return name in _TRANSFORMS and np.array_equal(getattr(layer, name), value)


_TRANSFORMS = ("scale", "translate", "rotate", "shear")
_CHOSEN_BY_USER = ("blending", "contrast_limits", "opacity", "name")
"""What is set once, and then left as the user wants it."""


def _moved(keywords: dict[str, Any], start: list[int]) -> npt.NDArray[np.float64]:
    """Return where a layer would begin if it began at another of its voxels."""
    own = Affine(
        scale=keywords["scale"], rotate=keywords["rotate"], shear=keywords["shear"]
    )
    moved: npt.NDArray[np.float64] = (
        np.asarray(keywords["translate"]) + np.asarray(own.linear_matrix) @ start
    )
    return moved
