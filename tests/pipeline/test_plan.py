"""Bad input is refused before the first slice; odd but good input is understood."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from napari_biomedparse.data.options import USUAL_BATCH
from napari_biomedparse.data.volume import as_volume
from napari_biomedparse.errors import OptionError, PromptError, VolumeError
from napari_biomedparse.networks.config import TINY
from napari_biomedparse.pipeline.plan import RunPlan, SegmentOptions, plan_run, spans


def _plan(volume: Any, prompts: Any = "liver", **options: Any) -> RunPlan:
    return plan_run(volume, prompts, SegmentOptions(**options), config=TINY)


GREY = np.zeros((4, 20, 20), np.uint8)


@pytest.mark.parametrize(
    ("volume", "message"),
    [
        (np.zeros(5), r"1 axes.*a volume with three axes .* or an image with two"),
        (np.zeros((4, 20, 20, 3), np.uint16), r"choose one channel"),
        (np.zeros((2, 2, 4, 20, 20)), r"choose one channel and one time point"),
        (np.zeros((0, 20, 20)), r"is empty"),
        (np.zeros((4, 20, 20), bool), r"so it is a mask"),
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
        ({"modality": "sonar"}, r"'sonar'; choose one of auto, none, ct"),
        ({"axis": 3}, r"between 0 and 2"),
        ({"axis": 1.5}, r"one of z, y, x, t, or a whole number"),
        ({"axis": "depth"}, r"one of z, y, x, t"),
        ({"axis": "t"}, r"axis\) is t, but volume has the axes z, y, x; choose one"),
        ({"slices": (2, 9)}, r"has 4 slices along axis z"),
        ({"slices": (3, 3)}, r"do not lie in"),
        ({"slices": (1, 2, 3)}, r"first slice and the one after the last"),
        ({"batch_size": 0}, r"between 1 and"),
        ({"batch_size": "many"}, r"one of auto, or a whole number, not 'many'"),
        ({"existence_threshold": 1.5}, r"between 0.0 and 1.0"),
        ({"existence_threshold": "high"}, r"must be a number"),
        ({"seed": True}, r"whole number"),
    ],
)
def test_options_outside_their_limits(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        _plan(GREY, **options)


def test_only_an_open_batch_size_follows_the_device() -> None:
    assert _plan(GREY).slices_at_once == USUAL_BATCH
    assert _plan(GREY).batched(16).slices_at_once == 16
    assert _plan(GREY, batch_size=2).batched(16).slices_at_once == 2
    tiled = _plan(GREY, tile=16).batched(16)
    assert (tiled.slices_at_once, tiled.batch_size) == (1, 16)


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


@pytest.mark.parametrize(("name", "number"), [("z", 0), ("y", 1), ("x", 2)])
def test_an_axis_by_name_is_the_same_as_by_number(name: str, number: int) -> None:
    for axis in (name, number):
        plan = _plan(GREY, axis=axis)
        assert (plan.geometry.axis, plan.axis_name) == (number, name)
        assert plan.parameters()["slicing_axis"] == name


def test_axes_are_named_as_the_volume_names_them() -> None:
    volume = replace(as_volume(GREY), axes=("t", "y", "x"))
    assert _plan(volume, axis="t").axis_name == "t"
    with pytest.raises(OptionError, match="4 slices along axis t"):
        _plan(volume, slices=(0, 5))


def test_a_pixel_size_asks_only_for_the_sizes_of_a_slice() -> None:
    volume = replace(
        as_volume(GREY), spacing=(1, 2, 2), units=("pixel", *("micrometer",) * 2)
    )
    assert _plan(volume, pixel_size=1.0, axis="z").geometry.working_shape == (64, 64)
    with pytest.raises(OptionError, match="has no voxel size"):
        _plan(volume, pixel_size=1.0, axis="y")


@pytest.mark.parametrize(("brightest", "high"), [(1.0, 1.0), (0.25, 1.0), (200, 255.0)])
def test_colours_keep_their_hue(brightest: float, high: float) -> None:
    values = np.zeros((2, 20, 30, 3), np.float32)
    values[0, 0, 0, 1] = brightest
    plan = _plan(values, modality="ct")
    assert plan.volume.is_colour
    assert (plan.intensity.low, plan.intensity.high) == (0.0, high)
    assert _plan(values.astype(np.uint8)).intensity.method == "none"


def test_colour_slices_are_cut_as_they_were_taken() -> None:
    assert _plan(np.zeros((50, 20, 90, 3), np.uint8)).axis_name == "z"
    assert _plan(np.zeros((50, 20, 90, 3), np.uint8), axis="y").axis_name == "y"


@pytest.mark.parametrize(
    ("indices", "expected"),
    [
        ([], []),
        ([4], [(4, 5)]),
        ({9, 2, 0, 1, 10, 5}, [(0, 3), (5, 6), (9, 11)]),
        ((3, 2, 1), [(1, 4)]),
    ],
)
def test_slices_are_put_together_to_ranges(
    indices: Iterable[int], expected: list[tuple[int, int]]
) -> None:
    assert spans(indices) == expected
