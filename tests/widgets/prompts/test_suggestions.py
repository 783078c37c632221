"""The line that completes prompts."""

from __future__ import annotations

from qtpy.QtCore import Qt

from napari_biomedparse.widgets.prompts.suggestions import PromptLine
from napari_biomedparse.widgets.segment.form import SegmentForm


def line(qtbot):
    made = PromptLine()
    qtbot.addWidget(made)
    made.show()
    entered = []
    made.entered.connect(entered.append)
    return made, entered


def shown(made):
    completer = made.completer()
    completer.setCompletionPrefix(made.text())
    model = completer.completionModel()
    return [model.index(i, 0).data() for i in range(model.rowCount())]


def test_a_part_of_a_word_finds_prompts_of_the_modality(qtbot):
    made, _ = line(qtbot)
    qtbot.keyClicks(made, "SPLEEN")
    assert "CT imaging of spleen in the abdomen" in shown(made)
    assert any(prompt.startswith("MRI") for prompt in shown(made))
    made.suggest("ct-bone")
    assert all(prompt.startswith("CT") for prompt in shown(made))


def test_enter_adds_free_text_and_empties_the_line(qtbot):
    made, entered = line(qtbot)
    qtbot.keyClicks(made, "  zebra stripes ")
    qtbot.keyClick(made, Qt.Key.Key_Return)
    qtbot.waitUntil(lambda: entered == ["zebra stripes"])
    assert made.text() == ""
    qtbot.keyClick(made, Qt.Key.Key_Return)
    qtbot.wait(20)
    assert entered == ["zebra stripes"]


def test_a_chosen_suggestion_is_added_once(qtbot):
    made, entered = line(qtbot)
    qtbot.keyClicks(made, "spleen")
    popup = made.completer().popup()
    qtbot.waitUntil(popup.isVisible)
    qtbot.keyClick(popup, Qt.Key.Key_Down)
    qtbot.keyClick(popup, Qt.Key.Key_Return)
    qtbot.waitUntil(lambda: made.text() == "")
    assert entered == ["CT imaging of spleen in the abdomen"]


def test_the_form_adds_a_line_and_follows_the_modality(make_napari_viewer, qtbot):
    form = SegmentForm(make_napari_viewer())
    qtbot.addWidget(form)
    form.model.value = "tiny"
    form.prompts.value = "axons\n"
    form.prompts.line.entered.emit("mitochondria")
    assert form.prompt_set().texts == ("axons", "mitochondria")
    form.options_by_name["modality"].value = "pet"
    assert all(prompt.startswith("PET") for prompt in shown(form.prompts.line))
    form.disconnect()


def test_targets_of_a_small_model_come_first(make_napari_viewer, qtbot):
    form = SegmentForm(make_napari_viewer())
    qtbot.addWidget(form)
    line = form.prompts.line
    form.model.value = "demo"
    assert form.badge.isVisibleTo(form)
    assert "learnt from phantoms, 8 targets" in form.badge.text()
    qtbot.keyClicks(line, "mito")
    assert shown(line)[0] == "mitochondria in electron microscopy"
    form.options_by_name["modality"].value = "ct"
    assert shown(line)[0] == "mitochondria in electron microscopy"
    form.model.value = "tiny"
    assert "mitochondria in electron microscopy" not in shown(line)
    assert "phantoms" not in form.badge.text()
    form.disconnect()


def test_the_list_follows_the_theme(make_napari_viewer):
    viewer = make_napari_viewer()
    line = PromptLine()
    viewer.window.add_dock_widget(line)
    popup = line.completer().popup()
    viewer.theme = "light"
    light = popup.styleSheet()
    viewer.theme = "dark"
    assert light
    assert popup.styleSheet() == line.window().styleSheet() != light
