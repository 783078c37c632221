"""Labels in memory that runs write, a person paints, and napari can undo."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_biomedparse.data.prompts import INSTANCE_KEY
from napari_biomedparse.labels.edits import Edits
from napari_biomedparse.labels.instances import keep_numbers
from napari_biomedparse.viewer.layers import METADATA_KEY, REVIEWED_KEY, reviewed
from napari_biomedparse.viewer.strokes import stroke_voxels

if TYPE_CHECKING:
    import numpy.typing as npt
    from napari.layers import Labels
    from napari.utils.events import Event

    from napari_biomedparse.labels.edits import Voxels, Window

MOST_NUMBERS = 2**24
"""Greater numbers that a person paints never meet those of objects."""
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
        self.edits = Edits(labels.shape)
        self._written = labels.copy() if labels.any() else np.zeros_like(labels)
        self._shown: list[_Shown] = []
        self._lock = threading.RLock()
        self._owners: Sequence[int] | npt.NDArray[Any] = ()
        self._numbered = self._before_numbered = False
        self._before: npt.NDArray[Any] | None = None
        self._steps: list[tuple[_Shown, _Step]] = []

    def follow(self, layers: Sequence[Labels]) -> None:
        """Take note of what is painted and undone in the layers of the labels."""
        for layer in layers:
            shown = _Shown(weakref.ref(layer), layer.data)
            self._shown.append(shown)
            layer.events.paint.connect(self._on_paint)
            for name in ("undo", "redo"):
                setattr(layer, name, partial(self._travel, shown, name))

    def open(self, dtype: np.dtype[Any]) -> bool:
        """Get ready for a run over the labels; return whether it is possible.

        It is not if somebody put labels of another shape into a layer. Those of the
        same shape are taken as what a person set.
        """
        if not self._adopt(dtype):
            return False
        for shown in self._shown:
            if (layer := shown.layer()) is not None:
                shown.dress = _Dress.of(layer)
        return True

    def begin(self, clear: Window | None = None) -> None:
        """Begin a run over the labels, and clear what the machine wrote in a window."""
        with self._lock:
            self._lock_accepted()
            self.edits.notice(self.labels, self._written)
            self._before, self._before_numbered = self._written.copy(), self._numbered
            self._numbered = False
            if clear is not None:
                self.write(clear, np.zeros((), self.labels.dtype))

    def write(self, where: Window, new: npt.NDArray[Any]) -> None:
        """Write new labels of a window beneath what a person set; from any thread."""
        with self._lock:
            self._lock_accepted()
            shown, written = self.labels[where], self._written[where]
            self.edits.notice(shown, written, where)
            locked, kept = self.edits.locked(where), self.edits.kept(where)
            for target, left in ((written, locked), (shown, kept)):
                free: Any = True if left is None else ~left
                np.copyto(target, new, where=free, casting="unsafe")

    def write_objects(
        self,
        where: Window,
        objects: npt.NDArray[np.int32],
        owners: npt.NDArray[Any],
        ids: Sequence[int],
    ) -> npt.NDArray[Any]:
        """Write objects, which keep their numbers where they overlap those of before.

        `owners` is the label of each object, one of `ids`. The labels of all numbers
        are returned, those that a person set included.
        """
        with self._lock:
            self._lock_accepted()
            kept = self.edits.kept(where)
            mine = self.labels[where][kept] if kept is not None else ()
            taken = [n for n in np.unique(mine).tolist() if 0 < n < MOST_NUMBERS]
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
            self.write(where, numbers[objects])
            return known

    def end(self) -> None:
        """End a run over the labels, and find what it changed."""
        with self._lock:
            before, self._before = self._before, None
            if before is None:
                return
            changed = before != self._written
            edited, _ = self.edits.voxels()
            beneath = _of(edited, changed[edited])
            hidden = beneath, before[beneath], self._written[beneath]
            if (kept := self.edits.kept()) is not None:
                changed &= ~kept
            for shown in self._shown:
                voxels = _small(np.nonzero(shown.of(changed, self.labels)))
                if len(voxels[0]):
                    atom = tuple(
                        shown.of(array, self.labels)[voxels]
                        for array in (before, self._written)
                    )
                    step = _Step((voxels, *atom), hidden, shown.dress)
                    self._steps.append((shown, step))

    def commit(self) -> None:
        """Add what a run changed to the history of each layer."""
        steps, self._steps = self._steps, []
        for shown, step in steps:
            layer = shown.layer()
            if layer is not None and layer.data is shown.view:
                step.after = _Dress.of(layer)
                shown.steps[id(step.atom)] = step
                # Its public `data_setitem` depends on the slice in view.
                layer._save_history(step.atom)
                shown.limit(UNDO_BYTES)

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
        old, self.labels = self.labels, self.labels.astype(dtype)
        self._written = self._written.astype(dtype)
        for shown in self._shown:
            theirs = shown.data is not shown.view
            shown.view = shown.of(self.labels, old)
            if not theirs:
                shown.put()

    def _lock_accepted(self) -> None:
        """Lock the slices that are accepted now."""
        regions: list[Window] = []
        for shown in self._shown:
            if (layer := shown.layer()) is None:
                continue
            for axis, slices in reviewed(layer).items():
                size = [slice(0, n - 1) for n in shown.view.shape]
                for at in (at for at in slices if at < shown.view.shape[axis]):
                    if layer.ndim > 2:  # else it is the whole image
                        size[axis] = slice(at, at)
                    ends = [np.array([side.start, side.stop]) for side in size]
                    box = shown.voxels(tuple(ends), self.labels)
                    regions.append(tuple(slice(a, b + 1) for a, b in box))
        self.edits.lock(regions)

    def _on_paint(self, event: Event) -> None:
        """Record a stroke; napari may be about to paint it, or have done so."""
        for shown in self._shown:
            if shown.layer() is not event.source:
                continue
            for atom in event.value:
                told = None if id(atom) in shown.steps else stroke_voxels([atom])
                if told is None:
                    continue
                with self._lock:
                    voxels, (_, old, new) = shown.voxels(told[0], self.labels), told
                    already = self.edits.has(voxels) | (old != self._written[voxels])
                    if already.any():  # by a stroke, or a script that nobody told of
                        shown.already[id(atom)] = atom, already
                    self.edits.record(voxels, new)
                    self.labels[voxels] = new

    def _travel(self, shown: _Shown, name: str) -> None:
        """Undo or redo in a layer, and know what is painted from then on."""
        layer = shown.layer()
        if layer is None:
            return
        if self._before is None:
            self.commit()  # of a run whose widget is gone
        travel, forward = partial(getattr(type(layer), name), layer), name == "redo"
        if not self._adopt(self.labels.dtype):
            travel()
            return
        history = shown.history(forward)
        item = history[-1] if history else []
        steps = [shown.steps[id(atom)] for atom in item if id(atom) in shown.steps]
        with self._lock:
            if steps and self._before is not None:
                return  # a run over a run's labels waits for its end
            self._lock_accepted()
            self.edits.notice(self.labels, self._written)
            kept = [
                shown.inside(step, self.edits.kept(), self.labels) for step in steps
            ]
            values = [shown.view[mine] for mine in kept]
            travel()
            for mine, before in zip(kept, values, strict=True):
                shown.view[mine] = before
            for atom in reversed(item):
                if id(atom) in shown.steps:
                    self._again(shown, shown.steps[id(atom)], forward)
                elif (told := stroke_voxels([atom])) is not None:
                    voxels = shown.voxels(told[0], self.labels)
                    _, already = shown.already.get(id(atom), (None, False))
                    stays = np.broadcast_to(forward | already, voxels[0].shape)
                    mine, gone = _of(voxels, stays), _of(voxels, ~stays)
                    self.edits.forget(gone)
                    self.edits.record(mine, self.labels[mine])
                    self.labels[gone] = self._written[gone]
            self.edits.notice(self.labels, self._written)
        layer.refresh()

    def _again(self, shown: _Shown, step: _Step, forward: bool) -> None:
        """Have the machine's labels as before a run, or as after it."""
        written = shown.of(self._written, self.labels)
        mine = shown.inside(step, self.edits.locked(), self.labels)
        locked = written[mine]
        written[step.atom[0]] = step.atom[2 if forward else 1]
        written[mine] = locked
        voxels, *values = step.hidden
        free = ~self.edits.is_locked(voxels)
        self._written[_of(voxels, free)] = values[forward][free]
        dress = step.after if forward else step.before
        if dress is not None:
            self._numbered = dress.wear(shown.layer())


_Change = tuple["Voxels", "npt.NDArray[Any]", "npt.NDArray[Any]"]
"""Voxels of an array, their old values, and the new ones."""


@dataclass
class _Dress:
    """What a layer shows of its labels, and says about them."""

    colormap: Any
    features: Any
    known: dict[str, Any]

    @classmethod
    def of(cls, layer: Any) -> _Dress:
        known = dict(layer.metadata.get(METADATA_KEY, {}))
        known.pop(REVIEWED_KEY, None)
        return cls(layer.colormap, layer.features.copy(), known)

    def wear(self, layer: Any) -> bool:
        """Dress a layer; return whether it has objects."""
        if layer.colormap is not self.colormap:
            layer.colormap = self.colormap
        layer.features = self.features
        marks = {REVIEWED_KEY: found} if (found := reviewed(layer)) else {}
        layer.metadata = {**layer.metadata, METADATA_KEY: {**self.known, **marks}}
        return bool(self.known.get(INSTANCE_KEY))


@dataclass
class _Step:
    """What a run changed in a layer."""

    atom: _Change
    """In the layer, as napari's history has it."""
    hidden: _Change
    """In the labels, beneath what a person set."""
    before: _Dress | None
    after: _Dress | None = None

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
    dress: _Dress | None = None

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

    def of(self, array: npt.NDArray[Any], labels: npt.NDArray[Any]) -> Any:
        """Return the same view of another array as this one is of the labels."""
        size, other = labels.itemsize, array.itemsize
        strides = [stride // size * other for stride in self.view.strides]
        offset = _start(self.view, labels) // size * other
        return np.ndarray(self.view.shape, array.dtype, array, offset, strides)

    def inside(
        self, step: _Step, mask: npt.NDArray[np.bool_] | None, labels: npt.NDArray[Any]
    ) -> Voxels:
        """Return the layer's voxels of a step that a mask of the labels holds."""
        voxels = step.atom[0]
        if mask is None:
            return _of(voxels, np.zeros(len(voxels[0]), bool))
        return _of(voxels, self.of(mask, labels)[voxels])

    def voxels(self, voxels: Voxels, labels: npt.NDArray[Any]) -> Voxels:
        """Return where voxels of the layer are in the labels."""
        offset = _start(self.view, labels)
        pairs = zip(voxels, self.view.strides, strict=True)
        places = offset + sum(at.astype(np.int64) * stride for at, stride in pairs)
        return np.unravel_index(places // labels.itemsize, labels.shape)


def _start(view: npt.NDArray[Any], labels: npt.NDArray[Any]) -> int:
    """Return the number of bytes between the first voxels of labels and of a view."""
    first, other = (a.__array_interface__["data"][0] for a in (view, labels))
    return int(first - other)


def _of(voxels: Voxels, which: npt.NDArray[np.bool_]) -> Voxels:
    """Return some of the voxels."""
    return tuple(axis[which] for axis in voxels)


def _small(voxels: Voxels) -> Voxels:
    """Return positions in the smallest type: a history holds many."""
    return tuple(at.astype(np.min_scalar_type(at.max(initial=0))) for at in voxels)


def _common(one: np.dtype[Any], other: np.dtype[Any]) -> np.dtype[Any]:
    """Return an integer type that holds the labels of two."""
    both = np.promote_types(one, other)
    return both if both.kind in "iu" else np.dtype(np.int64)
