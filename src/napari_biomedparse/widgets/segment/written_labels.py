"""Labels in memory that runs write, a person paints, and napari can undo."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.utils.notifications import show_info

from napari_biomedparse.data.prompts import INSTANCE_KEY
from napari_biomedparse.labels.instances import keep_numbers
from napari_biomedparse.viewer.layers import METADATA_KEY, REVIEWED_KEY, reviewed

if TYPE_CHECKING:
    import numpy.typing as npt
    from napari.layers import Labels
    from napari.utils.events import Event

    Voxels = tuple[npt.NDArray[np.integer[Any]], ...]
    Change = tuple[Voxels, npt.NDArray[Any], Any]
    """Voxels, their old values, and the new ones."""

Window = tuple[slice, ...]
"""A part of labels: a slice for each axis."""
MOST_NUMBERS = 2**24
"""Greater numbers that a person paints never meet those of objects."""
MOST_STROKES = 2**10
"""Strokes after which those that napari has forgotten are forgotten, too."""
UNDO_BYTES = 2**30
"""Memory for undoing runs at most, unless the last one alone takes more."""


class WrittenLabels:
    """Labels of layers: what runs wrote, and what a person set on top of it.

    Runs write from any thread while the user paints. What the user set stays, until
    the user undoes it, and accepted slices stay. A run over labels that are shown
    already becomes one step of the layers' own history: `open` and `commit` in the
    GUI's thread, `begin` and `end` in that of the run.
    """

    def __init__(self, labels: npt.NDArray[Any]) -> None:
        self.labels = labels
        self._written = labels.copy() if labels.any() else np.zeros_like(labels)
        # Zeros take no memory until they are touched: edited and accepted slices do.
        self._mine = np.zeros(labels.shape, bool)
        self._locked = np.zeros(labels.shape, bool)
        self._marks: list[dict[int, tuple[int, ...]]] = []
        self._shown: list[_Shown] = []
        self._lock = threading.RLock()
        self._owners: Sequence[int] | npt.NDArray[Any] = ()
        self.scores: npt.NDArray[np.float32] = np.zeros(0, np.float32)
        self._numbered = self._before_numbered = False
        self._before: npt.NDArray[Any] | None = None
        self._steps: list[tuple[_Shown, _Step]] = []

    def follow(self, layers: Sequence[Labels]) -> None:
        """Take note of what is painted and undone in the layers of the labels."""
        for layer in layers:
            shown = _Shown(weakref.ref(layer), layer.data)
            self._shown.append(shown)
            layer.events.paint.connect(self._on_paint)
            # There is no event of them. The layer must not be held.
            layer.undo = lambda shown=shown: self._travel(shown, "undo")
            layer.redo = lambda shown=shown: self._travel(shown, "redo")

    def open(self, dtype: np.dtype[Any]) -> bool:
        """Get ready for a run over the labels; return whether it is possible.

        It is not if somebody put labels of another shape into a layer. Those of the
        same shape are taken as what a person set.
        """
        if not self._adopt(dtype):
            return False
        for shown in self._shown:
            if (layer := shown.layer()) is not None:
                shown.appearance = _Appearance.of(layer)
        return True

    def begin(self, clear: Window | None = None) -> None:
        """Begin a run over the labels, and clear what the machine wrote in a window."""
        with self._lock:
            self._notice(...)
            self._before, self._before_numbered = self._written.copy(), self._numbered
            self._numbered = False
            if clear is not None:
                self.write(clear, np.zeros((), self.labels.dtype))

    def write(self, where: Window, new: npt.NDArray[Any]) -> None:
        """Write new labels of a window beneath what a person set; from any thread."""
        with self._lock:
            self._notice(where)
            free = ~self._locked[where]
            np.copyto(self._written[where], new, where=free, casting="unsafe")
            free &= ~self._mine[where]
            np.copyto(self.labels[where], new, where=free, casting="unsafe")

    def write_objects(
        self,
        where: Window,
        objects: npt.NDArray[np.int32],
        owners: npt.NDArray[Any],
        ids: Sequence[int],
        scores: npt.NDArray[np.float32] | None = None,
    ) -> npt.NDArray[Any]:
        """Write objects, which keep their numbers where they overlap those of before.

        `owners` is the label of each object, one of `ids`. The labels of all numbers
        are returned, those that a person set included.
        """
        with self._lock:
            self._notice(where)
            kept = self.labels[where][self._mine[where] | self._locked[where]]
            taken = [n for n in np.unique(kept).tolist() if 0 < n < MOST_NUMBERS]
            before, old = None, {label: label for label in ids}
            if self._before is not None and self._before_numbered:
                before = self._before[where].reshape(objects.shape)
                old = dict(enumerate(self._owners))
            numbers = keep_numbers(objects, before, taken)
            known = np.zeros(max([0, *numbers.tolist(), *taken]) + 1, owners.dtype)
            for number in taken:
                known[number] = old.get(number, 0)
            known[numbers] = owners[: len(numbers)]
            self._owners, self._numbered = known, True
            self.scores = np.full(len(known), np.nan, np.float32)
            if scores is not None:
                self.scores[numbers] = scores[: len(numbers)]
            self.write(where, numbers[objects])
            return known

    def corrected(
        self, where: Window, axis: int, ids: Sequence[int]
    ) -> dict[int, npt.NDArray[np.int32]]:
        """Return what a person says of slices along an axis of a window [1, Z, Y, X].

        By slice, the label ids of accepted slices and of what was painted, -1 where it
        is the machine's.
        """
        with self._lock:
            self._notice(...)
            arrays = self.labels, self._locked | self._mine
            labels, known = (np.moveaxis(a[where][0], axis, 0) for a in arrays)
            owners, other = np.arange(max(ids) + 1), -1
            if self._numbered:  # objects that a person made may be of any prompt
                owners = np.array(self._owners, np.int64)
                other = -1 if len(ids) > 1 else ids[0]
                owners[owners == 0] = other
                owners[:1] = 0
            found = {}
            for at in np.flatnonzero(known.any(axis=(1, 2))).tolist():
                plane = labels[at].astype(np.int64)
                inside = plane < len(owners)
                values = np.where(inside, owners[np.where(inside, plane, 0)], other)
                found[at] = np.where(known[at], values, -1).astype(np.int32)
            return found

    def end(self) -> None:
        """End a run over the labels, and find what it changed."""
        with self._lock:
            before, self._before = self._before, None
            if before is None:
                return
            changed = before != self._written
            beneath = changed & self._mine
            changed &= ~(self._mine | self._locked)
            for shown in self._shown:
                arrays = [shown.of(array) for array in (before, self._written)]
                places = (np.nonzero(shown.of(mask)) for mask in (changed, beneath))
                step, hidden = (
                    (_small(voxels), *(array[voxels] for array in arrays))
                    for voxels in places
                )
                if len(step[1]):
                    self._steps.append((shown, _Step(step, hidden, shown.appearance)))

    def commit(self) -> None:
        """Add what a run changed to the history of each layer."""
        steps, self._steps = self._steps, []
        for shown, step in steps:
            layer = shown.layer()
            if layer is not None and layer.data is shown.view:
                step.after = _Appearance.of(layer)
                shown.steps[id(step.atom)] = step
                # Its public `data_setitem` depends on the slice in view.
                layer._save_history(step.atom)
                shown.limit(UNDO_BYTES)

    def _notice(self, where: Any) -> None:
        """Take differences from what the machine wrote as set by a person.

        So edits are kept that nobody told of: those of scripts and other plugins.
        """
        changed = self.labels[where] != self._written[where]
        np.copyto(self._mine[where], True, where=changed)
        layers = [shown.layer() for shown in self._shown]
        marks = [
            {} if one is None else {at: tuple(z) for at, z in reviewed(one).items()}
            for one in layers
        ]
        if marks == self._marks:
            return
        self._marks, self._locked = marks, np.zeros(self.labels.shape, bool)
        for shown, known in zip(self._shown, marks, strict=True):
            locked = shown.of(self._locked)
            planes = locked if locked.ndim > 2 else locked[None]
            for axis, slices in known.items():
                along = np.moveaxis(planes, axis, 0)
                along[[at for at in slices if at < len(along)]] = True

    def _adopt(self, dtype: np.dtype[Any]) -> bool:
        """Show the labels where somebody shows others, and take over theirs."""
        layers = [shown for shown in self._shown if shown.layer() is not None]
        with self._lock:
            for shown in layers:
                theirs = shown.data
                if getattr(theirs, "shape", None) != shown.view.shape:
                    return False
                dtype = _common(dtype, theirs.dtype)
            self._widen(_common(dtype, self.labels.dtype))
            for shown in layers:
                if shown.data is not shown.view:
                    shown.view[...] = np.asarray(shown.data)
                    shown.put()
        return True

    def _widen(self, dtype: np.dtype[Any]) -> None:
        """Change the data type of the labels and of the layers that show them."""
        if dtype == self.labels.dtype:
            return
        self.labels = self.labels.astype(dtype)
        self._written = self._written.astype(dtype)
        for shown in self._shown:
            ours = shown.data is shown.view
            shown.view = shown.of(self.labels)
            if ours:
                shown.put()

    def _on_paint(self, event: Event) -> None:
        """Record a stroke; napari may be about to paint it, or have done so."""
        for shown in self._shown:
            if shown.layer() is not event.source:
                continue
            for atom in event.value:
                stroke = None if id(atom) in shown.steps else change_of(atom)
                if stroke is None:
                    continue
                voxels, old, new = stroke
                with self._lock:
                    mine = shown.of(self._mine)
                    already = mine[voxels] | (old != shown.of(self._written)[voxels])
                    if already.any():  # by a stroke, or a script that nobody told of
                        shown.already[id(atom)] = atom, already
                        if len(shown.already) % MOST_STROKES == 0:
                            shown.limit(UNDO_BYTES)
                    mine[voxels] = True
                    shown.view[voxels] = new

    def _travel(self, shown: _Shown, name: str) -> None:
        """Undo or redo in a layer, and know what is painted from then on."""
        layer: Any = shown.layer()
        if layer is None:
            return
        if self._before is None:
            self.commit()  # of a run whose widget is gone
        forward, travel = name == "redo", getattr(type(layer), name)
        if not self._adopt(self.labels.dtype):
            travel(layer)
            return
        history = shown.history(forward)
        item = history[-1] if history else []
        steps = [shown.steps[id(atom)] for atom in item if id(atom) in shown.steps]
        with self._lock:
            if steps and self._before is not None:
                show_info("Until the run has ended, only strokes can be undone.")
                return
            self._notice(...)
            mine, written = shown.of(self._mine), shown.of(self._written)
            kept = []
            for step in steps:
                ours = shown.of(self._mine | self._locked)[step.atom[0]]
                voxels = _some(step.atom[0], ours)
                kept.append((voxels, shown.view[voxels]))
            travel(layer)
            for voxels, values in kept:
                shown.view[voxels] = values
            for step in steps:
                self._again(shown, step, forward)
            for atom in reversed(item):
                stroke = None if id(atom) in shown.steps else change_of(atom)
                if stroke is not None:
                    voxels, *_ = stroke
                    _, already = shown.already.get(id(atom), (None, False))
                    stays = np.broadcast_to(forward | already, voxels[0].shape)
                    mine[voxels] = stays
                    gone = _some(voxels, ~stays)
                    shown.view[gone] = written[gone]
            self._notice(...)
        layer.refresh()

    def _again(self, shown: _Shown, step: _Step, forward: bool) -> None:
        """Have the machine's labels as before a run, or as after it."""
        written, locked = shown.of(self._written), shown.of(self._locked)
        for voxels, *values in (step.atom, step.hidden):
            free = ~locked[voxels]
            written[_some(voxels, free)] = values[forward][free]
        appearance = step.after if forward else step.before
        if appearance is not None:
            self._numbered = appearance.apply_to(shown.layer())


def change_of(atom: Any) -> Change | None:
    """Return what an atom of napari's history changes; None for an unknown form."""
    if hasattr(atom, "slice_key"):
        old, mask = atom.old_values, atom.mask
        inside = np.nonzero(np.ones(old.shape, bool) if mask is None else mask)
        starts = (axis.start for axis in atom.slice_key)
        voxels = tuple(i + start for i, start in zip(inside, starts, strict=True))
        return voxels, old.ravel(), atom.new_value
    return atom if isinstance(atom, tuple) and len(atom) == 3 else None


@dataclass
class _Appearance:
    """What a layer shows of its labels, and says about them."""

    colormap: Any
    features: Any
    known: dict[str, Any]

    @classmethod
    def of(cls, layer: Any) -> _Appearance:
        known = dict(layer.metadata.get(METADATA_KEY, {}))
        known.pop(REVIEWED_KEY, None)
        return cls(layer.colormap, layer.features.copy(), known)

    def apply_to(self, layer: Any) -> bool:
        """Give a layer this appearance; return whether it has objects."""
        if layer.colormap is not self.colormap:
            layer.colormap = self.colormap
        layer.features = self.features
        marks = {REVIEWED_KEY: found} if (found := reviewed(layer)) else {}
        layer.metadata = {**layer.metadata, METADATA_KEY: {**self.known, **marks}}
        return bool(self.known.get(INSTANCE_KEY))


@dataclass
class _Step:
    """What a run changed in a layer."""

    atom: Change
    """As napari's history has it."""
    hidden: Change
    """Beneath what a person set."""
    before: _Appearance | None
    after: _Appearance | None = None

    @property
    def size(self) -> int:
        """Number of bytes."""
        voxels, *values = self.atom
        return sum(array.nbytes for array in (*voxels, *values))


@dataclass
class _Shown:
    """A layer, the view of the labels that it shows, and its steps by their `id`."""

    layer: weakref.ref[Labels]
    view: npt.NDArray[Any]
    steps: dict[int, _Step] = field(default_factory=dict)
    already: dict[int, tuple[Any, npt.NDArray[np.bool_]]] = field(default_factory=dict)
    """Strokes over what a person had set before."""
    appearance: _Appearance | None = None

    @property
    def data(self) -> Any:
        """What the layer shows; somebody may have replaced the view."""
        return getattr(self.layer(), "data", None)

    def put(self) -> None:
        """Show the view."""
        if (layer := self.layer()) is not None:
            layer.data = self.view

    def history(self, forward: bool) -> Any:
        """Return the layer's history, to see what comes next; napari has no other."""
        return getattr(self.layer(), "_redo_history" if forward else "_undo_history")

    def limit(self, most: int) -> None:
        """Drop the oldest of the history beyond a size, and what is gone of ours."""
        done, undone = self.history(False), self.history(True)
        alive = [[id(atom) for atom in item] for item in (*undone, *done)]
        here = {key for item in alive for key in item}
        self.steps = {key: step for key, step in self.steps.items() if key in here}
        self.already = {key: at for key, at in self.already.items() if key in here}
        sizes = {key: step.size for key, step in self.steps.items()}
        while len(done) > 1 and sum(sizes.values()) > most:
            for atom in done.popleft():
                sizes.pop(id(atom), None)

    def of(self, array: npt.NDArray[Any]) -> Any:
        """Return the same view of another array as the layer's is of the labels."""
        labels: Any = self.view
        while labels.base is not None:
            labels = labels.base
        first, other = (a.__array_interface__["data"][0] for a in (self.view, labels))
        ratio = array.itemsize / labels.itemsize
        offset = int((first - other) * ratio)
        strides = [int(stride * ratio) for stride in self.view.strides]
        return np.ndarray(self.view.shape, array.dtype, array, offset, strides)


def _some(voxels: Voxels, which: npt.NDArray[np.bool_]) -> Voxels:
    return tuple(axis[which] for axis in voxels)


def _small(voxels: Voxels) -> Voxels:
    """Return positions in the smallest type: a history holds many."""
    return tuple(at.astype(np.min_scalar_type(at.max(initial=0))) for at in voxels)


def _common(one: np.dtype[Any], other: np.dtype[Any]) -> np.dtype[Any]:
    """Return an integer type that holds the labels of two."""
    both = np.promote_types(one, other)
    return both if both.kind in "iu" else np.dtype(np.int64)
