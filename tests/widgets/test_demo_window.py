"""What `napari-biomedparse demo` opens on a computer with a display."""

from __future__ import annotations

import napari
import numpy as np

from napari_biomedparse.viewer import samples as _samples
from napari_biomedparse.widgets.segment.widget import SegmentWidget


def test_the_demo_fills_in_the_labels_of_a_sample(
    make_napari_viewer, monkeypatch, qtbot
):
    viewer = make_napari_viewer()

    def wait_as_long_as_a_user(*_):
        widget = viewer.window._qt_window.findChild(SegmentWidget)
        qtbot.waitUntil(lambda: widget.run is None, timeout=90_000)
        widget.session.close()

    monkeypatch.setattr(napari, "Viewer", lambda: viewer)
    monkeypatch.setattr(napari, "run", wait_as_long_as_a_user)
    _samples.open_demo("em")
    labels, truth = viewer.layers[-1].data, viewer.layers["EM sample truth"]
    assert not truth.visible
    assert labels.shape == truth.data.shape
    agree = (np.asarray(labels) == np.asarray(truth.data)).mean()
    assert agree > 0.8, agree
