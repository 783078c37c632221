"""Fields that forms are made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from napari.components import ViewerModel
from napari.layers import Image
from qtpy.QtCore import QEvent
from qtpy.QtWidgets import QApplication, QVBoxLayout, QWidget

from napari_biomedparse.widgets.shared.form import (
    LayerChoice,
    chosen_folder,
    folder_field,
)


def test_a_layer_choice_follows_until_its_window_is_deleted(qtbot):
    viewer = ViewerModel()
    window = QWidget()
    choice = LayerChoice(
        viewer, Image, label="Image", tooltip="", offers=lambda x: x.name != "hidden"
    )
    QVBoxLayout(window).addWidget(choice.native)
    first = viewer.add_image(np.zeros((3, 4)), name="first")
    choice.reset_choices()
    viewer.add_image(np.zeros((3, 4)), name="hidden")
    choice.reset_choices()
    assert choice.choices == (first,)
    second = viewer.add_image(np.zeros((3, 4)), name="second")
    choice.reset_choices()
    viewer.layers.selection.active = first
    assert choice.value is first
    events = viewer.layers.selection.events.active
    followers = len(events.callbacks)
    window.deleteLater()
    QApplication.sendPostedEvents(window, QEvent.Type.DeferredDelete)
    viewer.layers.selection.active = second
    assert len(events.callbacks) == followers - 1


def test_a_folder_is_chosen_or_none(qtbot, tmp_path):
    field = folder_field("Result", "Where it goes.")
    assert chosen_folder(field) is None
    field.value = tmp_path
    assert chosen_folder(field) == Path(tmp_path)
