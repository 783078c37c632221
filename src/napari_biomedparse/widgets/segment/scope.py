"""Which slices to segment: all, the one in view, or a range."""

from __future__ import annotations

from magicgui.widgets import ComboBox, Container, Label, SpinBox

ALL = "all slices"
CURRENT = "the slice in view"
RANGE = "from … to"


class SliceScope(Container[ComboBox | SpinBox | Label]):
    """A choice and, for a range, its first and last slice.

    Slices are counted from 0 and the last one is included, as napari's slider shows
    them.
    """

    def __init__(self) -> None:
        self._depth = 1
        self._scope = ComboBox(
            choices=[ALL, CURRENT, RANGE],
            tooltip="Try one slice first, then all of them.",
        )
        self._first = SpinBox(min=0, max=0, tooltip="First slice, counted from 0.")
        self._to = Label(value="to")
        self._last = SpinBox(min=0, max=0, tooltip="Last slice; it is included.")
        super().__init__(
            widgets=[self._scope, self._first, self._to, self._last],
            layout="horizontal",
            labels=False,
            label="Slices",
        )
        self.margins = (0, 0, 0, 0)
        self._scope.changed.connect(self._on_scope_changed)
        self._on_scope_changed()

    def set_depth(self, depth: int) -> None:
        """Learn how many slices there are; a range that no longer fits is cut."""
        whole = self._last.value == self._depth - 1
        self._depth = depth
        self._first.max = self._last.max = depth - 1
        if whole:
            self._last.value = depth - 1

    def slices(self, current: int) -> tuple[int, int] | None:
        """Return the range chosen, its end not included, or None for all.

        Parameters
        ----------
        current : int
            The slice in view.
        """
        if self._scope.value == ALL:
            return None
        if self._scope.value == CURRENT:
            return current, current + 1
        ends = int(self._first.value), int(self._last.value)
        return min(ends), max(ends) + 1

    def choose(self, first: int, last: int) -> None:
        """Choose the range from `first` to `last`, both included."""
        self._scope.value = RANGE
        self._first.value, self._last.value = first, last

    def choose_current(self) -> None:
        """Choose the slice in view."""
        self._scope.value = CURRENT

    def choose_all(self) -> None:
        """Choose all slices."""
        self._scope.value = ALL

    def _on_scope_changed(self) -> None:
        for widget in (self._first, self._to, self._last):
            widget.visible = self._scope.value == RANGE
