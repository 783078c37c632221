"""napari's Preferences, and values that outlast a session."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from napari.settings import get_plugin_settings
from npe2 import PluginManifest

from napari_biomedparse.data.options import SegmentOptions
from napari_biomedparse.data.prompts import parse_prompts
from napari_biomedparse.data.volume import as_volume
from napari_biomedparse.engine.engine import CACHE_BYTES
from napari_biomedparse.process.messages import PreviewRequest, VolumeRequest
from napari_biomedparse.process.worker import Worker
from napari_biomedparse.widgets.segment.widget import SegmentWidget
from napari_biomedparse.widgets.shared import settings as _settings
from napari_biomedparse.widgets.shared.settings import (
    PLUGIN,
    Preferences,
    keep_values,
    last_values,
    settings,
    watch,
)

MANIFEST = Path(__file__).parents[3] / "napari.yaml"


def page():
    return get_plugin_settings(PLUGIN).segment


def test_defaults_are_those_of_the_manifest(qapp):
    (configuration,) = PluginManifest.from_file(
        MANIFEST
    ).contributions.configurations.values()
    declared = {key: p.default for key, p in configuration.properties.items()}
    assert declared == asdict(Preferences()) == asdict(settings())


def test_a_setting_is_kept_in_a_file_and_heard_of(own_settings, monkeypatch):
    heard = []
    end = watch(lambda name, value: heard.append((name, value)))
    page().device = "cpu"
    page().existence_threshold = 0.25
    assert heard == [("device", "cpu"), ("existence_threshold", 0.25)]
    end()
    page().device = "cuda"
    assert len(heard) == 2
    assert "device: cuda" in (own_settings / f"{PLUGIN}.yaml").read_text()
    monkeypatch.setattr("napari.settings._PLUGIN_SETTINGS", {})  # another session
    assert settings() == Preferences(device="cuda", existence_threshold=0.25)
    with pytest.raises(ValueError, match="less than or equal to 1"):
        page().existence_threshold = 2


def test_napari_without_plugin_settings(monkeypatch):
    monkeypatch.delattr("napari.settings.get_plugin_settings")
    assert settings() == Preferences()
    watch(lambda *_: None)()


def test_values_are_kept(own_settings):
    assert last_values() == {}
    keep_values({"device": "cpu", "prompts": [[1, "liver", True]]})
    assert last_values() == {"device": "cpu", "prompts": [[1, "liver", True]]}
    own_settings.joinpath("last.json").write_text("{")
    assert last_values() == {}
    own_settings.joinpath("last.json").write_text("[]")
    assert last_values() == {}


def test_a_place_that_cannot_be_written_is_no_error(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_text("")
    monkeypatch.setattr(_settings, "_last_file", lambda: file / "last.json")
    keep_values({})
    assert last_values() == {}
    monkeypatch.setattr(_settings, "_last_file", lambda: None)
    keep_values({})
    assert last_values() == {}


def test_a_new_widget_takes_preview_and_memory_over(make_napari_viewer, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "napari_biomedparse.process.child.Process",
        lambda command: SimpleNamespace(
            start=lambda *given: asked.append(given[1]), stop=lambda: None
        ),
    )
    page().preview, page().cache_gigabytes = True, 0.25
    viewer = make_napari_viewer()
    widget = SegmentWidget(viewer)
    viewer.window.add_dock_widget(widget)
    assert widget.view.preview_box.isChecked()
    volume, prompts = as_volume(np.ones((1, 8, 8))), parse_prompts(["liver"])
    request = PreviewRequest(
        volume=volume, prompts=prompts, options=SegmentOptions(), index=0
    )
    widget.session.start(request)
    assert asked[-1].cache_bytes == 2**28
    widget.preview(False)
    page().preview = False
    other = SegmentWidget(viewer)
    viewer.window.add_dock_widget(other)
    assert not other.view.preview_box.isChecked()


def test_the_engine_keeps_what_it_may():
    worker = Worker()
    run = SimpleNamespace(send=lambda message: None)
    volume, prompts = as_volume(np.ones((1, 8, 8))), parse_prompts(["liver"])
    wanted = VolumeRequest(volume, prompts, SegmentOptions(), "tiny", "cpu", 5)
    engine = worker._ready_engine(wanted, run)
    assert engine.cache.maxsize == 5
    assert worker._ready_engine(wanted, run) is engine
    other = worker._ready_engine(replace(wanted, cache_bytes=6), run)
    assert other.cache.maxsize == 6 and other.model is engine.model
    other = worker._ready_engine(replace(wanted, cache_bytes=None), run)
    assert other.cache.maxsize == CACHE_BYTES
