"""What accepted slices taught, in the Review widget, and which one to correct next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QCheckBox, QWidget

from napari_biomedparse.widgets.shared.form import ask_where
from napari_biomedparse.widgets.shared.parts import button, column, plain_text, row

if TYPE_CHECKING:
    from napari.layers import Labels

    from napari_biomedparse.process.messages import Learned

FILTER = "Taught model (*.taught.safetensors)"


class LearningPanel(QWidget):
    """Teaches the Segment widget's model, shows what it learned, and what to do next.

    `segment` is that widget once it is open.
    """

    slice_chosen = Signal(int)

    def __init__(self) -> None:
        super().__init__()
        self.segment: Any = None
        self._layer: Labels | None = None
        self._next: int | None = None
        self.learn_box = QCheckBox("Learn from accepted slices")
        self.learn_box.setToolTip(
            "After each accepted slice, learn what the prompts mean here from all that "
            "is accepted or painted, and label the other slices anew. Ctrl+Z undoes it."
        )
        self.learn_box.setChecked(True)
        self.lessons, self.next_text = plain_text(), plain_text()
        self.next_button = button(
            "Go to it", "Show the slice whose correction would teach most.", self._go
        )
        self.teach_button = button(
            "Learn now", "Learn from what is accepted and painted.", self.teach
        )
        self.forget_button = button(
            "Forget", "Return to the labels of the text alone.", self._forget
        )
        self.save_button = button(
            "Save taught model…",
            "Save what was learned, a file of some kilobytes, for other images, the "
            "command line and Python.",
            self._save,
        )
        column(
            self,
            self.learn_box,
            self.lessons,
            row((self.next_text, 1), self.next_button),
            row(self.teach_button, self.forget_button, self.save_button),
        )
        self.follow(None, None, 0)

    def follow(
        self,
        segment: Any,
        layer: Labels | None,
        axis: int,
    ) -> None:
        """Show what a layer taught the Segment widget, and its next slice."""
        self.segment, self._layer = segment, layer
        ours = segment is not None and segment.can_teach(layer)
        self.setVisible(ours)
        if segment is None or layer is None or not ours:
            self._next = None
            return
        busy, taught = segment.run is not None, segment.has_taught_model
        self.forget_button.setEnabled(taught and not busy)
        self.save_button.setEnabled(segment.has_unsaved_model and not busy)
        learned = segment.learned if taught else None
        self.lessons.setText("" if learned is None else describe(learned))
        self.lessons.setVisible(learned is not None)
        found = segment.doubt(layer, axis)
        self._next = None if found is None else found[0]
        self.next_button.setEnabled(found is not None)
        if found is not None:
            share = f"{100 * found[1]:.2g} % of it is probably wrong"
            self.next_text.setText(f"Next: slice {found[0]}, as {share}.")
        else:
            self.next_text.setText("")

    def teach(self) -> None:
        """Learn from what is accepted and painted."""
        if self.segment is not None and self.segment.can_teach(self._layer):
            self.segment.teach()

    @property
    def next_slice(self) -> int | None:
        """The slice to correct next; None if it does not learn, or none is left."""
        return self._next if self.learn_box.isChecked() else None

    def _go(self) -> None:
        if self._next is not None:
            self.slice_chosen.emit(self._next)

    def _forget(self) -> None:
        if self.segment is not None:
            self.segment.forget()

    def _save(self) -> None:
        segment = self.segment
        if segment is None or not segment.has_unsaved_model:
            return
        path = ask_where(self, "Save taught model", "model", FILTER)
        if path:
            segment.save_taught(path)


def describe(learned: Learned) -> str:
    """Say how well each prompt's target is found in corrections that were left out."""
    lines = []
    for text, before, after in zip(
        learned.texts, learned.dice_text, learned.dice_taught, strict=True
    ):
        kept = "" if after > before else ", so the text alone stays"
        lines.append(f"{text}: Dice {before:.2f} by text, {after:.2f} taught{kept}")
    return "\n".join(lines)
