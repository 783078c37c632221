"""The table of prompts and, after a run, their results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from napari.utils.notifications import show_error
from qtpy.QtCore import QModelIndex, Qt, Signal
from qtpy.QtGui import QAction, QKeySequence
from qtpy.QtWidgets import QFileDialog, QMenu, QPushButton, QWidget

from napari_biomedparse.data.prompts import PromptSet, parse_prompts
from napari_biomedparse.errors import BiomedParseError
from napari_biomedparse.io.contents import read_prompts, save_prompts
from napari_biomedparse.widgets.prompts.model import PROMPT, SLICE, PromptModel
from napari_biomedparse.widgets.prompts.rows import Snapshot, split_list
from napari_biomedparse.widgets.prompts.suggestions import PromptLine, clipboard_text
from napari_biomedparse.widgets.prompts.view import PromptView, TokenCount
from napari_biomedparse.widgets.shared.form import copy_text
from napari_biomedparse.widgets.shared.parts import button, column, row

if TYPE_CHECKING:
    from napari_biomedparse.data.prompts import PromptSet
    from napari_biomedparse.report.findings import Finding
    from napari_biomedparse.widgets.prompts.rows import Snapshot

_FILES = "Prompts (*.json)"
_OF_FILE = "Use the prompts stored with the image."
_COPY = "Copy the selected prompts, or all of them, one per line."


class PromptTable(QWidget):
    """Prompts, one per row, a line to add more, and buttons to edit them."""

    changed = Signal()
    """The prompts of a run, or their order, have changed."""
    slice_chosen = Signal(int)
    instance_loaded = Signal(bool)
    """A file of prompts says whether to separate objects."""

    def __init__(self) -> None:
        super().__init__()
        self.model = PromptModel()
        self.model.setParent(self)
        self.line = PromptLine()
        self.view = PromptView(self.model)
        self.tokens = TokenCount()
        self.instance: Callable[[], bool] = lambda: False
        self._of_file: PromptSet | None = None
        self._filled: Snapshot = ()
        self.of_file = False
        """Whether the table was filled with the prompts of the image's file."""
        self._actions = self._make_actions()
        buttons = (self._button(name) for name in ("Up", "Down", "Duplicate", "Delete"))
        bar = row(*buttons, self._menu_button())
        column(self, self.view, row((self.line, 1), self.tokens), bar).setSpacing(3)
        self.model.edited.connect(self._on_edited)
        self.model.moved.connect(self.view.choose)
        self.model.refused.connect(show_error)
        self.line.entered.connect(self.add)
        self.line.textChanged.connect(self._show_tokens)
        self.view.clicked.connect(self._on_clicked)
        self.view.doubleClicked.connect(self._on_double_clicked)
        selection = self.view.selectionModel()
        assert selection is not None
        selection.selectionChanged.connect(self._on_selection_changed)
        self._on_edited()

    @property
    def value(self) -> str:
        """Texts of the prompts that are on, one per line."""
        return "\n".join(self.model.texts)

    @value.setter
    def value(self, text: str) -> None:
        lines = split_list(text)
        self.set_prompts(parse_prompts(lines) if lines else None)

    def set_prompts(self, prompts: PromptSet | None) -> None:
        """Replace all prompts."""
        self.model.set_all(prompts)

    def offer_file(self, prompts: PromptSet | None) -> bool:
        """Offer the prompts of the image's file in the menu, and fill them in.

        Those of the file before are removed, but what the user wrote is kept. Returns
        whether the table was changed.
        """
        self._of_file = prompts
        self._actions["From the image's file"].setEnabled(prompts is not None)
        now = self.model.snapshot()
        untouched = now == self._filled
        stays = prompts is None and not (untouched and self.of_file)
        if stays or not (untouched or not now):
            return False
        self.set_prompts(prompts)
        self.of_file = prompts is not None
        self.take_as_filled()
        return True

    def take_as_filled(self) -> None:
        """Treat the current rows as not written by the user."""
        self._filled = self.model.snapshot()

    def rename(self, label: int, text: str) -> None:
        """Change the text of a prompt; raises PromptError if it is not valid."""
        for at, known in enumerate(self.model.rows):
            if known.id == label:
                self.model.set_text(at, text)

    def suggest(self, modality: str, first: Sequence[str] = ()) -> None:
        """Suggest some texts first, and targets of one modality, or of all of them."""
        self.line.suggest(modality, first)
        self.view.editor.modality, self.view.editor.first = modality, first

    def add(self, text: str) -> None:
        """Add prompts, one per line."""
        self._try(lambda: self.model.add(split_list(text)))
        self.view.scrollToBottom()

    def show_results(
        self,
        findings: Sequence[Finding],
        objects: Mapping[int, int] | None = None,
        score: str = "existence",
    ) -> None:
        """Show a run's findings, its numbers of objects by label id, and its score."""
        self.model.show_results(findings, objects, score)
        self.view.fit()

    def clear_results(self) -> None:
        """Hide the results."""
        self.model.clear_results()
        self.view.fit()

    def move_selected(self, by: int) -> None:
        """Move the selected row up (-1) or down (1)."""
        chosen = self.view.selected()
        if len(chosen) == 1:
            self.model.move(chosen[0], chosen[0] + by)

    def duplicate_selected(self) -> None:
        """Insert a copy below the selected row and edit it."""
        chosen = self.view.selected()
        if len(chosen) == 1:
            below = self.model.duplicate(chosen[0])
            self.view.choose(below)
            self.view.edit(self.model.index(below, PROMPT))

    def delete_selected(self) -> None:
        """Remove the selected rows."""
        chosen = self.view.selected()
        self.model.delete(chosen)
        if chosen and self.model.rowCount():
            self.view.choose(min(chosen[0], self.model.rowCount() - 1))

    def paste(self) -> None:
        """Add a prompt for each line of text on the clipboard."""
        self.add(clipboard_text())

    def copy(self) -> None:
        """Copy the selected prompts, or all of them, one per line."""
        rows = self.model.rows
        chosen = self.view.selected() or range(len(rows))
        copy_text("\n".join(rows[at].text for at in chosen))

    def switch_all(self) -> None:
        """Turn all prompts on, or off if all are on."""
        on = len(self.model.texts) < self.model.rowCount()
        for at in range(self.model.rowCount()):
            self.model.switch(at, on)

    def save(self, path: str) -> None:
        """Write the prompts to a file."""
        texts = {known.id: known.text for known in self.model.rows}
        self._try(lambda: save_prompts(path, texts, instance=self.instance()))

    def load(self, path: str) -> None:
        """Replace all prompts by those of a file."""

        def load() -> None:
            prompts = read_prompts(path)
            self.model.set_all(prompts)
            self.instance_loaded.emit(prompts.instance)

        self._try(load)

    def _try(self, change: Callable[[], object]) -> None:
        """Do something, or show the error."""
        try:
            change()
        except BiomedParseError as error:
            show_error(str(error))

    def _fill_from_file(self) -> None:
        self.set_prompts(self._of_file)
        if self._of_file is not None:
            self.instance_loaded.emit(self._of_file.instance)

    def _ask_and_save(self) -> None:
        path, _ = QFileDialog.getSaveFileName(
            self, "Save prompts", "prompts.json", _FILES
        )
        if path:
            self.save(path)

    def _ask_and_load(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Load prompts", filter=_FILES)
        if path:
            self.load(path)

    def _on_clicked(self, index: QModelIndex) -> None:
        if index.column() == SLICE:
            self._jump(index)

    def _on_double_clicked(self, index: QModelIndex) -> None:
        if index.column() != PROMPT:
            self._jump(index)

    def _jump(self, index: QModelIndex) -> None:
        result = self.model.rows[index.row()].result
        if result is not None and result.best_slice is not None:
            self.slice_chosen.emit(result.best_slice)

    def _on_edited(self) -> None:
        self.view.fit()
        self._on_selection_changed()
        self.changed.emit()

    def _on_selection_changed(self, *_: object) -> None:
        chosen = self.view.selected()
        for name in ("Up", "Down", "Duplicate"):
            self._actions[name].setEnabled(len(chosen) == 1)
        self._actions["Delete"].setEnabled(bool(chosen))
        self._show_tokens()

    def _show_tokens(self) -> None:
        """Count the tokens of the text being written or selected."""
        text = self.line.text()
        chosen = self.view.selected()
        if not text and len(chosen) == 1:
            text = self.model.rows[chosen[0]].text
        self.tokens.count(text)

    def _make_actions(self) -> dict[str, QAction]:
        known: list[tuple[str, Callable[[], object], str]] = [
            ("Up", lambda: self.move_selected(-1), "Move the selected prompt up."),
            ("Down", lambda: self.move_selected(1), "Move the selected prompt down."),
            (
                "Duplicate",
                self.duplicate_selected,
                "Copy the selected prompt and edit the copy.",
            ),
            ("Delete", self.delete_selected, "Remove the selected prompts (Del)."),
            ("Turn all on or off", self.switch_all, "Include or exclude all prompts."),
            ("Paste a list", self.paste, "Add each line of the clipboard as a prompt."),
            ("Copy as a list", self.copy, _COPY),
            ("From the image's file", self._fill_from_file, _OF_FILE),
            ("Load…", self._ask_and_load, "Replace the prompts by those of a file."),
            ("Save…", self._ask_and_save, "Save the prompts for other images."),
        ]
        made = {}
        keys = {
            "Delete": QKeySequence.StandardKey.Delete,
            "Paste a list": QKeySequence.StandardKey.Paste,
            "Copy as a list": QKeySequence.StandardKey.Copy,
        }
        for name, do, tip in known:
            key = keys.get(name)
            action = QAction(name, self)
            action.setToolTip(tip)
            action.triggered.connect(lambda *_, do=do: do())
            if key is not None:
                action.setShortcut(QKeySequence(key))
                action.setShortcutContext(Qt.ShortcutContext.WidgetShortcut)
            made[name] = action
            self.view.addAction(action)  # the menu of the right button
        made["From the image's file"].setEnabled(False)
        return made

    def _button(self, name: str) -> QPushButton:
        action = self._actions[name]
        made = button(name, action.toolTip(), action.trigger)
        action.changed.connect(lambda: made.setEnabled(action.isEnabled()))
        return made

    def _menu_button(self) -> QPushButton:
        made = button(
            "List", "Paste, copy, load or save prompts, or turn them all off."
        )
        menu = QMenu(made)
        menu.setToolTipsVisible(True)
        menu.addActions(list(self._actions.values())[4:])
        made.setMenu(menu)
        return made
