"""napari's menus and keys reach the widget."""

from __future__ import annotations

import numpy as np
import pytest
from app_model.types import SubmenuItem
from napari._app_model import get_app_model
from napari.utils.shortcuts import default_shortcuts
from qtpy.QtGui import QKeySequence
from qtpy.QtWidgets import QShortcut

from napari_biomedparse.viewer.samples import PLUGIN, WIDGET
from napari_biomedparse.widgets.segment.run_view import RUN_KEY
from napari_biomedparse.widgets.segment.widget import (
    CANCEL_KEY,
    NEXT_KEY,
    PREVIEW_KEY,
    PREVIOUS_KEY,
)
from napari_biomedparse.widgets.training.review import ACCEPT_KEY


@pytest.fixture
def app(make_napari_viewer):
    viewer = make_napari_viewer()
    return viewer, get_app_model()


def execute(app, name):
    return app.commands.execute_command(f"{PLUGIN}.{name}").result()


def test_the_menu_has_every_command(app):
    menus = app[1].menus
    segment = list(menus.get_menu("napari/layers/segment"))
    assert [i.submenu for i in segment if isinstance(i, SubmenuItem)] == [PLUGIN]
    ids = [item.command.id for item in menus.get_menu(PLUGIN)]
    names = ("segment", "run", "cancel", "preview", "next_slice", "previous_slice")
    names += ("accept_slice",)
    assert {f"{PLUGIN}.{name}" for name in names} <= {*ids}


def test_commands_do_what_buttons_do(app, monkeypatch, qtbot):
    viewer, model = app
    _, widget = viewer.window.add_plugin_dock_widget(PLUGIN, WIDGET)
    done = []
    for name in ("start", "cancel", "preview"):
        monkeypatch.setattr(widget, name, lambda name=name: done.append(name))
    for name in ("run", "cancel", "preview"):
        execute(model, name)
    assert done == ["start", "cancel", "preview"]
    labels = np.zeros((5, 4, 4), np.uint8)
    labels[[1, 3]] = 1
    viewer.add_labels(labels)
    viewer.dims.set_point(0, 2)
    execute(model, "next_slice")
    qtbot.waitUntil(lambda: viewer.dims.point[0] == 3)
    execute(model, "previous_slice")
    qtbot.waitUntil(lambda: viewer.dims.point[0] == 1)
    widget.session.close()


def test_menus_commands_and_buttons_share_one_widget(app, notes, tmp_path):
    viewer, model = app
    execute(model, "segment")  # as the Plugins menu does
    (segment,) = viewer.window.dock_widgets.values()
    segment.parent().hide()
    execute(model, "run")
    assert "no image" in notes[-1]
    assert segment.parent().isVisibleTo(segment.window())
    execute(model, "review")
    review = viewer.window.dock_widgets["Review labels (BiomedParse)"]
    review.folder.value = tmp_path
    review.learn_button.click()
    tune = viewer.window.dock_widgets["Fine-tune a model (BiomedParse)"]
    tune.parent().hide()
    execute(model, "finetune")  # as the Plugins menu does: nothing new
    review.learn_button.click()
    assert tune.parent().isVisibleTo(segment.window())
    assert len(viewer.window.dock_widgets) == 3
    segment.session.close()
    tune.session.close()


def test_accepting_has_a_command_and_a_key_that_is_told_and_free(app, qtbot):
    viewer, model = app
    viewer.add_labels(np.ones((3, 4, 4), np.uint8))
    execute(model, "accept_slice")
    (review,) = viewer.window.dock_widgets.values()
    assert review.strip.accepted == (1,)
    (shortcut,) = review.findChildren(QShortcut)
    shortcut.activated.emit()
    assert review.strip.accepted == (1, 2)
    key = QKeySequence(ACCEPT_KEY)
    assert shortcut.key() == key and key.toString() not in taken_by_napari(model)
    native = key.toString(QKeySequence.SequenceFormat.NativeText)
    assert native in review.accept_button.toolTip()


def taken_by_napari(model):
    bindings = [binding.keybinding for binding in model.keybindings]
    bindings += [b for several in default_shortcuts.values() for b in several]
    return {QKeySequence(str(binding)).toString() for binding in bindings}


def test_run_opens_the_widget(app, notes):
    viewer, model = app
    execute(model, "run")
    assert "no image" in notes[-1]
    (widget,) = viewer.window.dock_widgets.values()
    widget.session.close()


def test_keys_are_told_in_tooltips_and_are_free(app):
    viewer, model = app
    _, widget = viewer.window.add_plugin_dock_widget(PLUGIN, WIDGET)
    found = {s.key().toString(): s for s in widget.findChildren(QShortcut)}
    keys = {
        RUN_KEY: widget.view.run_button,
        CANCEL_KEY: widget.view.cancel_button,
        PREVIEW_KEY: widget.view.preview_box,
        NEXT_KEY: None,
        PREVIOUS_KEY: None,
    }
    taken = taken_by_napari(model)
    assert "Ctrl+R" in taken
    for running in (True, False):
        widget.view.set_running(running)
        assert widget.view.run_button.toolTip().count("Return") == 1
    for key, control in keys.items():
        name = QKeySequence(key).toString()
        assert name in found
        assert name not in taken
        if control is not None:
            native = QKeySequence.SequenceFormat.NativeText
            assert QKeySequence(key).toString(native) in control.toolTip()
    widget.session.close()
