"""Sample data as napari gets it, and when a window is thought possible."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from napari_biomedparse.pipeline.recognize import TARGETS
from napari_biomedparse.viewer import samples as _samples
from napari_biomedparse.viewer.layers import METADATA_KEY


@pytest.mark.parametrize(
    ("make", "prompt"),
    [
        (_samples.em_layers, "mitochondria in electron microscopy"),
        (_samples.light_sheet_layers, "nuclei"),
    ],
)
def test_layers(make, prompt):
    (grey, image, kind), (labels, truth, labels_kind) = make()
    assert (kind, labels_kind) == ("image", "labels")
    assert grey.shape == labels.shape == (24, 128, 128)
    np.testing.assert_allclose(image["scale"], truth["scale"])
    texts = image["metadata"][METADATA_KEY]["text_prompts"]
    assert any(prompt in text for text in texts.values())
    assert set(np.unique(labels)) - {0} <= set(texts)


@pytest.mark.parametrize(
    ("make", "shape", "levels", "targets"),
    [
        (_samples.pathology_layers, (512, 512, 3), 160, TARGETS["Pathology"]),
        (_samples.fundus_layers, (1411, 1411, 3), 89, TARGETS["Fundus"]),
        (_samples.microaneurysm_layers, (102, 102), 99, ("microaneurysm",)),
    ],
)
def test_pictures_need_no_download(make, shape, levels, targets, monkeypatch):
    monkeypatch.setattr("skimage.data._fetchers._image_fetcher", None)
    ((image, keywords, kind),) = make()
    assert (kind, image.shape, image.dtype) == ("image", shape, np.uint8)
    assert keywords.get("rgb", False) == (len(shape) == 3)
    assert int(np.mean(image)) == levels
    texts = keywords["metadata"][METADATA_KEY]["text_prompts"]
    assert list(texts) == list(range(1, len(texts) + 1))
    assert {text.partition(" in ")[0] for text in texts.values()} <= set(targets)


def test_manifest_offers_the_samples():
    from npe2 import PluginManager

    manager = PluginManager()
    manager.discover()
    manifest = manager.get_manifest("napari-biomedparse")
    keys = [sample.key for sample in manifest.contributions.sample_data]
    assert keys == ["em", "light-sheet", "pathology", "fundus", "microaneurysms"]


@pytest.mark.skipif(sys.platform != "linux", reason="about X and Wayland")
def test_a_window_needs_a_display(monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    assert not _samples.can_open_a_window()
    monkeypatch.setattr(_samples, "find_spec", lambda _: object())
    monkeypatch.setenv("DISPLAY", ":7")
    assert _samples.can_open_a_window()
    monkeypatch.setattr(_samples, "find_spec", lambda _: None)
    assert not _samples.can_open_a_window()
