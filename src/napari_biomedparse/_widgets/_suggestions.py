"""A line that completes words to prompts the model knows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import QStringListModel, Qt, QTimer, Signal
from qtpy.QtWidgets import QCompleter, QLineEdit

from napari_biomedparse.vocabulary import suggested_prompts

if TYPE_CHECKING:
    from qtpy.QtGui import QShowEvent

_SHOWN = 12


class PromptLine(QLineEdit):
    """Suggests what BiomedParse v2 was trained on; any other text does as well.

    `entered` carries the text of a chosen suggestion, or of what was typed.
    """

    entered = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self.setPlaceholderText("Add a prompt: type a word, such as kidney")
        self.setToolTip(
            "Type a part of a word and choose from what BiomedParse v2 was trained to "
            "find, or write anything else; Enter adds it to the prompts."
        )
        self.setClearButtonEnabled(True)
        self._suggestions = QStringListModel(list(suggested_prompts()), self)
        completer = QCompleter(self._suggestions, self)
        completer.setCaseSensitivity(Qt.CaseSensitivity.CaseInsensitive)
        completer.setFilterMode(Qt.MatchFlag.MatchContains)
        completer.setMaxVisibleItems(_SHOWN)
        self.setCompleter(completer)
        completer.activated.connect(self._choose)
        self.returnPressed.connect(self._enter_soon)

    def set_modality(self, modality: str) -> None:
        """Suggest targets of one modality, or of all."""
        self._suggestions.setStringList(list(suggested_prompts(modality)))

    def showEvent(self, event: QShowEvent | None) -> None:
        """Give the list of suggestions, a window of its own, the theme of napari's."""
        super().showEvent(event)
        completer = self.completer()
        popup = None if completer is None else completer.popup()
        window = self.window()
        if popup is not None and window is not None:
            popup.setStyleSheet(window.styleSheet())

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
