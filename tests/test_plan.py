"""Bad input is refused before the first slice; odd but good input is understood."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from napari_biomedparse.errors import OptionError, PromptError, VolumeError
from napari_biomedparse.model.config import TINY
from napari_biomedparse.plan import RunPlan, SegmentOptions, plan_run


def _plan(volume: Any, prompts: Any = "liver", **options: Any) -> RunPlan:
    return plan_run(volume, prompts, SegmentOptions(**options), config=TINY)


GREY = np.zeros((4, 20, 20), np.uint8)


@pytest.mark.parametrize(
    ("volume", "message"),
    [
        (np.zeros(5), r"1 axes.*volume of three is needed"),
        (np.zeros((5, 5)), r"2 axes.*image\[None\]"),
        (np.zeros((4, 20, 20, 3), np.uint8), r"RGB.*image\[\.\.\., 0\]"),
        (np.zeros((2, 2, 4, 20, 20)), r"Choose one channel and one time point"),
        (np.zeros((0, 20, 20)), r"is empty"),
        (np.zeros((4, 20, 20), bool), r"mask and not an image"),
        (np.zeros((4, 20, 20), complex), r"complex128"),
        (np.full((4, 20, 20), np.nan), r"no finite value"),
        ([[1, 2], [3]], r"not a regular array"),
    ],
)
def test_volumes_that_cannot_be_segmented(volume: Any, message: str) -> None:
    with pytest.raises(VolumeError, match=message):
        _plan(volume)


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ("", r"no prompt"),
        ([], r"no prompt"),
        (["liver", " "], r"label id 2 is empty"),
        ("liver[SEP]kidney", r"\[SEP\]"),
        ({0: "liver"}, r"ids run from 1"),
        ({1: 5}, r"not text"),
        ([3], r"must be text"),
    ],
)
def test_prompts_that_cannot_be_used(prompts: Any, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        _plan(GREY, prompts)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modality": "sonar"}, r"'sonar'; choose one of auto, ct"),
        ({"axis": 3}, r"between 0 and 2"),
        ({"axis": 1.5}, r"whole number"),
        ({"slices": (2, 9)}, r"has 4 slices along axis 0"),
        ({"slices": (3, 3)}, r"do not lie in"),
        ({"slices": (1, 2, 3)}, r"first slice and the one after the last"),
        ({"batch_size": 0}, r"between 1 and"),
        ({"existence_threshold": 1.5}, r"between 0.0 and 1.0"),
        ({"existence_threshold": "high"}, r"must be a number"),
        ({"seed": True}, r"whole number"),
    ],
)
def test_options_outside_their_limits(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        _plan(GREY, **options)


@pytest.mark.parametrize(
    "dtype", ["u1", "<i2", ">i2", "<u2", ">u2", "<i4", "<f2", "<f4", ">f4", "<f8"]
)
def test_grey_levels_of_any_type_enter_as_0_to_255(dtype: str) -> None:
    ramp = np.linspace(0, 100, 4 * 20 * 20).reshape(4, 20, 20).astype(dtype)
    plan = _plan(ramp)
    mapped = plan.intensity.apply(ramp)
    assert mapped.dtype == np.uint8
    assert mapped.max() == (100 if dtype == "u1" else 255)


def test_infinite_and_missing_values_do_not_spoil_the_others() -> None:
    volume = np.linspace(0, 1, 4 * 20 * 20).reshape(4, 20, 20)
    clean = _plan(volume).intensity
    volume[0, 0, :3] = np.nan, np.inf, -np.inf
    spoilt = _plan(volume).intensity
    assert abs(spoilt.low - clean.low) < 0.01
    assert spoilt.apply(volume)[0, 0, :3].tolist() == [0, 255, 0]


def test_long_prompts_are_reported_and_ids_choose_the_type() -> None:
    long = "mitochondria " * 90
    plan = _plan(GREY, {1: "liver", 700: long})
    assert plan.truncated == (long,)
    assert plan.label_dtype == np.uint16
    assert _plan(GREY).label_dtype == np.uint8


def test_the_file_decides_on_instances_unless_told() -> None:
    prompts = {1: "nuclei", "instance_label": 1}
    assert _plan(GREY, prompts).instances
    assert not _plan(GREY, prompts, instances=False).instances
    assert not _plan(GREY).instances


def test_one_slice_and_singleton_axes() -> None:
    assert _plan(np.zeros((1, 20, 20))).stop == 1
    assert _plan(np.zeros((1, 1, 4, 20, 20), np.uint8)).volume.shape == (4, 20, 20)


def test_parameters_are_plain_json() -> None:
    import json

    parameters = _plan(GREY, ["liver", "kidney"], slices=(1, 3)).parameters()
    assert json.loads(json.dumps(parameters)) == parameters
    assert parameters["prompts"] == {"1": "liver", "2": "kidney"}
    assert parameters["slices"] == [1, 3]
