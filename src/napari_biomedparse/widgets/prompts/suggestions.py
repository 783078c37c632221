"""Line edits that suggest prompts the model was trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import QEvent, QStringListModel, Qt, QTimer, Signal
from qtpy.QtGui import QKeySequence
from qtpy.QtWidgets import QApplication, QCompleter, QLineEdit, QWidget

from napari_biomedparse.data.vocabulary import suggested_prompts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qtpy.QtGui import QFocusEvent, QKeyEvent

_SHOWN = 12


class CompletingLine(QLineEdit):
    """Suggests prompts that the model was trained on; any text is accepted.

    Those in `first`, which a small model knows, come before those of BiomedParse v2.
    """

    def __init__(
        self,
        modality: str = "auto",
        first: Sequence[str] = (),
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self._suggestions = QStringListModel(self)
        self.suggest(modality, first)
        completer = QCompleter(self._suggestions, self)
        completer.setCaseSensitivity(Qt.CaseSensitivity.CaseInsensitive)
        completer.setFilterMode(Qt.MatchFlag.MatchContains)
        completer.setMaxVisibleItems(_SHOWN)
        self.setCompleter(completer)

    def suggest(self, modality: str, first: Sequence[str] = ()) -> None:
        """Suggest some texts first, and targets of one modality, or of all of them."""
        texts = dict.fromkeys((*first, *suggested_prompts(modality)))
        self._suggestions.setStringList(list(texts))

    def focusInEvent(self, event: QFocusEvent | None) -> None:
        """Show the list of suggestions in napari's theme."""
        super().focusInEvent(event)
        self._apply_theme()

    def changeEvent(self, event: QEvent | None) -> None:
        """Follow napari's theme."""
        super().changeEvent(event)
        if event is not None and event.type() == QEvent.Type.StyleChange:
            self._apply_theme()

    def _apply_theme(self) -> None:
        """Give the list, a window of its own, the style of napari's window."""
        completer, window = self.completer(), self.window()
        while window is not None and (above := window.parentWidget()) is not None:
            window = above.window()  # of a floating dock
        popup = None if completer is None else completer.popup()
        if popup is not None and window is not None:
            popup.setStyleSheet(window.styleSheet())


class PromptLine(CompletingLine):
    """Emits a chosen suggestion, typed text or pasted list, and is cleared."""

    entered = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self.setPlaceholderText("Add a prompt, for example kidney")
        self.setToolTip(
            "Type part of a word to see prompts that the model was trained on, or "
            "write your own, and press Enter. A pasted list adds one prompt per line."
        )
        self.setClearButtonEnabled(True)
        completer = self.completer()
        assert completer is not None
        completer.activated.connect(self._choose)
        self.returnPressed.connect(self._enter_soon)

    def keyPressEvent(self, event: QKeyEvent | None) -> None:
        """Accept a list from the clipboard."""
        if event is not None and event.matches(QKeySequence.StandardKey.Paste):
            text = clipboard_text()
            if "\n" in text.strip():
                self.entered.emit(text)
                return
        super().keyPressEvent(event)

    def _choose(self, text: str) -> None:
        self.setText(text)
        self._enter_soon()

    def _enter_soon(self) -> None:
        # Enter on a suggestion is reported twice, at first without the suggestion.
        QTimer.singleShot(0, self._enter)

    def _enter(self) -> None:
        text = self.text().strip()
        self.clear()
        if text:
            self.entered.emit(text)


def clipboard_text() -> str:
    """Return the text on the clipboard."""
    clipboard = QApplication.clipboard()
    return "" if clipboard is None else clipboard.text()
