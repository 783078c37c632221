"""The dock widget that corrects objects of a Labels layer by clicks."""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from magicgui.widgets import SpinBox
from napari.layers import Labels
from qtpy.QtWidgets import QButtonGroup

from napari_biomedparse.data.prompts import INSTANCE_KEY
from napari_biomedparse.errors import VolumeError
from napari_biomedparse.labels.proofread import (
    MARGIN,
    Change,
    between,
    object_at,
    recolored,
    small_objects,
    smoothed,
    split,
    without_holes,
)
from napari_biomedparse.viewer.axes import shown_position
from napari_biomedparse.viewer.layers import known_of
from napari_biomedparse.widgets.shared.docks import Dock
from napari_biomedparse.widgets.shared.form import LayerChoice, form_of
from napari_biomedparse.widgets.shared.parts import button, column, row

if TYPE_CHECKING:
    from napari import Viewer
    from qtpy.QtWidgets import QPushButton

Place = tuple[int, ...]


class ProofreadWidget(Dock):
    """Delete, merge, split, fill and smooth objects by clicks on the canvas.

    Every correction is a stroke of a person: napari's Ctrl+Z takes it back, no run
    overwrites it, and *Learn from accepted slices* learns from it.
    """

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__(napari_viewer)
        self.labels = LayerChoice(
            napari_viewer,
            Labels,
            label="Labels",
            tooltip="The labels to correct. Follows the selected layer.",
        )
        self._group = QButtonGroup(self)
        self._group.setExclusive(False)
        self._first: Place | None = None
        self._watched: Labels | None = None
        tools: list[tuple[str, str, Callable[[Labels, Place], None]]] = [
            ("Delete", "Click an object to delete it.", self._delete),
            ("Fill holes", "Click an object to fill what it encloses.", self._fill),
            ("Smooth", "Click an object to smooth its surface.", self._smooth),
            ("Merge", "Click an object, and one that shall become part of it.",
             partial(self._with_two, self._merge)),
            ("Split", "Click twice in an object, where its two parts are.",
             partial(self._with_two, self._split)),
        ]  # fmt: skip
        self.tools: dict[str, QPushButton] = {}
        self._does: dict[str, Callable[[Labels, Place], None]] = {}
        for name, tip, do in tools:
            made = button(name, f"{tip} Ctrl+Z undoes it.")
            made.setCheckable(True)
            made.toggled.connect(partial(self._on_toggled, name))
            self._group.addButton(made)
            self.tools[name], self._does[name] = made, do
        self.interpolate_button = button(
            "Interpolate",
            "Fill the slices around the one in view, between the nearest two that have "
            "the selected label.",
            self.interpolate,
        )
        self.smallest = SpinBox(
            label="Minimum size",
            value=30,
            min=1,
            max=2**31 - 1,
            tooltip="Objects of fewer voxels are small.",
        )
        self.small_button = button(
            "Remove small", "Remove all small objects.", self.remove_small
        )
        shown = list(self.tools.values())
        column(
            self,
            form_of(self.labels),
            row(*shown[:3]),
            row(*shown[3:], self.interpolate_button),
            form_of(self.smallest),
            row(self.small_button, 1),
            self.problem,
            self.status,
            1,
            margins=True,
        )
        self.labels.changed.connect(self._watch)
        self.destroyed.connect(lambda *_: self._forget())
        self._watch()

    def reset_choices(self, *_: Any) -> None:
        """List the current layers; napari calls this when they change."""
        self.labels.reset_choices()
        self._watch()

    def click(self, at: Place) -> None:
        """Use the chosen tool at a voxel of the layer."""
        layer = self.labels.value
        chosen = [name for name, one in self.tools.items() if one.isChecked()]
        if layer is None or not chosen:
            return
        self.problem.tell("")
        with self.problem.shown():
            if layer.multiscale:
                raise VolumeError(
                    "A pyramid cannot be corrected: open its labels alone."
                )
            self._does[chosen[0]](layer, at)

    def interpolate(self) -> None:
        """Fill slices between the nearest two with the selected label."""
        layer = self.labels.value
        if layer is None or layer.ndim < 3:
            return
        self.problem.tell("")
        with self.problem.shown():
            axis = layer.ndim - 3
            at, value = shown_position(layer, self._viewer.dims), layer.selected_label
            below, above = (self._nearest(layer, at, step) for step in (-1, 1))
            if below is None or above is None:
                raise VolumeError(
                    f"Label {value} must be in a slice before and one after this one: "
                    "paint it there, and select it."
                )
            voxels, values = [], []
            planes = (self._plane(layer, at, z) for z in (below, above))
            first, second = (plane == value for plane in planes)
            masks = between(first, second, above - below - 1)
            for z, mask in enumerate(masks, start=below + 1):
                new = mask & (self._plane(layer, at, z) == 0)
                here = np.nonzero(new)
                fixed = [np.full(len(here[0]), i) for i in (*at[:axis], z)]
                voxels.append([*fixed, *here])
                values.append(np.full(len(here[0]), value))
            where = tuple(np.concatenate(part) for part in zip(*voxels, strict=True))
            self._apply(layer, Change(where, np.concatenate(values)), "Interpolated")

    def remove_small(self) -> None:
        """Remove small objects of labels in memory."""
        layer = self.labels.value
        if layer is None:
            return
        self.problem.tell("")
        with self.problem.shown():
            if not isinstance(layer.data, np.ndarray):
                raise VolumeError(
                    "Small objects are removed of labels in memory. Run the image "
                    "again with another Minimum size."
                )
            self._apply(
                layer, small_objects(layer.data, self.smallest.value), "Removed"
            )

    def _delete(self, layer: Labels, at: Place) -> None:
        self._apply(layer, recolored(object_at(layer.data, at), 0), "Deleted")

    def _fill(self, layer: Labels, at: Place) -> None:
        self._apply(layer, without_holes(object_at(layer.data, at)), "Filled")

    def _smooth(self, layer: Labels, at: Place) -> None:
        found = object_at(layer.data, at, MARGIN)
        self._apply(layer, smoothed(found, _spacing(layer)), "Smoothed")

    def _merge(self, layer: Labels, first: Place, second: Place) -> None:
        value = int(np.asarray(layer.data[first]))
        object_at(layer.data, first)  # else there is nothing to merge with
        self._apply(layer, recolored(object_at(layer.data, second), value), "Merged")

    def _split(self, layer: Labels, first: Place, second: Place) -> None:
        value = _next_number(layer) if known_of(layer).get(INSTANCE_KEY) else 0
        found = object_at(layer.data, first)
        change = split(found, (first, second), _spacing(layer), value)
        self._apply(layer, change, "Split")

    def _with_two(
        self, do: Callable[[Labels, Place, Place], None], layer: Labels, at: Place
    ) -> None:
        """Wait for a second click."""
        first, self._first = self._first, None
        if first is None:
            object_at(layer.data, at)
            self._first = at
            self.status.setText("Now click the second place.")
        else:
            do(layer, first, at)

    def _apply(self, layer: Labels, change: Change, done: str) -> None:
        """Change voxels as one stroke."""
        count = len(change.values)
        if count:
            values = change.values.astype(layer.data.dtype)
            layer.data_setitem(change.voxels, values)
        self.status.setText(f"{done}: {count:,} voxels changed.")

    def _nearest(self, layer: Labels, at: Place, step: int) -> int | None:
        """Return the nearest slice with the selected label, before or after a place."""
        axis = layer.ndim - 3
        stop = layer.data.shape[axis] if step > 0 else -1
        slices = range(at[axis] + step, stop, step)
        value = layer.selected_label
        return next(
            (z for z in slices if (self._plane(layer, at, z) == value).any()), None
        )

    def _plane(self, layer: Labels, at: Place, z: int) -> Any:
        return np.asarray(layer.data[(*at[: layer.ndim - 3], z)])

    def _on_toggled(self, name: str, on: bool) -> None:
        self._first = None
        for other, one in self.tools.items():
            if on and other != name:
                one.setChecked(False)

    def _watch(self, *_: Any) -> None:
        """Follow clicks on the chosen layer."""
        layer = self.labels.value
        if layer is not self._watched:
            self._forget()
            self._watched = layer
            if layer is not None:
                layer.mouse_drag_callbacks.append(self._on_mouse)

    def _forget(self) -> None:
        if self._watched is not None:
            self._watched.mouse_drag_callbacks.remove(self._on_mouse)
        self._watched = self._first = None

    def _on_mouse(self, layer: Labels, event: Any) -> Generator[None]:
        """Take a press and a release without a drag as a click."""
        start = np.array(event.pos)
        place = np.round(layer.world_to_data(event.position)).astype(int)
        yield
        while event.type == "mouse_move":
            yield
        flat = self._viewer.dims.ndisplay == 2
        if flat and layer.mode == "pan_zoom" and np.abs(event.pos - start).max() < 3:
            self.click(tuple(place.tolist()))


def _spacing(layer: Labels) -> tuple[float, ...]:
    return tuple(abs(float(s)) for s in layer.scale)


def _next_number(layer: Labels) -> int:
    """Return a number that no object has."""
    known = layer.features.get("index")
    highest = 0 if known is None or not len(known) else int(known.max())
    if isinstance(layer.data, np.ndarray):
        highest = max(highest, int(layer.data.max()))
    return highest + 1
