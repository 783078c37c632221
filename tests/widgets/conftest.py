"""A viewer with the widget docked, on the tiny model or on a fake model process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import napari.settings
import numpy as np
import pytest
from napari.utils.notifications import notification_manager

from napari_biomedparse.process import Session
from napari_biomedparse.process.child import COMMAND
from napari_biomedparse.widgets.segment.widget import SegmentWidget
from napari_biomedparse.widgets.shared import settings as _settings

FAKE = Path(__file__).parents[1] / "process" / "fake_worker.py"
LONGEST_WAIT = 90_000
"""Milliseconds; the model process may have to import torch on a busy machine."""


class Desk:
    """What a user has in front of them, and some things they do."""

    def __init__(self, viewer: Any, widget: SegmentWidget, qtbot: Any) -> None:
        self.viewer = viewer
        self.widget = widget
        self.form, self.view = widget.form, widget.view
        self.qtbot = qtbot

    def start(self) -> Any:
        """Press Run and return the new Labels layer."""
        before = set(self.viewer.layers)
        self.view.run_button.click()
        (layer,) = set(self.viewer.layers) - before
        return layer

    def wait_until(self, condition: Any) -> None:
        self.qtbot.waitUntil(condition, timeout=LONGEST_WAIT)

    def wait_for_slices(self, layer: Any) -> None:
        self.wait_until(lambda: np.asarray(layer.data).any())

    def wait_for_end(self) -> None:
        self.wait_until(lambda: self.widget.run is None)


@pytest.fixture
def desk_that(make_napari_viewer, qtbot):
    """Make a desk by naming what its model process does wrong; None is the real one."""
    made = []

    def make(mode: str | None = "works") -> Desk:
        viewer = make_napari_viewer()
        fake = None if mode is None else Session([*COMMAND[:-1], str(FAKE), mode])
        widget = SegmentWidget(viewer, session=fake)
        viewer.window.add_dock_widget(widget, name="Segment with text")
        widget.form.model.value = "tiny"
        widget.form.device.value = "cpu"
        widget.form.prompts.value = "bright things"
        made.append(Desk(viewer, widget, qtbot))
        return made[-1]

    yield make
    for desk in made:
        desk.widget.session.close()


@pytest.fixture
def voxels():
    """Noise of which about 60 % is above the fake model's threshold."""
    return np.random.default_rng(0).integers(0, 255, (6, 40, 30), dtype=np.uint8)


@pytest.fixture
def notes():
    """Messages that napari shows."""
    shown = []

    def keep(note):
        shown.append(note.message)

    notification_manager.notification_ready.connect(keep)
    yield shown
    notification_manager.notification_ready.disconnect(keep)


@pytest.fixture(autouse=True)
def own_settings(tmp_path, monkeypatch):
    """Keep settings and last values of each test apart, and the user's untouched."""
    path = tmp_path / "napari" / "settings.yaml"
    monkeypatch.setattr(napari.settings, "_CFG_PATH", str(path))
    monkeypatch.setattr(napari.settings, "_PLUGIN_SETTINGS", {})
    monkeypatch.setattr(_settings, "_last_file", lambda: path.with_name("last.json"))
    return path.parent
