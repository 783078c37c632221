"""Sample data for napari's File menu, and the demo that segments phantoms."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from importlib.util import find_spec

from napari_biomedparse.data.prompts import parse_prompts
from napari_biomedparse.data.volume import volume_of
from napari_biomedparse.io import Contents, LabelVolume
from napari_biomedparse.samples import Phantom, sample_em, sample_light_sheet
from napari_biomedparse.viewer.layers import LayerTuple, to_layer_tuples

PLUGIN = "napari-biomedparse"
WIDGET, REVIEW = "Segment with text", "Review labels"
SETTLED = 200  # milliseconds after which a dock has taken its room from the canvas
QT_BINDINGS = ("PyQt6", "PySide6", "PyQt5", "PySide2")


def em_layers() -> list[LayerTuple]:
    """Return the electron microscopy sample and its true labels, as layers."""
    return _layers(sample_em(), "EM sample")


def light_sheet_layers() -> list[LayerTuple]:
    """Return the light-sheet sample and its true labels, as layers."""
    return _layers(sample_light_sheet(), "light-sheet sample")


def pathology_layers() -> list[LayerTuple]:
    """Return a section of a colon with its prompts; no known copyright restrictions."""
    texts = ["epithelial cells in colon pathology"]
    texts += ["connective tissue cells in colon pathology"]
    return _picture("immunohistochemistry", "pathology sample", texts)


def fundus_layers() -> list[LayerTuple]:
    """Return a photograph of a retina with its prompts; its licence is CC0."""
    texts = ["optic disc in retinal fundus", "optic cup in retinal fundus"]
    return _picture("retina", "fundus sample", texts)


def microaneurysm_layers() -> list[LayerTuple]:
    """Return a small grey part of a retina with its prompt; its licence is CC0."""
    texts = ["microaneurysm in retinal fundus"]
    return _picture("microaneurysms", "microaneurysm sample", texts)


def can_open_a_window() -> bool:
    """Return whether there are a display and a Qt binding."""
    if not any(find_spec(binding) for binding in QT_BINDINGS):
        return False
    if sys.platform != "linux":
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def open_demo(sample: str) -> None:
    """Open napari with a sample and segment it with the demo model.

    The sample is a key in the plugin's manifest. Returns when the window is closed.
    """
    import napari
    from qtpy.QtCore import QTimer

    viewer = napari.Viewer()
    image, truth = viewer.open_sample(PLUGIN, sample)
    truth.visible = False
    viewer.layers.selection.active = image
    _, widget = viewer.window.add_plugin_dock_widget(PLUGIN, WIDGET)
    widget.form.reset()  # the last used values may not suit the sample
    widget.form.model.value = "demo"
    QTimer.singleShot(SETTLED, viewer.reset_view)
    widget.start()
    napari.run()


def _layers(phantom: Phantom, name: str) -> list[LayerTuple]:
    volume, prompts = replace(phantom.volume, name=name), phantom.demo_prompts
    truth = LabelVolume(
        replace(volume, data=phantom.labels, name=f"{name} truth"),
        dict(zip(prompts.ids, prompts.texts, strict=True)),
    )
    return to_layer_tuples(Contents((volume,), (truth,), prompts))


def _picture(name: str, title: str, texts: list[str]) -> list[LayerTuple]:
    """Return an image that is installed with scikit-image as a layer with prompts."""
    from skimage import data

    volume = replace(volume_of(getattr(data, name)()), name=title)
    return to_layer_tuples(Contents((volume,), (), parse_prompts(texts)))
