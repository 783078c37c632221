"""The dock widget that corrects objects of a Labels layer by clicks."""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from magicgui.widgets import ComboBox, SpinBox
from napari.layers import Labels

from napari_biomedparse.data.prompts import INSTANCE_KEY
from napari_biomedparse.errors import VolumeError
from napari_biomedparse.labels.blockwise import Inner
from napari_biomedparse.labels.proofread import (
    MARGIN,
    MOST,
    Change,
    Found,
    all_but_largest,
    between,
    object_at,
    place_of,
    relabeled,
    returned,
    sizes_of,
    small_objects,
    smoothed,
    split,
    with_border,
    without_holes,
)
from napari_biomedparse.viewer.axes import find_labels, show_position, shown_position
from napari_biomedparse.viewer.layers import METADATA_KEY, known_of
from napari_biomedparse.widgets.shared.docks import Dock
from napari_biomedparse.widgets.shared.form import LayerChoice, add_key, form_of
from napari_biomedparse.widgets.shared.parts import button, column, row
from napari_biomedparse.widgets.shared.position import slider_axis

if TYPE_CHECKING:
    import numpy.typing as npt
    from napari import Viewer
    from qtpy.QtWidgets import QPushButton

Place = tuple[int, ...]
MOST_READ = 2**31
"""Voxels on disk that are read to find a free object number, or all objects."""
KEYS = {
    "Delete": "Alt+D", "Fill holes": "Alt+F", "Smooth": "Alt+S",
    "Keep largest": "Alt+K", "Accept": "Alt+A", "Copy": "Alt+C", "Merge": "Alt+M",
    "Split": "Alt+X",
}  # fmt: skip
ORDERS = SMALLEST, LARGEST, DOUBTFUL = "smallest", "largest", "lowest score"
ACCEPTED, COPIED = "accepted_objects", "copied_object"
"""Keys among this plugin's entries in the metadata of labels and of a copied object."""
SAME = ("scale", "translate", "rotate", "shear", "affine", "units", "axis_labels")


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
        self._seen: list[int] = []
        self._watched: Labels | None = None
        tools: list[tuple[str, str, Callable[[Labels, Place], None]]] = [
            ("Delete", "Click an object to delete it.", self._delete),
            ("Fill holes", "Click an object to fill what it encloses.", self._fill),
            ("Smooth", "Click an object to smooth its surface.", self._smooth),
            ("Keep largest", "Click an object to remove all smaller pieces of its "
             "label.", self._keep_largest),
            ("Merge", "Click an object, and one that shall become part of it.",
             partial(self._with_two, self._merge)),
            ("Split", "Click twice in an object, where its two parts are.",
             partial(self._with_two, self._split)),
            ("Accept", "Click an object that is right: no run changes it or the "
             "background around it.", self._accept),
            ("Copy", "Click an object to get a layer with this object alone, for "
             "another plugin to correct. Take back returns it.", self._copy),
        ]  # fmt: skip
        self.tools: dict[str, QPushButton] = {}
        self._does: dict[str, Callable[[Labels, Place], None]] = {}
        for name, tip, do in tools:
            made = button(name, f"{tip} Ctrl+Z undoes it.")
            made.setCheckable(True)
            made.toggled.connect(partial(self._on_toggled, name))
            add_key(self, KEYS[name], made.click, made)
            self.tools[name], self._does[name] = made, do
        self.interpolate_button = button(
            "Interpolate",
            "Fill the slices around the one in view, between the nearest two that have "
            "the selected label.",
            self.interpolate,
        )
        self.order = ComboBox(
            label="Next object",
            choices=ORDERS,
            tooltip="Which object comes next: of those that are not accepted, the "
            "smallest, the largest, or the one with the lowest score.",
        )
        self.next_button = button(
            "Next", "Select the next object, and go to it.", self.show_next
        )
        add_key(self, "Alt+N", self.show_next, self.next_button)
        self.back_button = button(
            "Take back",
            "Put the selected layer, a copied object, where it was copied from.",
            self.take_back,
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
            row(*shown[:4]),
            row(*shown[4:7], self.interpolate_button),
            row(shown[7], self.back_button, self.next_button, self.small_button),
            form_of(self.order, self.smallest),
            self.problem,
            self.status,
            1,
            margins=True,
        )
        for changed in (self.labels.changed, self.order.changed):
            changed.connect(self._start_over)
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
            labels = _in_memory(layer, "Run the image again with another Minimum size.")
            self._apply(layer, small_objects(labels, self.smallest.value), "Removed")

    def show_next(self) -> None:
        """Select the next object in the chosen order, and go to it."""
        layer = self.labels.value
        if layer is None:
            return
        self.problem.tell("")
        with self.problem.shown():
            _check(layer)
            if layer.ndim > 3:
                raise VolumeError("Next goes through a single volume, without time.")
            ranks: dict[int, float] = dict(_sizes(layer))
            if self.order.value == LARGEST:
                ranks = {number: -size for number, size in ranks.items()}
            elif self.order.value == DOUBTFUL:
                table = layer.features
                if "score" not in table:
                    raise VolumeError("These labels have no scores of objects.")
                scores = dict(zip(table["index"], table["score"], strict=True))
                ranks = {n: float(np.nan_to_num(scores.get(n, 0))) for n in ranks}
            left = ranks.keys() - {*self._seen, *known_of(layer).get(ACCEPTED, ())}
            if not left:
                self._seen.clear()
                self.status.setText("These were all. Next starts again.")
                return
            number = min(left, key=lambda n: (ranks[n], n))
            place = place_of(layer.data, number)
            self._seen.append(number)
            layer.selected_label = number
            for axis, at in enumerate(place or ()):
                show_position(layer, self._viewer.dims, axis, at)
            self._viewer.scene.camera.center = layer.data_to_world(place)
            self.status.setText(f"Object {number}: {len(left) - 1:,} more.")

    def take_back(self) -> None:
        """Put a copied object back to where it was copied from."""
        copied: Any = self._viewer.layers.selection.active
        self.problem.tell("")
        with self.problem.shown():
            known = {} if copied is None else known_of(copied).get(COPIED, {})
            if not known:
                raise VolumeError("Select the layer of a copied object first.")
            layer = next(
                (one for one in self._viewer.layers if one.name == known["layer"]), None
            )
            if layer is None or layer.data.shape != copied.data.shape:
                raise VolumeError(
                    f"The labels {known['layer']}, which the object was copied from, "
                    "are not there any more, or have another shape."
                )
            _check(layer)
            before, old = known["at"], known["had"]
            new = np.asarray(copied.data[before]) > 0
            labels = Inner(layer.data, before)
            change = returned(labels, known["number"], old, new)
            self._apply(layer, change, "Taken back", before)
            old |= new

    def _delete(self, layer: Labels, at: Place) -> None:
        self._apply(layer, relabeled(_object_at(layer, at), 0), "Deleted", at)

    def _fill(self, layer: Labels, at: Place) -> None:
        self._apply(layer, without_holes(_object_at(layer, at)), "Filled", at)

    def _smooth(self, layer: Labels, at: Place) -> None:
        found = _object_at(layer, at, MARGIN)
        self._apply(layer, smoothed(found, _spacing(layer)), "Smoothed", at)

    def _keep_largest(self, layer: Labels, at: Place) -> None:
        labels = _in_memory(layer, "Delete its pieces one by one.")
        _object_at(layer, at)
        change = all_but_largest(labels[at[:-3]], int(labels[at]))
        self._apply(layer, change, "Removed", at)

    def _accept(self, layer: Labels, at: Place) -> None:
        """Have an object's voxels, and background around it, as if painted."""
        labels = _in_memory(layer, "Accept its slices in Review labels.")
        voxels = with_border(_object_at(layer, at, MARGIN))
        where: Any = (*(np.full(len(voxels[0]), i) for i in at[:-3]), *voxels)
        # Its public `data_setitem` leaves out what does not change.
        layer._save_history((where, labels[where], labels[where]))
        number, known = int(labels[at]), known_of(layer)
        accepted = sorted({*known.get(ACCEPTED, ()), number})
        layer.metadata[METADATA_KEY] = {**known, ACCEPTED: accepted}
        self.status.setText(f"Accepted object {number}.")

    def _copy(self, layer: Labels, at: Place) -> None:
        if layer.data.size > MOST:
            raise VolumeError(
                f"Labels of more than {MOST} voxels are too large for another layer of "
                "this kind. Use napari's brush and eraser."
            )
        found, before = _object_at(layer, at), at[:-3]
        number = int(np.asarray(layer.data[at]))
        data = np.zeros(layer.data.shape, np.uint8)
        Inner(data, before)[found.box] = found.mask
        known = {"layer": layer.name, "at": before, "number": number}
        known["had"] = data[before] > 0
        made = self._viewer.add_labels(
            data,
            name=f"{layer.name}: object {number}",
            metadata={METADATA_KEY: {COPIED: known}},
            **{name: getattr(layer, name) for name in SAME},
        )
        made.mode = "paint"
        self.labels.value = layer
        self.tools["Copy"].setChecked(False)
        self.status.setText("Correct the new layer, select it, and click Take back.")

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
            before = [np.full(count, i) for i in at[: layer.ndim - len(change.voxels)]]
            values = change.values.astype(layer.data.dtype)
            layer.data_setitem((*before, *change.voxels), values)
        self.status.setText(f"{done}: {count:,} voxels changed.")

    def _on_toggled(self, name: str, on: bool) -> None:
        self._first = None
        for other, one in self.tools.items():
            if on and other != name:
                one.setChecked(False)

    def _start_over(self, *_: Any) -> None:
        self._seen.clear()

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
    return max(_sizes(layer), default=0) + 1


def _sizes(layer: Labels) -> dict[int, int]:
    if layer.data.size > MOST_READ:
        raise VolumeError(
            f"Labels of more than {MOST_READ} voxels are too large to look for all "
            "objects. Paint a new object with a new label instead."
        )
    return sizes_of(layer.data)


def _in_memory(layer: Labels, instead: str) -> npt.NDArray[Any]:
    """Return labels in memory; refuse others, with what to do instead."""
    if not isinstance(layer.data, np.ndarray):
        raise VolumeError(f"This is possible only for labels in memory. {instead}")
    return layer.data
