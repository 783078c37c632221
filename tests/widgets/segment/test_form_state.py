"""The form begins where the last one ended."""

from __future__ import annotations

import numpy as np
import pytest
from napari.settings import get_plugin_settings

from napari_biomedparse.viewer.layers import METADATA_KEY
from napari_biomedparse.widgets.segment import form_state as _form_state
from napari_biomedparse.widgets.segment.form import SegmentForm
from napari_biomedparse.widgets.segment.form_state import restore, state_of
from napari_biomedparse.widgets.segment.which_slices import CURRENT
from napari_biomedparse.widgets.shared.settings import PLUGIN, keep_values

FROM_FILE = {METADATA_KEY: {"text_prompts": {3: "liver"}, "instance_label": 1}}


@pytest.fixture
def new_form(make_napari_viewer, qtbot):
    made = []

    def make(**layer):
        viewer = make_napari_viewer()
        if layer:
            viewer.add_image(np.zeros((5, 20, 20)), **layer)
        form = SegmentForm(viewer)
        qtbot.addWidget(form)
        viewer.layers.events.inserted.connect(form.reset_choices)
        made.append(form)
        return form

    yield make
    for form in made:
        form.disconnect()


def fill(form):
    form.prompts.value = "axon\nsoma"
    form.prompts.model.switch(1, False)
    form.model.value, form.device.value = "tiny", "cpu"
    form.set_option("existence_threshold", 0.25)
    form.set_option("axis", "y")
    form.set_option("instances", True)
    form.tiles.choose("auto", 0.5)
    form.consensus.value = form.overwrite.value = True


def test_what_was_used_comes_back(new_form):
    first = new_form()
    fill(first)
    first.remember()
    second = new_form()
    assert state_of(second) == state_of(first)
    assert second.prompts.model.texts == ("axon",)
    assert second.options(0) == first.options(0)


def test_not_if_the_settings_say_so(new_form):
    page = get_plugin_settings(PLUGIN).segment
    page.remember, page.device, page.existence_threshold = False, "cpu", 0.75
    page.model = "tiny"
    first = new_form()
    fill(first)
    first.remember()
    second = new_form()
    assert second.prompts.value == ""
    assert second.device.value == "cpu"
    assert second.model.value == "tiny"
    assert second.options(0).existence_threshold == 0.75


def test_changed_settings_are_followed_at_once(new_form):
    form = new_form()
    page = get_plugin_settings(PLUGIN).segment
    page.existence_threshold = 0.2
    page.model = "tiny"
    assert form.options(0).existence_threshold == 0.2
    assert form.model.value == "tiny"
    page.model = "/no/such/file"
    assert form.model.value == "tiny"
    form.disconnect()
    page.existence_threshold = 0.5
    assert form.options(0).existence_threshold == 0.2
    form.disconnect = lambda: None


def test_prompts_of_a_file_go_before_those_used_last(new_form):
    options = {"instances": False, "modality": "em", "minimum_size": 7}
    keep_values({"prompts": [[1, "axon", True]], "options": options})
    form = new_form(metadata=FROM_FILE)
    assert form.prompts.value == "liver"
    assert form.instances.value
    assert form.options(0).modality == "auto"  # em was for axons
    assert form.options(0).minimum_size == 7
    later = new_form()
    assert later.prompts.value == "axon"
    assert later.options(0).modality == "em"
    later._viewer.add_image(np.zeros((5, 20, 20)), name="without prompts")
    assert later.prompts.value == "axon"
    later._viewer.add_image(np.zeros((5, 20, 20)), metadata=FROM_FILE)
    assert later.prompts.value == "liver"


def test_reset_leaves_the_prompts(new_form):
    form = new_form()
    before = state_of(form)
    fill(form)
    form.advanced.reset.native.click()
    assert state_of(form) == before | {
        "prompts": [[1, "axon", True], [2, "soma", False]]
    }


@pytest.mark.parametrize(
    "state",
    [
        {"options": 5, "tile": "x", "prompts": "liver", "model": 3},
        {"options": {"axis": "q", "no such": 1, "batch_size": "many"}},
        {"prompts": [[1, "a"]], "device": "abacus", "model": "/gone.safetensors"},
        {"prompts": [[1, "a [SEP] b", True]], "pixel_size": "small"},
    ],
)
def test_values_that_make_no_sense_are_left_out(new_form, state):
    form = new_form()
    form.prompts.value = "axon"
    before = state_of(form)
    restore(form, state)
    after = state_of(form)
    assert after == before


def test_automatic_model_is_the_best_at_hand(new_form, monkeypatch):
    monkeypatch.setattr(_form_state, "default_model", lambda: "tiny")
    assert new_form().model.value == "tiny"


def test_the_form_tells_of_changes(new_form):
    form = new_form(name="image")
    heard = []
    form.changed.connect(lambda: heard.append(True))
    for change in (
        lambda: setattr(form.device, "value", "cpu"),
        lambda: form.prompts.add("axon"),
        lambda: form.set_option("modality", "em"),
        lambda: setattr(form.scope.kind, "value", CURRENT),
        lambda: form.tiles.choose("none"),
        lambda: setattr(form.model, "value", "tiny"),
        lambda: setattr(form.consensus, "value", True),
    ):
        heard.clear()
        change()
        assert heard
