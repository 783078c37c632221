"""The Compare widget in a real viewer: two layers, a table, and what goes wrong."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from evaluation.test_compare import boxes
from qtpy.QtCore import QCoreApplication, QEvent
from qtpy.QtWidgets import QApplication

from napari_biomedparse.viewer.layers import METADATA_KEY
from napari_biomedparse.widgets import compare as compare_widget
from napari_biomedparse.widgets.compare import CompareWidget


@pytest.fixture
def bench(make_napari_viewer, qtbot):
    viewer = make_napari_viewer()
    truth, labels = boxes()
    place = {"scale": (2.0, 1.0, 1.0), "units": ("um",) * 3}
    viewer.add_labels(truth, name="right", **place)
    known = {"text_prompts": {1: "liver", 2: "spleen"}}
    viewer.add_labels(labels, name="found", metadata={METADATA_KEY: known}, **place)
    widget = CompareWidget(viewer)
    viewer.window.add_dock_widget(widget, name="Compare labels")
    widget.reset_choices()
    return viewer, widget, qtbot


def compared(widget, qtbot):
    widget.button.click()
    qtbot.waitUntil(widget.button.isEnabled, timeout=60_000)
    return [
        [widget.table.item(row, at).text() for at in range(widget.table.columnCount())]
        for row in range(widget.table.rowCount())
    ]


def test_a_line_for_each_label(bench):
    viewer, widget, qtbot = bench
    assert widget.labels.value is viewer.layers["found"]
    assert widget.truth.value is viewer.layers["right"]
    rows = compared(widget, qtbot)
    assert [row[0] for row in rows] == ["1  liver", "2  spleen", "3", "4"]
    assert rows[0][1] == "0.667" and rows[0][3:] == ["0.667", "1", "0", "1"]
    assert rows[1][1:4] == ["1.000"] * 3
    assert "2 micrometer" in widget.status.text()
    widget.copy_button.click()
    copied = QApplication.clipboard().text().splitlines()
    assert copied[0].startswith("Label\tDice\tNSD") and len(copied) == 5


def test_objects_of_a_run_are_recognised(bench):
    viewer, widget, qtbot = bench
    viewer.layers["found"].metadata[METADATA_KEY]["instance_label"] = 1
    widget._on_labels_changed()
    assert widget.objects.value
    ((name, *_),) = compared(widget, qtbot)
    assert name == "all objects"


def test_the_tolerance_is_two_voxels_until_another_is_set(bench):
    viewer, widget, _ = bench
    assert widget.tolerance.value == 2.0
    small = viewer.add_labels(
        viewer.layers["found"].data, scale=(0.045, 0.0092, 0.0092)
    )
    widget.labels.value = small
    assert widget.tolerance.value == pytest.approx(0.0184)
    widget.tolerance.value = 0.05
    widget.labels.value = viewer.layers["found"]
    assert widget.tolerance.value == 0.05


def test_what_does_not_fit_is_told(bench, notes):
    viewer, widget, qtbot = bench
    widget.truth.value = widget.labels.value
    widget.compare()
    assert "two different" in notes[-1]
    viewer.add_labels(np.ones((2, 3, 3), np.uint8), name="small")
    widget.reset_choices()
    widget.labels.value = viewer.layers["found"]
    widget.truth.value = viewer.layers["small"]
    compared(widget, qtbot)
    assert "same voxels" in notes[-1]


def test_a_window_may_be_closed_during_a_comparison(bench, monkeypatch):
    viewer, widget, _ = bench
    begun, closed = threading.Event(), threading.Event()

    def compare(*_, **__):
        begun.set()
        assert closed.wait(60)
        return []

    monkeypatch.setattr(compare_widget, "compare_labels", compare)
    before = set(threading.enumerate())
    widget.button.click()
    assert begun.wait(60)
    (thread,) = set(threading.enumerate()) - before
    viewer.window.remove_dock_widget(widget)
    widget.deleteLater()
    QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
    closed.set()
    thread.join(60)
    assert not thread.is_alive()
