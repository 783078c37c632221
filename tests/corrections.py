"""What a person does to labels, at random, and what must be left of it.

The state machine is used twice: with runs that are arrays, and in a real viewer.
"""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from napari_biomedparse.viewer.layers import METADATA_KEY, REVIEWED_KEY, reviewed

SHAPE = (4, 16, 12)
places = st.tuples(*(st.integers(0, n - 1) for n in SHAPE))
values = st.sampled_from([0, 1, 2, 7, 200])
slices = st.integers(0, SHAPE[0] - 1)


class Corrections(RuleBasedStateMachine):
    """A layer that a person corrects; `self.layer` is for a subclass to make."""

    steps = 0

    def __init__(self):
        super().__init__()
        self.layer = self.viewer = None
        self.value = np.zeros(SHAPE, int)
        self.mine = np.zeros(SHAPE, bool)
        self.accepted = {}
        self.done, self.undone = [], []

    def shown(self):
        return np.array(self.layer.data, int)

    def recompute(self, work):
        """Have something recompute; it is one step at most."""
        before = len(self.layer._undo_history)
        at_most = before + 1
        work()
        now = len(self.layer._undo_history)
        assert now in (before, at_most)
        if now > before:
            self.done.append(None)
            self.undone.clear()

    def stroke(self, paint):
        """Paint, and remember what it changed."""
        before = self.shown()
        paint()
        changed = self.shown() != before
        if changed.any():
            self.done.append((changed, self.mine.copy()))
            self.undone.clear()
            self.take(changed)

    def take(self, changed):
        """What changed is a person's."""
        now = self.shown()
        self.mine |= changed
        self.value[changed] = now[changed]
        for z, plane in self.accepted.items():
            plane[changed[z]] = now[z][changed[z]]

    @rule(at=places, value=values, size=st.integers(1, 6))
    def paint(self, at, value, size):
        self.viewer.dims.set_point(0, at[0])
        self.layer.brush_size = size
        self.stroke(lambda: self.layer.paint(at, value))

    @rule(at=places, value=values)
    def drag(self, at, value):
        self.viewer.dims.set_point(0, at[0])
        self.layer.brush_size = 2
        z, y, x = at

        def drag():
            with self.layer.block_history():
                self.layer.paint((z, y, x), value)
                self.layer.paint((z, min(y + 2, SHAPE[1] - 1), x), value)

        self.stroke(drag)

    @rule(at=places, value=values)
    def fill(self, at, value):
        self.viewer.dims.set_point(0, at[0])
        self.stroke(lambda: self.layer.fill(at, value))

    @rule(at=places, value=values)
    def polygon(self, at, value):
        z, y, x = at
        corners = [(z, y, x), (z, y, x + 3), (z, y + 3, x + 3), (z, y + 3, x)]
        self.viewer.dims.set_point(0, z)
        self.stroke(lambda: self.layer.paint_polygon(corners, value))

    @rule(at=places, value=values, replaced=st.booleans())
    def script(self, at, value, replaced):
        before, (z, y, x) = self.shown(), at
        window = (slice(z, z + 2), slice(y, y + 5), slice(x, x + 3))
        if replaced:
            data = np.array(self.layer.data)
            data[window] = value
            self.layer.data = data
        else:
            self.layer.data[window] = value
        self.take(self.shown() != before)

    def travel(self, source, target, go, forward):
        before = self.shown()
        go()
        if not source:
            np.testing.assert_array_equal(self.shown(), before)
            return
        step = source.pop()
        target.append(step)
        if step is None:
            return
        changed, mine = step
        self.mine[changed] = True if forward else mine[changed]
        now = self.shown()
        self.value[changed] = now[changed]
        for z, plane in self.accepted.items():
            plane[changed[z]] = now[z][changed[z]]

    @rule()
    def undo(self):
        self.travel(self.done, self.undone, self.layer.undo, False)

    @rule()
    def redo(self):
        self.travel(self.undone, self.done, self.layer.redo, True)

    @rule(z=slices)
    def accept(self, z):
        self.accepted.setdefault(z, self.shown()[z])
        self.mark()

    @precondition(lambda self: self.accepted)
    @rule(data=st.data())
    def reject(self, data):
        self.accepted.pop(data.draw(st.sampled_from(sorted(self.accepted))))
        self.mark()

    def mark(self):
        known = self.layer.metadata.setdefault(METADATA_KEY, {})
        known[REVIEWED_KEY] = {0: sorted(self.accepted)}

    @invariant()
    def nothing_is_lost(self):
        if self.layer is None:
            return
        type(self).steps += 1
        shown = self.shown()
        np.testing.assert_array_equal(shown[self.mine], self.value[self.mine])
        for z, plane in self.accepted.items():
            np.testing.assert_array_equal(shown[z], plane)
        marks = reviewed(self.layer).get(0, [])
        assert sorted(marks) == sorted(self.accepted)
