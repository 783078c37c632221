"""The dock widget that corrects objects of a Labels layer by clicks."""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from magicgui.widgets import SpinBox
from napari.layers import Labels

from napari_biomedparse.data.prompts import INSTANCE_KEY
from napari_biomedparse.errors import VolumeError
from napari_biomedparse.labels.blockwise import Inner
from napari_biomedparse.labels.proofread import (
    MARGIN,
    Change,
    Found,
    between,
    object_at,
    relabeled,
    small_objects,
    smoothed,
    split,
    without_holes,
)
from napari_biomedparse.viewer.axes import find_labels, shown_position
from napari_biomedparse.viewer.layers import known_of
from napari_biomedparse.widgets.shared.docks import Dock
from napari_biomedparse.widgets.shared.form import LayerChoice, form_of
from napari_biomedparse.widgets.shared.parts import button, column, row
from napari_biomedparse.widgets.shared.position import slider_axis

if TYPE_CHECKING:
    from napari import Viewer
    from qtpy.QtWidgets import QPushButton

Place = tuple[int, ...]
MOST_READ = 2**31
"""Voxels on disk that are read to find a free object number."""


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
            _check(layer)
            self._does[chosen[0]](layer, at)

    def interpolate(self) -> None:
        """Fill slices between the nearest two with the selected label."""
        layer = self.labels.value
        if layer is None or layer.ndim < 3:
            return
        self.problem.tell("")
        with self.problem.shown():
            _check(layer)
            dims, value = self._viewer.dims, layer.selected_label
            axis, at = slider_axis(layer, dims), list(shown_position(layer, dims))
            plane: list[Any] = [
                slice(None) if i - layer.ndim + dims.ndim in dims.displayed else place
                for i, place in enumerate(at)
            ]
            below, above = (
                find_labels(layer.data, [*plane[:axis], at[axis], *plane[axis + 1 :]],
                            axis, step, value)
                for step in (-1, 1)
            )  # fmt: skip
            if below is None or above is None:
                raise VolumeError(
                    f"Label {value} must be in a slice before and one after this one: "
                    "paint it there, and select it."
                )

            def values_at(z: int) -> Any:
                where = (*plane[:axis], z, *plane[axis + 1 :])
                return np.asarray(layer.data[where])

            first, second = values_at(below) == value, values_at(above) == value
            voxels = []
            masks = between(first, second, above - below - 1)
            for z, mask in enumerate(masks, start=below + 1):
                found = iter(np.nonzero(mask & (values_at(z) == 0)))
                index = [*plane[:axis], z, *plane[axis + 1 :]]
                here = [next(found) if isinstance(i, slice) else i for i in index]
                voxels.append(np.broadcast_arrays(*here))
            where = tuple(np.concatenate(part) for part in zip(*voxels, strict=True))
            change = Change(where, np.full(len(where[0]), value))
            self._apply(layer, change, "Interpolated")

    def remove_small(self) -> None:
        """Remove small objects of labels in memory."""
        layer = self.labels.value
        if layer is None:
            return
        self.problem.tell("")
        with self.problem.shown():
            _check(layer)
            if not isinstance(layer.data, np.ndarray):
                raise VolumeError(
                    "Small objects can be removed only from labels in memory. Run the "
                    "image again with another Minimum size."
                )
            self._apply(
                layer, small_objects(layer.data, self.smallest.value), "Removed"
            )

    def _delete(self, layer: Labels, at: Place) -> None:
        self._apply(layer, relabeled(_object_at(layer, at), 0), "Deleted", at)

    def _fill(self, layer: Labels, at: Place) -> None:
        self._apply(layer, without_holes(_object_at(layer, at)), "Filled", at)

    def _smooth(self, layer: Labels, at: Place) -> None:
        found = _object_at(layer, at, MARGIN)
        self._apply(layer, smoothed(found, _spacing(layer)), "Smoothed", at)

    def _merge(self, layer: Labels, first: Place, second: Place) -> None:
        value = int(np.asarray(layer.data[first]))
        _object_at(layer, first)  # else there is nothing to merge with
        found = _object_at(layer, second)
        self._apply(layer, relabeled(found, value), "Merged", second)

    def _split(self, layer: Labels, first: Place, second: Place) -> None:
        value = _next_number(layer) if known_of(layer).get(INSTANCE_KEY) else 0
        inner = [at[-3:] for at in (first, second)]
        change = split(_object_at(layer, first), inner, _spacing(layer), value)
        self._apply(layer, change, "Split", first)

    def _with_two(
        self, do: Callable[[Labels, Place, Place], None], layer: Labels, at: Place
    ) -> None:
        """Wait for a second click."""
        first, self._first = self._first, None
        if first is None:
            _object_at(layer, at)
            self._first = at
            self.status.setText("Now click the second place.")
        else:
            do(layer, first, at)

    def _apply(self, layer: Labels, change: Change, done: str, at: Place = ()) -> None:
        """Change voxels as one stroke; those of a volume are at a place in time."""
        count = len(change.values)
        if count:
            before = [np.full(count, i) for i in at[: len(at) - len(change.voxels)]]
            values = change.values.astype(layer.data.dtype)
            layer.data_setitem((*before, *change.voxels), values)
        self.status.setText(f"{done}: {count:,} voxels changed.")

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


def _check(layer: Labels) -> None:
    """Refuse layers whose voxels cannot be changed now."""
    if layer.multiscale or not layer.editable:
        raise VolumeError(
            "These labels cannot be edited: they are shown as a pyramid, or a run is "
            "writing them."
        )


def _object_at(layer: Labels, at: Place, margin: int = 0) -> Found:
    """Find an object of one time point."""
    return object_at(Inner(layer.data, at[:-3]), at[-3:], margin)


def _spacing(layer: Labels) -> tuple[float, ...]:
    return tuple(abs(float(s)) for s in layer.scale[-3:])


def _next_number(layer: Labels) -> int:
    """Return a number that no object has."""
    if isinstance(layer.data, np.ndarray):
        return int(layer.data.max()) + 1
    if layer.data.size > MOST_READ:
        raise VolumeError(
            "These labels are too many to look for a free object number. Paint the "
            "second part with a new label instead."
        )
    return max(int(np.asarray(plane).max()) for plane in layer.data) + 1
