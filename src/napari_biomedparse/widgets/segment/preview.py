"""The preview of the slice in view, updated whenever something changes."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QObject, Signal

from napari_biomedparse.errors import BiomedParseError
from napari_biomedparse.process.messages import (
    Failed,
    Previewed,
    PreviewRequest,
    Status,
)
from napari_biomedparse.viewer.layers import (
    METADATA_KEY,
    labels_layer_kwargs,
    moved_translate,
)
from napari_biomedparse.widgets.shared.parts import pause
from napari_biomedparse.widgets.shared.task import Task, TaskThread

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt
    from napari import Viewer
    from napari.layers import Image, Labels, Layer
    from napari.utils.events import Event

    from napari_biomedparse.process import Session
    from napari_biomedparse.widgets.segment.request import Request

_TRANSFORMS = ("scale", "translate", "rotate", "shear")
_CHOSEN_BY_USER = ("blending", "contrast_limits", "opacity", "name")
"""Properties that are set once and then left to the user."""
PAUSE = 300
"""Milliseconds without a change before a preview is requested."""


class LivePreview(QObject):
    """Requests one slice at a time; outdated results are not shown."""

    def __init__(
        self,
        viewer: Viewer,
        session: Session,
        request: Callable[[], Request],
        slice_in_view: Callable[[Request], tuple[int, int]],
        say: Callable[[str], None],
        parent: QObject,
    ) -> None:
        super().__init__(parent)
        self.layers = PreviewLayers(viewer)
        self._session = session
        self._make_request = request
        self._slice_in_view = slice_in_view
        self._say = say
        self._on = self._held = self._stale = self._probabilities = False
        self._task: Task | None = None
        self._thread: TaskThread | None = None
        self._requested: Request | None = None
        self._began = 0.0
        self._pause = pause(self, PAUSE, self._ask)

    def switch(self, on: bool, *, probabilities: bool) -> None:
        """Turn the preview on or off, with or without probabilities."""
        self._on, self._probabilities = on, probabilities
        if on:
            self._pause.start(0)
        else:
            self._drop()
            self.layers.clear()

    def hold(self, held: bool) -> None:
        """Pause for a run, which clears the layers; or continue after it."""
        self._held = held
        if held:
            self._drop()

    def changed(self) -> None:
        """Update after a change of the slice, the prompts or the options."""
        if self._on and not self._held:
            if self._task is not None:
                self._task.cancel()
            self._pause.start()

    def close(self) -> None:
        """Stop for good; Qt may already have deleted the timer."""
        self._on = False
        self._cancel()
        self.layers.disconnect_viewer()

    def _drop(self) -> None:
        self._pause.stop()
        self._cancel()

    def _cancel(self) -> None:
        self._stale = False
        if self._task is not None:
            self._task.cancel()

    def _ask(self) -> None:
        if self._task is not None:  # one at a time: the process works in order
            self._stale = True
            return
        try:
            request = self._make_request()
            request.hold()
        except BiomedParseError as error:
            self.layers.clear()
            self._say(f"No preview: {error}")
            return
        at, moment = self._slice_in_view(request)
        options = request.options
        if request.separate:
            options = replace(options, overlaps="score")
        message = PreviewRequest(
            volume=request.volumes[moment],
            prompts=request.prompts_by_label,
            options=options,
            model=request.model,
            device=request.device,
            index=at,
            probabilities=self._probabilities,
        )
        task = Task(lambda: self._session.start(message))
        self._requested, self._task, self._began = request, task, time.monotonic()
        self._thread = TaskThread(task, self._on_step, self._on_finished)
        self._thread.start()

    def _on_step(self, step: object) -> None:
        task, request = self._task, self._requested
        if task is None or request is None or task.cancelled:
            return
        if isinstance(step, Status):
            self._say(step.text)
        elif isinstance(step, Failed):
            self._say(f"No preview: {step.error}")
        elif isinstance(step, Previewed):
            self.layers.show(request, step)
            took = time.monotonic() - self._began
            self._say(f"Preview of slice {step.slices.start} in {took:.1f} s.")

    def _on_finished(self) -> None:
        self._task = self._thread = None
        if self._stale:
            self._stale = False
            self._ask()


class PreviewLayers(QObject):
    """Shows previews in a Labels layer and, with probabilities, an Image layer."""

    removed = Signal()

    def __init__(self, viewer: Viewer) -> None:
        super().__init__()
        self._viewer = viewer
        self._labels: Labels | None = None
        self._probabilities: Image | None = None
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
            layer.editable = image  # painted labels would be lost with the next slice
            return layer
        self._drop(layer)
        selection = self._viewer.layers.selection
        chosen = selection.active
        add = self._viewer.add_image if image else self._viewer.add_labels
        added = add(data, **keywords)
        added.editable = image
        selection.active = chosen
        return added

    def _drop(self, layer: Layer | None) -> None:
        if layer is not None and layer in self._viewer.layers:
            with self._viewer.layers.events.removed.blocker(self._on_layer_removed):
                self._viewer.layers.remove(layer)

    def _on_layer_removed(self, event: Event) -> None:
        if event.value not in (self._labels, self._probabilities):
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
    for editable in (True, False):  # strokes cannot be undone in other data
        layer.editable = editable
    layer.data = data
    for name, value in keywords.items():
        if name not in but and not _is_so(layer, name, value):
            setattr(layer, name, value)


def _is_so(layer: Layer, name: str, value: Any) -> bool:
    """Return whether a layer has a transform already; setting it slices again."""
    if name == "affine":
        return np.array_equal(layer.affine.affine_matrix, value)
    return name in _TRANSFORMS and np.array_equal(getattr(layer, name), value)
