"""The form: what it offers, follows and keeps."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import tifffile
from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QAbstractButton,
    QAbstractItemView,
    QAbstractSpinBox,
    QComboBox,
    QHeaderView,
    QLineEdit,
    QTableView,
)

from napari_biomedparse.data.options import SegmentOptions
from napari_biomedparse.errors import CheckpointError, OptionError, VolumeError
from napari_biomedparse.runs.recipe import as_command, as_python
from napari_biomedparse.slicing.read import region_of
from napari_biomedparse.viewer.axes import shown_position
from napari_biomedparse.viewer.layers import METADATA_KEY
from napari_biomedparse.widgets.segment.form import SegmentForm
from napari_biomedparse.widgets.segment.form_state import restore, state_of
from napari_biomedparse.widgets.segment.which_slices import ALL, CURRENT
from napari_biomedparse.widgets.weights import weights_panel as _weights_panel

CONTROLS = (QAbstractButton, QAbstractSpinBox, QComboBox, QLineEdit, QTableView)
FROM_FILE = {METADATA_KEY: {"text_prompts": {3: "liver", 8: "spleen"}}}


@pytest.fixture
def viewer(make_napari_viewer):
    return make_napari_viewer()


@pytest.fixture
def form(viewer, qtbot):
    form = SegmentForm(viewer)
    qtbot.addWidget(form)
    viewer.layers.events.inserted.connect(form.reset_choices)
    yield form
    form.disconnect()


def test_defaults_are_those_of_the_options(form):
    form.instances.value = False
    assert form.options(0) == SegmentOptions(instances=False)


def test_image_follows_the_selection_but_not_labels(viewer, form):
    first = viewer.add_image(np.zeros((5, 20, 20)), name="a")
    second = viewer.add_image(np.zeros((9, 20, 20)), name="b")
    labels = viewer.add_labels(np.zeros((5, 20, 20), np.uint8))
    assert form.layer is second
    viewer.layers.selection.active = first
    assert form.layer is first
    viewer.layers.selection.active = labels
    assert form.layer is first
    first.name = "z"
    form.reset_choices()
    assert form.layer is first


def test_prompts_of_the_file_keep_their_ids(viewer, form):
    viewer.add_image(np.zeros((5, 20, 20)), metadata=FROM_FILE)
    assert form.prompts.value == "liver\nspleen"
    assert form.prompt_set().ids == (3, 8)
    form.prompts.value = "liver\nkidney"
    assert form.prompt_set().ids == (1, 2)


def test_what_the_user_wrote_is_not_replaced(viewer, form):
    form.prompts.value = "nuclei"
    viewer.add_image(np.zeros((5, 20, 20)), metadata=FROM_FILE)
    assert form.prompts.value == "nuclei"


def test_a_chosen_slice_comes_into_view(viewer, form):
    scaled = {"scale": (4, 1, 1), "translate": (10, 0, 0), "units": ["nm"] * 3}
    viewer.add_image(np.zeros((30, 20, 20)), **scaled)
    viewer.add_image(np.zeros((2, 30, 20, 20)), name="with time")
    viewer.layers.selection.active = viewer.layers[0]
    form.prompts.slice_chosen.emit(17)
    assert shown_position(viewer.layers[0], viewer.dims)[0] == 17
    assert form.slice_in_view() == 17
    form.show_slice(3)
    assert form.slice_in_view() == 3


def test_a_set_of_prompts_says_whether_objects_are_separated(form):
    form.instances.value = True
    assert form.prompts.instance()
    form.prompts.instance_loaded.emit(False)
    assert not form.instances.value


def test_file_says_whether_objects_are_separated(viewer, form):
    known = {**FROM_FILE[METADATA_KEY], "instance_label": 1}
    viewer.add_image(np.zeros((5, 20, 20)), metadata={METADATA_KEY: known})
    assert form.instances.value


def test_slices(viewer, form):
    viewer.add_image(np.zeros((30, 20, 20)))
    assert form.options(4).slices is None
    form.scope.choose(9, 3)
    assert form.options(4).slices == (3, 10)
    form.scope.kind.value = CURRENT
    assert form.options(4).slices == (4, 5)
    form.scope.kind.value = ALL
    assert form.options(4).slices is None


def test_range_is_cut_to_the_volume(viewer, form):
    viewer.add_image(np.zeros((30, 20, 20)), name="long")
    form.scope.choose(0, 29)
    viewer.add_image(np.zeros((6, 20, 20)), name="short")
    assert form.options(0).slices == (0, 6)


def test_a_weights_file_joins_the_list(form, tmp_path):
    path = str(tmp_path / "mine.safetensors")
    with pytest.raises(ValueError, match="no model"):
        form.model.choose(path)
    Path(path).touch()
    form.model.choose(path)
    assert form.model.value == path
    form.model.choose("tiny")
    assert path in form.model.choices


def test_every_field_explains_itself(form):
    for name, widget in form.options_by_name.items():
        assert len(widget.tooltip) > 20, name
    for widget in (form.image, form.model, form.device):
        assert widget.tooltip
    assert form.prompts.view.toolTip()
    for part in (form, form.advanced, form.large):
        for kind in CONTROLS:
            for control in part.findChildren(kind):
                assert control.toolTip() or _is_inside(control), (part, control)


def _is_inside(control):
    """Whether a control is a part of another, which explains it."""
    return isinstance(control.parent(), (*CONTROLS, QHeaderView, QAbstractItemView))


def test_a_run_needs_the_weights_and_a_copy_does_not(viewer, form, monkeypatch):
    viewer.add_image(np.zeros((5, 20, 20)))
    form.prompts.value = "axon"
    monkeypatch.setattr(_weights_panel, "is_downloaded", lambda _: False)
    form.model.value = "v2"
    with pytest.raises(CheckpointError, match="not been downloaded"):
        form.request()
    assert form.request(to_run=False).model == "v2"
    form.model.value = "tiny"
    assert form.request().model == "tiny"


def test_tiles_and_pixel_size(viewer, form):
    viewer.add_image(
        np.zeros((5, 20, 20)), scale=(2, 0.25, 0.25), units=("um", "um", "um")
    )
    assert (form.options(0).tile, form.options(0).pixel_size) == ("auto", None)
    for tile in ("none", 256, "auto"):
        form.tiles.choose(tile)
        assert (form.options(0).tile, form.options(0).pixel_size) == (tile, None)
    form.tiles.choose("auto", 0.125)
    assert (form.options(0).tile, form.options(0).pixel_size) == ("auto", 0.125)


def test_pixel_size_begins_with_that_of_the_layer(viewer, form):
    viewer.add_image(
        np.zeros((5, 20, 20)), scale=(2, 0.25, 0.25), units=("um", "um", "um")
    )
    size = form.tiles[2]
    assert (size.value, size.native.suffix()) == (0.25, " µm")
    form.tiles.choose("auto", 0.5)
    viewer.add_image(np.zeros((5, 20, 20)), scale=(9, 8, 8), units=("nm", "nm", "nm"))
    assert (size.value, size.native.suffix()) == (0.5, " nm")


def test_a_voxel_size_acts_on_the_runs_of_its_image(viewer, form, tmp_path):
    path = tmp_path / "stack.tif"
    voxels = np.zeros((5, 20, 20), np.uint8)
    tifffile.imwrite(path, voxels, metadata={"axes": "ZYX"})
    viewer.open(str(path), plugin="napari-biomedparse")
    form.prompts.value, form.model.value = "axon", "tiny"
    image, field = form.layer, form.advanced.voxel_size
    assert form.options(0).voxel_size is None and not form.unusual
    field.value = "0.5,0.1,0.1um"
    request = form.request()
    assert region_of(request.volume, request.options).spacing == (0.5, 0.1, 0.1)
    assert "--voxel-size 0.5,0.1,0.1um" in as_command(request.recipe())
    assert form.unusual == "voxel size: 0.5,0.1,0.1um"
    assert form.tiles._pixel_size.native.suffix() == " µm"
    np.testing.assert_array_equal(image.scale, 1)
    field.value = "0.5,0.1"
    with pytest.raises(OptionError, match="Voxel size"):
        form.request()
    form.reset()
    assert form.options(0).voxel_size is None
    field.value = "2um"
    viewer.add_image(np.zeros((5, 20, 20)), name="another")
    assert form.options(0).voxel_size is None and not field.value


def test_axes_of_a_file_are_named_anew(viewer, form, tmp_path):
    path, voxels = tmp_path / "frames.tif", np.zeros((5, 20, 30), np.uint8)
    tifffile.imwrite(path, voxels, imagej=True, metadata={"axes": "TYX"})
    viewer.open(str(path), plugin="napari-biomedparse")
    form.prompts.value, form.model.value = "axon", "tiny"
    first, field = form.layer, form.advanced.axes
    assert first.axis_labels == ("t", "y", "x")
    field.value, form.advanced.voxel_size.value = "ZYX", "0.5,0.1,0.1um"
    field.native.editingFinished.emit()
    assert form.layer is not first and not first.visible and not field.value
    assert form.layer.axis_labels == ("z", "y", "x")
    assert form.layer.name == "frames (ZYX)"
    recipe = form.request().recipe()
    assert recipe.options.voxel_size == "0.5,0.1,0.1um"
    assert "--axes ZYX" in as_command(recipe)
    names = {}
    exec(as_python(recipe).partition("prompts =")[0], names)
    assert names["volume"].axes == ("z", "y", "x")


def test_channels_that_are_slices_become_a_volume(viewer, form, tmp_path):
    path, voxels = tmp_path / "stack.tif", np.zeros((5, 20, 30), np.uint8)
    voxels[:] = np.arange(5)[:, None, None]
    names = {"axes": "CYX", "Channel": {"Name": list("abcde")}}
    tifffile.imwrite(path, voxels, ome=True, metadata=names)
    assert len(viewer.open(str(path), plugin="napari-biomedparse")) == 5
    form.prompts.value, form.model.value = "axon", "tiny"
    form.advanced.axes.value = "zyx"  # Run is pressed without Enter
    np.testing.assert_array_equal(form.request().volume.data, voxels)
    assert [layer.visible for layer in viewer.layers] == [False] * 5 + [True]


def test_axes_of_an_array_are_named_by_its_layer(viewer, form):
    layer = viewer.add_image(np.zeros((2, 3, 20, 30)))
    form.prompts.value, form.model.value = "axon", "tiny"
    form.advanced.axes.value = "ZCYX"
    assert form.request().volume.shape == (2, 20, 30)
    assert layer.axis_labels == ("z", "c", "y", "x")
    for letters, what in (("ZYX", "has 4 axes"), ("QRST", "letter for each axis")):
        form.advanced.axes.value = letters
        form.advanced.axes.native.editingFinished.emit()
        with pytest.raises((OptionError, VolumeError), match=what):
            form.request()
    form.reset()
    form.request()


def test_layers_without_a_unit_take_no_pixel_size(viewer, form):
    viewer.add_image(np.zeros((5, 20, 20)))
    assert form.tiles[2].native.suffix() == " pixel"


def test_fields_of_objects_are_shown_with_them(form):
    form.show()
    fields = [form.options_by_name[name] for name in ("edge_threshold", "minimum_size")]
    for wanted in (True, False):
        form.instances.value = wanted
        assert [field.visible for field in fields] == [wanted, wanted]
    form.instances.value = True
    form.set_option("separate_by", "shape")
    assert [field.visible for field in fields] == [False, True]  # no edges
    assert form.options_by_name["diameter"].visible
    form.set_option("separate_by", "both")
    assert [field.visible for field in fields] == [True, True]
    form.set_option("separate_by", "shape")
    assert form.options(0).separate_by == "shape"
    form.set_option("minimum_size", 30)
    form.set_option("edge_threshold", 0.4)
    assert form.options(0).minimum_size == 30
    assert form.options(0).edge_threshold == 0.4


def test_order_of_the_table_decides_about_overlaps(viewer, form):
    viewer.add_image(np.zeros((5, 20, 20)))
    form.model.value = "tiny"
    form.prompts.value = "axon\nsoma\nnucleus"
    form.set_option("overlaps", "order")
    form.overwrite.value = True
    assert form.request().prompts.ranked == (1, 2, 3)
    form.prompts.view.choose(2)
    form.prompts.move_selected(-2)
    asked = form.request()
    assert asked.prompts.ids == (1, 2, 3)
    assert asked.prompts.ranked == (3, 1, 2)
    assert asked.options.overlaps == "order"
    assert asked.overwrite


def test_tab_goes_from_top_to_bottom(form, monkeypatch):
    monkeypatch.setattr(_weights_panel, "is_downloaded", lambda _: False)
    form.model.value = "v2"
    form.instances.value = True
    form.prompts.value = "axon"
    form.resize(450, 700)
    form.show()
    form.prompts.view.choose(0)  # so that no button is disabled
    first = control = form.image.native
    stops = []
    while True:
        if control.isVisible() and control.focusPolicy() & Qt.FocusPolicy.TabFocus:
            corner = control.mapTo(form, control.rect().topLeft())
            stops.append((corner.y() + control.height() // 2, corner.x()))
        control = control.nextInFocusChain()
        if control is first:
            break
    rows = [round(y / 10) for y, _ in stops]
    assert len(stops) > 15
    assert rows == sorted(rows)


@pytest.mark.parametrize("name", ["axis", "overlaps"])
def test_every_choice_of_the_options_is_offered(form, name):
    meta = {item.name: item.metadata for item in fields(SegmentOptions)}[name]
    offered = form.options_by_name[name].choices
    known = meta["choices"] if "choices" in meta else (None, *meta["names"])
    assert {*offered} == {*known}


def test_the_modalities_are_those_of_the_model(form):
    field = form.options_by_name["modality"]
    form.model.value = "tiny"
    for_volumes = ["auto", "none", "ct", "ct-lung", "ct-brain", "ct-bone", "mr", "pet"]
    for_volumes += ["ultrasound", "em", "light-sheet"]
    assert list(field.choices) == for_volumes
    field.value = "ct"
    form.model.value = "v1"
    sites = ["abdomen", "chest", "pelvis", "liver", "colon", "pancreas"]
    for_images = [f"ct-{site}{end}" for end in ("", "-v1") for site in sites]
    expected = ["auto", "none", "positive", "positive-v1", *for_images]
    assert list(field.choices) == expected
    assert field.value == "auto"
    form.set_option("modality", "ct")  # such as a likely cause proposes
    assert form.options(0).modality == "ct"
    form.set_option("modality", "ct-lung")
    assert list(field.choices) == [*expected, "ct-lung"]
    form.model.value = "tiny"
    assert set(field.choices) == set(for_volumes)
    assert form.options(0).modality == "ct-lung"
    with pytest.raises(ValueError, match="not a valid choice"):
        form.set_option("modality", "photo")


def test_a_modality_of_another_model_is_restored_before_that_model(form):
    form.model.value = "v1"
    form.set_option("modality", "ct-liver-v1")
    state = state_of(form)
    form.model.value = "tiny"
    assert form.options(0).modality == "auto"
    restore(form, state)
    assert form.options(0).modality == "ct-liver-v1"
    assert form.model.value == "v1"
