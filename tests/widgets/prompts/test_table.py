"""The prompt table under a user's hands."""

from __future__ import annotations

import math

import numpy as np
import pytest
from qtpy.QtCore import QModelIndex, Qt
from qtpy.QtWidgets import QApplication, QLineEdit

from napari_biomedparse.data.prompts import Prompt, label_colour, parse_prompts
from napari_biomedparse.report.findings import Finding
from napari_biomedparse.widgets.prompts.model import (
    HEADINGS,
    OBJECTS,
    PROMPT,
    SCORE,
    SLICE,
    VOXELS,
)
from napari_biomedparse.widgets.prompts.table import PromptTable
from napari_biomedparse.widgets.shared.form import WARNING

ROLE = Qt.ItemDataRole
LONG = "mitochondria " * 80


@pytest.fixture
def table(qtbot):
    made = PromptTable()
    qtbot.addWidget(made)
    made.resize(420, 250)
    made.show()
    made.value = "liver\nspleen\nkidney"
    return made


@pytest.fixture
def changes(table):
    seen = []
    table.changed.connect(lambda: seen.append(table.value))
    return seen


def cell(table, row, column, role=ROLE.DisplayRole):
    return table.model.index(row, column).data(role)


def click(table, qtbot, row, column, double=False):
    where = table.view.visualRect(table.model.index(row, column)).center()
    press = qtbot.mouseDClick if double else qtbot.mouseClick
    press(table.view.viewport(), Qt.MouseButton.LeftButton, pos=where)


def found(number, text, best, best_slice, voxels):
    return Finding(Prompt(number, text), 1, 4, 4, best, best_slice, voxels)


def test_a_click_on_the_box_turns_a_prompt_off(table, qtbot, changes):
    rectangle = table.view.visualRect(table.model.index(1, PROMPT))
    box = rectangle.topLeft()
    box += type(box)(10, rectangle.height() // 2)
    qtbot.mouseClick(table.view.viewport(), Qt.MouseButton.LeftButton, pos=box)
    assert changes == ["liver\nkidney"]
    assert table.model.item(1).checkState() == Qt.CheckState.Unchecked
    assert table.model.prompt_set().ids == (1, 3)


def test_swatch_has_the_colour_of_the_label(table):
    icon = cell(table, 2, PROMPT, ROLE.DecorationRole)
    for mode in (icon.Mode.Normal, icon.Mode.Selected):
        pixel = icon.pixmap(8, mode).toImage().pixelColor(4, 4)
        # The screen may have but 32 steps of a colour.
        assert np.allclose(pixel.getRgb(), label_colour(3), atol=8)


def test_editing_in_place_completes(table, qtbot, changes):
    click(table, qtbot, 0, PROMPT)
    click(table, qtbot, 0, PROMPT, double=True)
    editor = table.view.viewport().findChild(QLineEdit)
    assert editor.text() == "liver"
    editor.selectAll()
    qtbot.keyClicks(editor, "pancreas")
    completer = editor.completer()
    assert completer.completionCount() > 0
    assert "pancreas" in completer.currentCompletion()
    qtbot.keyClick(editor, Qt.Key.Key_Return)
    qtbot.waitUntil(lambda: changes == ["pancreas\nspleen\nkidney"])


def test_a_text_that_is_no_prompt_is_refused(table, changes):
    said = []
    table.model.refused.connect(said.append)
    index = table.model.index(0, PROMPT)
    assert not table.model.setData(index, "a [SEP] b")
    assert not table.model.setData(index, "  ")
    assert "[SEP]" in said[0]
    assert len(said) == 1
    assert not changes


def selected_ids(table):
    return [table.model.rows[at].id for at in table.view.selected()]


def test_move_keeps_selection_and_ids(table, changes):
    table.view.choose(0)
    table.move_selected(1)
    assert changes == ["spleen\nliver\nkidney"]
    assert selected_ids(table) == [1]
    table.move_selected(1)
    table.move_selected(1)  # it is the last
    assert changes[1:] == ["spleen\nkidney\nliver"]
    assert [row.id for row in table.model.rows] == [2, 3, 1]


@pytest.mark.parametrize(
    ("dragged", "above", "order"),
    [
        (0, 2, "spleen\nliver\nkidney"),
        (0, -1, "spleen\nkidney\nliver"),
        (2, 0, "kidney\nliver\nspleen"),
        (1, 1, "liver\nspleen\nkidney"),
    ],
)
def test_rows_can_be_dragged(table, dragged, above, order):
    data = table.model.mimeData([table.model.index(dragged, PROMPT)])
    move = Qt.DropAction.MoveAction
    moved = table.model.dropMimeData(data, move, above, 0, QModelIndex())
    assert table.value == order
    assert not moved  # or the view would remove a row, as that of the original


def test_duplicate_opens_an_editor_on_the_copy(table, qtbot):
    table.view.choose(1)
    table.duplicate_selected()
    assert table.value == "liver\nspleen\nspleen\nkidney"
    assert table.model.rows[2].id == 4
    assert table.view.viewport().findChild(QLineEdit).text() == "spleen"


def test_delete_removes_selected_rows(table, qtbot, changes):
    click(table, qtbot, 1, PROMPT)
    action = table._actions["Delete"]
    assert action in table.view.actions()
    assert action.shortcut().toString() == "Del"  # keys need an active window
    action.trigger()
    assert changes == ["liver\nkidney"]
    assert selected_ids(table) == [3]


def test_buttons_are_offered_where_they_can_do_something(table):
    table.view.clearSelection()
    names = ("Up", "Down", "Duplicate", "Delete")
    buttons = {b.text(): b for b in table.findChildren(type(table._button("Up")))}
    assert not any(buttons[name].isEnabled() for name in names)
    table.view.choose(0)
    assert all(buttons[name].isEnabled() for name in names)
    buttons["Down"].click()
    assert table.value == "spleen\nliver\nkidney"


def test_a_pasted_list_makes_one_row_a_line(table, qtbot):
    QApplication.clipboard().setText("- bone\n- lung tumour\n")
    table.line.setFocus()
    qtbot.keyClick(table.line, Qt.Key.Key_V, Qt.KeyboardModifier.ControlModifier)
    assert table.value.splitlines()[3:] == ["bone", "lung tumour"]
    assert table.line.text() == ""
    table.copy()
    assert QApplication.clipboard().text() == table.value
    QApplication.clipboard().setText("muscle")
    qtbot.keyClick(table.line, Qt.Key.Key_V, Qt.KeyboardModifier.ControlModifier)
    assert table.line.text() == "muscle"
    table.paste()
    assert table.value.splitlines()[-1] == "muscle"


def test_results_appear_beside_their_prompts(table, qtbot):
    assert all(table.view.isColumnHidden(column) for column in HEADINGS if column)
    chosen = []
    table.slice_chosen.connect(chosen.append)
    table.show_results([found(2, "spleen", 0.876, 17, 1_500_000)])
    assert not table.view.isColumnHidden(SLICE)
    assert table.view.isColumnHidden(OBJECTS)
    assert [cell(table, 1, c) for c in (SCORE, SLICE, VOXELS)] == [
        "0.88",
        "17",
        "1.5 M",
    ]
    assert cell(table, 0, SCORE) == ""
    click(table, qtbot, 1, SLICE)
    click(table, qtbot, 0, SLICE)
    assert chosen == [17]
    table.show_results([found(2, "spleen", float("nan"), None, 0)], {2: 0})
    assert [cell(table, 1, c) for c in (SCORE, SLICE, OBJECTS)] == ["-", "-", "0"]
    assert not table.view.isColumnHidden(OBJECTS)
    table.clear_results()
    assert table.view.isColumnHidden(SCORE)


def test_of_v1_the_score_is_p(table):
    heading = table.model.horizontalHeaderItem(SCORE)
    results = [found(1, "liver", 0.0317, 4, 7), found(2, "spleen", math.nan, None, 7)]
    table.show_results(results, score="p")
    assert heading.text() == "p"
    assert [cell(table, at, SCORE) for at in (0, 1)] == [
        "0.032",
        "no table for this target",
    ]
    assert "looks like its target" in cell(table, 0, SCORE, ROLE.ToolTipRole)
    assert "Name the kind of image" in cell(table, 1, SCORE, ROLE.ToolTipRole)
    table.show_results([found(1, "liver", 0.9, 4, 7)])
    assert heading.text() == "Score"
    assert "is present" in cell(table, 0, SCORE, ROLE.ToolTipRole)


def test_long_prompts_are_warned_of(table, qtbot):
    table.view.choose(0)
    assert table.tokens.text() == "3/77 tokens"
    table.line.setText(LONG)
    assert table.tokens.text() == "162/77 tokens (end ignored)"
    table.line.clear()
    table.add(LONG)
    assert cell(table, 3, PROMPT, ROLE.ForegroundRole) == WARNING
    assert "162 tokens; only the first 77 are used" in cell(
        table, 3, PROMPT, ROLE.ToolTipRole
    )
    assert cell(table, 0, PROMPT, ROLE.ForegroundRole) is None


def test_sets_are_saved_and_loaded(table, tmp_path, monkeypatch):
    path = str(tmp_path / "set.json")
    table.instance = lambda: True
    table.save(path)
    said = []
    table.instance_loaded.connect(said.append)
    table.value = "bone"
    table.load(path)
    assert table.value == "liver\nspleen\nkidney"
    assert said == [True]


def test_a_bad_file_changes_nothing(table, tmp_path, notes):
    path = tmp_path / "set.json"
    path.write_text("not json")
    table.load(str(path))
    assert table.value == "liver\nspleen\nkidney" and "set.json" in notes[-1]


def test_prompts_of_the_file_on_demand(table):
    action = table._actions["From the image's file"]
    assert not action.isEnabled()
    table.offer_file(parse_prompts({4: "axon", "instance_label": 1}))
    action.trigger()
    assert table.model.prompt_set().ids == (4,)
    table.offer_file(None)
    assert not action.isEnabled()


def test_all_off_and_on(table):
    table.switch_all()
    assert table.value == ""
    table.switch_all()
    assert table.value == "liver\nspleen\nkidney"
