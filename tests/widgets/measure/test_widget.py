"""The Measure widget in a real viewer: features, the table, and what goes wrong."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from napari.utils.notifications import notification_manager
from qtpy.QtWidgets import QFileDialog

from napari_biomedparse.io import open_file
from napari_biomedparse.viewer.layers import METADATA_KEY
from napari_biomedparse.widgets.measure.widget import MeasureWidget

IMAGE = np.arange(4 * 20 * 20, dtype=np.uint16).reshape(4, 20, 20)


@pytest.fixture
def bench(make_napari_viewer, qtbot):
    """A viewer with a stack, two labels in three pieces, and the widget."""
    viewer = make_napari_viewer()
    place = {"scale": (3.0, 1.0, 1.0), "units": ("um",) * 3}
    viewer.add_image(IMAGE, name="stack", **place)
    labels = np.zeros(IMAGE.shape, np.uint8)
    labels[1:3, 1:4, 1:4], labels[:, 10:12, 10:12], labels[3, 5, 5] = 1, 2, 1
    texts = {1: "nuclei", 2: "vessels"}
    viewer.add_labels(
        labels,
        name="found",
        metadata={METADATA_KEY: {"text_prompts": texts}},
        features={"index": [0, 1, 2], "prompt": ["background", *texts.values()]},
        **place,
    )
    widget = MeasureWidget(viewer)
    viewer.window.add_dock_widget(widget)
    widget.reset_choices()
    return viewer, widget, qtbot


def measured(viewer, widget, qtbot):
    widget.button.click()
    qtbot.waitUntil(widget.button.isEnabled, timeout=20_000)
    return viewer.layers.selection.active


def test_pieces_become_objects_of_a_layer_in_the_same_place(bench):
    viewer, widget, qtbot = bench
    viewer.window._qt_window.show()
    assert widget.pieces.value
    layer = measured(*bench)
    assert layer.name == "found objects"
    np.testing.assert_array_equal(layer.scale, viewer.layers["found"].scale)
    assert sorted(layer.features["voxels"]) == [1, 16, 18]
    row = layer.features.set_index("voxels").loc[1]
    assert layer.data[3, 5, 5] == row["index"]
    assert row["prompt"] == "nuclei"
    assert row["volume"] == 3.0
    assert row["mean_intensity"] == IMAGE[3, 5, 5]
    assert "3 objects" in widget.status.text()
    docks = viewer.window.dock_widgets
    assert widget.labels.value is layer
    assert not widget.pieces.value
    (table,) = (docks[name] for name in docks if "eatures table" in name)
    qtbot.waitUntil(lambda: not table.visibleRegion().isEmpty())  # in front
    assert not viewer.layers["found"].visible  # the objects lie on it


def test_objects_that_were_measured_are_saved_with_prompts_and_existence(
    bench, tmp_path
):
    viewer, widget, qtbot = bench
    known = viewer.layers["found"].metadata[METADATA_KEY]
    scores = np.array([[0.5, 0.9, 0.9, 0.9], [0.25] * 4], np.float32)
    known |= {"existence": scores, "reviewed": {0: [1]}}
    layer = measured(*bench)
    assert widget.labels.value is layer
    assert layer.metadata[METADATA_KEY]["text_prompts"] == {1: "nuclei", 2: "vessels"}
    assert "reviewed" not in layer.metadata[METADATA_KEY]
    assert known["reviewed"] == {0: [1]} and not known.get("instance_label")
    widget.save(str(tmp_path / "a.npz"))
    qtbot.waitUntil(widget.save_button.isEnabled, timeout=30_000)
    saved = open_file(tmp_path / "a.npz").prompts
    assert saved.texts == ("nuclei", "vessels") and saved.instance
    widget.report(str(tmp_path / "a.html"))
    qtbot.waitUntil(widget.report_button.isEnabled, timeout=30_000)
    page = (tmp_path / "a.html").read_text("utf-8")
    assert "vessels" in page and "0.900" in page


def test_label_values_that_are_objects_keep_their_layer(bench):
    viewer, widget, _ = bench
    widget.pieces.value = False
    table = {"index": [0, 1, 2], "prompt": ["background", "nuclei", "vessels"]}
    viewer.layers["found"].features = {**table, "score": [np.nan, 0.75, 0.5]}
    layer = measured(*bench)
    assert layer is viewer.layers["found"]
    assert layer.features["score"].tolist() == [0.75, 0.5]
    assert layer.features["voxels"].tolist() == [19, 16]
    assert layer.features["prompt"].tolist() == ["nuclei", "vessels"]
    assert len(viewer.layers) == 2


def test_objects_of_a_run_are_recognised(bench):
    viewer, widget, _ = bench
    viewer.layers["found"].metadata[METADATA_KEY]["instance_label"] = 1
    widget._on_labels_changed()
    assert not widget.pieces.value


def test_what_does_not_fit_is_told(bench):
    viewer, widget, _ = bench
    shown = []

    def keep(note):
        shown.append(note.message)

    notification_manager.notification_ready.connect(keep)
    viewer.add_image(IMAGE[:2], name="other")
    widget.reset_choices()
    widget.image.value = viewer.layers["other"]
    measured(*bench)
    notification_manager.notification_ready.disconnect(keep)
    assert "same three axes" in shown[-1]


def test_labels_are_saved_in_the_format_of_the_ending(bench, tmp_path):
    viewer, widget, qtbot = bench
    for name in ("a.zarr", "a.tif", "a.npz"):
        widget.save(str(tmp_path / name))
        qtbot.waitUntil(widget.save_button.isEnabled, timeout=30_000)
        assert widget.status.text() == f"Saved as {tmp_path / name}"
        saved = open_file(tmp_path / name)
        layer = viewer.layers["found"]
        found = saved.labels[0] if saved.labels else saved.images[0]
        volume = getattr(found, "volume", found)
        np.testing.assert_array_equal(volume.data, layer.data)
    assert open_file(tmp_path / "a.npz").prompts.texts == ("nuclei", "vessels")


def test_the_table_of_prompts_replaces_nothing_unasked(bench, tmp_path):
    _, widget, qtbot = bench
    measured(*bench)
    mine, path = tmp_path / "t_prompts.csv", tmp_path / "t.csv"
    mine.write_text("mine")
    widget.save_table(str(path))
    qtbot.waitUntil(widget.table_button.isEnabled, timeout=30_000)
    assert "t_prompts.csv exists already" in widget.problem.text()
    assert mine.read_text() == "mine" and not path.exists()
    mine.unlink()
    for _ in range(2):  # the dialog has asked about the second
        widget.save_table(str(path))
        qtbot.waitUntil(widget.table_button.isEnabled, timeout=30_000)
        assert widget.status.text() == f"Saved as {path}"
    assert "nuclei" in mine.read_text()


def test_the_ending_of_the_format_is_added(bench, monkeypatch):
    _, widget, _ = bench
    answers = [("/x/a", "TIFF (*.tif *.tiff)"), ("/x/a.nii", "any"), ("", "")]
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_, **__: answers.pop(0))
    saved = []
    monkeypatch.setattr(widget, "save", saved.append)
    for _ in range(3):
        widget.save_button.click()
    assert saved == ["/x/a.tif", "/x/a.nii"]


def test_a_page_is_written_of_labels_and_of_objects(bench, tmp_path):
    viewer, widget, qtbot = bench
    known = viewer.layers["found"].metadata[METADATA_KEY]
    known["existence"] = np.full((2, 4), 0.75, np.float32)
    known["provenance"] = {
        "model": "demo 123",
        "environment": {"python": "3"},
        "parameters": {"seed": 7},
        "source": {"path": None},
    }
    widget.report(str(tmp_path / "page.html"))
    qtbot.waitUntil(widget.report_button.isEnabled, timeout=30_000)
    text = (tmp_path / "page.html").read_text("utf-8")
    assert "found on stack" in text and "demo 123" in text and "0.750 (0)" in text
    assert "3 connected components, in micrometer" in text
    known["instance_label"] = 1
    viewer.layers["found"].features = {"index": [0, 1, 2], "prompt": ["", *"ab"]}
    known["text_prompts"] = {1: "b", 5: "a"}
    widget.report(str(tmp_path / "page.html"))
    qtbot.waitUntil(widget.report_button.isEnabled, timeout=30_000)
    text = (tmp_path / "page.html").read_text("utf-8")
    assert "2 objects" in text
    assert "<td>1</td><td class='words'>a</td><td>19</td>" in text


def test_no_open_image_is_replaced(bench, tmp_path):
    viewer, widget, qtbot = bench
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, IMAGE, photometric="minisblack")
    viewer.open(str(path), plugin="napari-biomedparse")
    before, shown = path.read_bytes(), []

    def keep(note):
        shown.append(note.message)

    notification_manager.notification_ready.connect(keep)
    for save in (widget.save, widget.report):
        save(str(path))
        qtbot.waitUntil(widget.save_button.isEnabled, timeout=30_000)
    notification_manager.notification_ready.disconnect(keep)
    assert [note.count("never replaced") for note in shown] == [1, 1]
    assert path.read_bytes() == before


def test_a_voxel_size_is_entered(bench):
    viewer, widget, _ = bench
    stack, found = viewer.layers["stack"], viewer.layers["found"]
    stack.units = found.units = ("pixel", "um", "um")  # as a folder of slices opens
    stack.translate = found.translate = (6.0, 0.0, 2.0)
    widget.voxel_size.value = "0.5,0.1,0.1um"
    widget.voxel_size.native.editingFinished.emit()
    for layer in (stack, found):
        np.testing.assert_allclose(layer.scale, (0.5, 0.1, 0.1))
        np.testing.assert_allclose(layer.translate, (1.0, 0.0, 0.2))
        assert {str(unit) for unit in layer.units} == {"micrometer"}
    layer = measured(*bench)
    assert layer.features["volume"].min() == pytest.approx(0.005)
    widget.voxel_size.value = "many"
    widget.voxel_size.native.editingFinished.emit()
    assert "Voxel size" in widget.problem.text()
