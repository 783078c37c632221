"""Parts of a request: each as on its own, then along time, or by vote."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import dask.array as da
import numpy as np
import pytest

from napari_biomedparse.data.options import SegmentOptions
from napari_biomedparse.data.volume import Volume, as_volume, choose_channel, volume_of
from napari_biomedparse.errors import OptionError, VolumeError
from napari_biomedparse.networks.v2.biomedparse import BiomedParse
from napari_biomedparse.pipeline.plan import (
    choose_input,
    open_series,
    plan_parts,
    vote,
)
from napari_biomedparse.pipeline.segment import iter_segment, segment

PROMPTS = {2: "liver", 5: "mitochondria", 9: "a b c"}
VALUES = np.random.default_rng(5).integers(0, 255, (20, 22, 18), dtype=np.uint8)
FILM = np.random.default_rng(3).integers(0, 255, (3, 2, 4, 30, 26), dtype=np.uint8)
FAR = {2: "liver", 300: "mitochondria"}
AS_IS = SegmentOptions()


def _counted(runs: list[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    """Count the votes of each id; the first run decides where no id has two."""
    votes = np.stack([sum(run == i for run in runs) for i in (0, *PROMPTS)])
    ids = np.array((0, *PROMPTS))
    return np.where(votes.max(axis=0) >= 2, ids[votes.argmax(axis=0)], runs[0])


@pytest.mark.parametrize("lazy", [False, True])
def test_labels_are_the_vote_of_three_runs(tiny_model: BiomedParse, lazy: bool) -> None:
    alone = [segment(VALUES, PROMPTS, tiny_model, axis=axis) for axis in "zyx"]
    volume: Any = da.from_array(VALUES, chunks=7) if lazy else VALUES
    result = segment(volume, PROMPTS, tiny_model, instances=True, consensus=True)
    assert isinstance(result.labels, da.Array) == lazy
    labels = np.asarray(result.labels)
    runs = [run.labels for run in alone]
    np.testing.assert_array_equal(labels, _counted(runs))
    assert any((labels != run).any() for run in runs)
    assert result.existence.shape == (3, 3, 22)
    for row, run in enumerate(alone):
        depth = run.existence.shape[1]
        np.testing.assert_array_equal(result.existence[:, row, :depth], run.existence)
        assert np.isnan(result.existence[:, row, depth:]).all()
    assert result.instances is not None
    assert result.instances.any() and not result.instances[labels == 0].any()
    assert result.parameters["slicing_axis"] == "consensus"


def test_ties_go_to_the_first() -> None:
    first, second, third = np.array([[1, 1, 1, 2, 0], [2, 1, 2, 1, 5], [3, 3, 1, 1, 7]])
    assert vote(first, second, third).tolist() == [1, 1, 1, 1, 0]


def _spaced(*spacing: float, unit: str = "micrometer") -> Volume:
    return replace(as_volume(VALUES), spacing=spacing, units=(unit,) * 3)


def test_what_is_isotropic_enough() -> None:
    choose_input(as_volume(VALUES), AS_IS, consensus=True)
    choose_input(_spaced(1.4, 1.0, 1.0), AS_IS, consensus=True)
    with pytest.raises(VolumeError, match=r"not isotropic .*z 5 micrometer, y 1"):
        choose_input(_spaced(5, 1, 1), AS_IS, consensus=True)
    choose_input(_spaced(5, 1, 1), AS_IS, consensus=True, force=True)
    mixed = replace(_spaced(1, 1, 1), units=("nanometer", "micrometer", "micrometer"))
    with pytest.raises(VolumeError, match="not isotropic"):
        choose_input(mixed, AS_IS, consensus=True)


@pytest.mark.parametrize(
    ("volume", "message"),
    [
        (np.zeros((20, 30), np.uint8), "single image"),
        (np.zeros((9, 20, 30, 3), np.uint8), "colour slices"),
        (replace(as_volume(VALUES), axes=("t", "y", "x")), "time as an axis"),
    ],
)
def test_volumes_without_three_axes_of_space(volume: Any, message: str) -> None:
    with pytest.raises(VolumeError, match=message):
        choose_input(as_volume(volume), AS_IS, consensus=True, force=True)


def test_axis_and_range_make_no_sense(tiny_model: BiomedParse) -> None:
    for choice in ({"axis": "z"}, {"slices": (0, 2)}):
        with pytest.raises(OptionError, match="leave out the slicing axis"):
            segment(VALUES, PROMPTS, tiny_model, **choice, consensus=True)


def test_a_region_and_an_order_of_prompts(tiny_model: BiomedParse) -> None:
    options: dict[str, Any] = {"overlaps": "order", "minimum_size": 4}
    box = VALUES[2:18, 3:20]
    expected = segment(
        box, PROMPTS, tiny_model, instances=True, **options, consensus=True
    )
    result = segment(
        VALUES,
        PROMPTS,
        tiny_model,
        instances=True,
        region="z=2:18,y=3:20",
        **options,
        consensus=True,
    )
    np.testing.assert_array_equal(result.labels, expected.labels)
    np.testing.assert_array_equal(result.instances, expected.instances)
    assert np.bincount(result.instances.ravel()).min() >= 4
    with pytest.raises(OptionError, match="a consensus holds a single one"):
        segment(VALUES, PROMPTS, tiny_model, overlaps="separate", consensus=True)


def _volume(data: Any, axes: str = "tczyx", **names: Any) -> Volume:
    rank = len(axes)
    return Volume(
        data, tuple(axes), (1.0,) * rank, ("pixel",) * rank, (0.0,) * rank, **names
    )


@pytest.mark.parametrize("channel", [0, 1, "nuclei"])
def test_labels_of_each_time_point_are_those_of_a_run_on_it(
    tiny_model: BiomedParse, channel: Any
) -> None:
    volume = _volume(FILM, channel_names=("membrane", "nuclei"))
    result = segment(volume, FAR, tiny_model, channel=channel)
    index = 1 if channel == "nuclei" else channel
    assert result.labels.shape == (3, 4, 30, 26)
    assert result.labels.dtype == np.uint16
    assert result.existence.shape == (2, 3, 4)
    for time in range(3):
        alone = segment(FILM[time, index], FAR, tiny_model)
        np.testing.assert_array_equal(result.labels[time], alone.labels)
        np.testing.assert_array_equal(result.existence[:, time], alone.existence)
    assert result.parameters["times"] == [0, 3]
    assert result.parameters["model"].startswith("tiny ")


@pytest.mark.parametrize("axes", ["tczyx", "ctzyx", "zyxct"])
def test_lazy_series_of_any_order_of_axes(tiny_model: BiomedParse, axes: str) -> None:
    order = ["tczyx".index(axis) for axis in axes]
    lazy = da.from_array(FILM.transpose(order), chunks=8)
    expected = segment(FILM, FAR, tiny_model, channel=1, instances=True)
    result = segment(_volume(lazy, axes), FAR, tiny_model, channel=1, instances=True)
    assert isinstance(result.labels, da.Array)
    np.testing.assert_array_equal(np.asarray(result.labels), expected.labels)
    np.testing.assert_array_equal(result.existence, expected.existence)
    assert result.instances is not None and expected.instances is not None
    np.testing.assert_array_equal(np.asarray(result.instances), expected.instances)
    alone = segment(FILM[2, 1], FAR, tiny_model, instances=True)
    np.testing.assert_array_equal(expected.instances[2], alone.instances)


def test_some_time_points(tiny_model: BiomedParse) -> None:
    whole = segment(FILM, "liver", tiny_model, channel=0)
    for time, part in (((1, 3), slice(1, 3)), ((2, 3), slice(2, 3)), (2, 2)):
        some = segment(FILM, "liver", tiny_model, channel=0, time=time)
        np.testing.assert_array_equal(some.labels, whole.labels[part])


@pytest.mark.parametrize("lazy", [False, True])
def test_images_over_time_are_single_images(
    tiny_model: BiomedParse, lazy: bool
) -> None:
    values: Any = FILM[:, 0, 0]
    volume = _volume(da.from_array(values, chunks=9) if lazy else values, "tyx")
    result = segment(volume, FAR, tiny_model, instances=True, time=(0, 3))
    assert result.labels.shape == (3, 30, 26)
    assert result.existence.shape == (2, 3, 1)
    for time in range(3):
        alone = segment(values[time], FAR, tiny_model, instances=True)
        np.testing.assert_array_equal(np.asarray(result.labels[time]), alone.labels)
        found = np.asarray(result.instances)[time]  # type: ignore[index]
        np.testing.assert_array_equal(found, alone.instances)


def test_colours_over_time(tiny_model: BiomedParse) -> None:
    colours = np.moveaxis(FILM[:, :1].repeat(3, axis=1), 1, -1)
    result = segment(colours, "liver", tiny_model)
    alone = segment(colours[1], "liver", tiny_model)
    np.testing.assert_array_equal(result.labels[1], alone.labels)
    first = segment(np.moveaxis(colours, -1, 1), "liver", tiny_model, channel="rgb")
    np.testing.assert_array_equal(first.labels, result.labels)


def test_one_time_point_is_read_at_a_time(tiny_model: BiomedParse) -> None:
    read: list[int] = []

    def block(block_info: Any = None) -> np.ndarray[Any, Any]:
        where = block_info[None]["chunk-location"]
        read.append(where[0])
        return FILM[where[0], where[1]][None, None]

    chunks = ((1, 1, 1), (1, 1), (4,), (30,), (26,))
    lazy = da.map_blocks(
        block, chunks=chunks, dtype=np.uint8, meta=np.empty((0,) * 5, np.uint8)
    )
    series = choose_input(lazy, AS_IS, channel=1)
    assert read == []
    segment(lazy, "liver", tiny_model, channel=1, time=(0, 2))
    assert read == [0, 1]
    assert series.at(0).shape == (4, 30, 26)


@pytest.mark.parametrize(
    ("source", "choice", "message"),
    [
        (FILM[0, 0], {}, r"axes z, y, x and none of time \(t\)"),
        (FILM, {}, r"2 channels and no channel was chosen"),
        (FILM, {"channel": 2}, r"2 is not one; choose one of 0, 1"),
        (FILM, {"channel": 0, "time": 3}, r"time points 0 to 2, and 3"),
        (FILM, {"channel": 0, "time": (2, 1)}, r"\(2, 1\) does not lie"),
    ],
)
def test_choices_that_make_no_sense(source: Any, choice: Any, message: str) -> None:
    with pytest.raises(VolumeError, match=message):
        channel = choice.get("channel")
        open_series(choose_channel(volume_of(source), channel), choice.get("time"))


def test_options_are_those_of_segment(tiny_model: BiomedParse) -> None:
    with pytest.raises(OptionError, match="no option chanel"):
        segment(FILM, "liver", tiny_model, chanel=1)


def test_axes_of_an_array_are_named_by_an_option(tiny_model: BiomedParse) -> None:
    stack, expected = FILM[0, 1], segment(FILM[0, 1], FAR, tiny_model)
    swapped = segment(FILM[0], FAR, tiny_model, channel=1, axes="CZYX")
    np.testing.assert_array_equal(swapped.labels, expected.labels)
    over_time = segment(stack[:, None], FAR, tiny_model, axes="TZYX")
    assert over_time.labels.shape == (4, 1, 30, 26)
    (first, *_) = iter_segment(stack, FAR, tiny_model, axes="XYZ", axis="z")
    assert (first.axis, first.labels.shape[:2]) == (2, (4, 30))
    with pytest.raises(VolumeError, match="cannot be named TZYX"):
        segment(stack, FAR, tiny_model, axes="TZYX")


def test_a_region_of_each_time_point(tiny_model: BiomedParse) -> None:
    options = {"region": "y=2:28,x=0:20", "instances": True, "minimum_size": 3}
    result = segment(FILM, FAR, tiny_model, channel=1, **options)
    for time in range(3):
        alone = segment(FILM[time, 1], FAR, tiny_model, **options)
        np.testing.assert_array_equal(result.labels[time], alone.labels)
        np.testing.assert_array_equal(result.instances[time], alone.instances)


def test_separate_labels_are_refused(tiny_model: BiomedParse) -> None:
    with pytest.raises(OptionError, match="a series' result holds a single one"):
        segment(FILM, "a", tiny_model, channel=1, overlaps="separate")


def test_a_part_is_planned_when_its_turn_comes(tiny_model: BiomedParse) -> None:
    series = choose_input(FILM, AS_IS, channel=0)
    parts = plan_parts(series, FAR, AS_IS, config=tiny_model.config)
    assert (parts.kind, parts.keys, parts.total) == ("series", (0, 1, 2), 12)
    assert [part.plan.volume.data[0, 0, 0] for part in parts] == list(
        FILM[:, 0, 0, 0, 0]
    )
    cube = plan_parts(
        as_volume(VALUES), PROMPTS, AS_IS, config=tiny_model.config, consensus=True
    )
    assert (cube.kind, cube.keys, cube.total) == ("consensus", ("z", "y", "x"), 60)
    assert [part.plan.axis_name for part in cube] == ["z", "y", "x"]


@pytest.mark.parametrize(
    ("volume", "request_", "keys"),
    [
        (VALUES, {}, {None}),
        (FILM[:, 0], {"channel": 0}, {0, 1, 2}),
        (VALUES, {"consensus": True}, {"z", "y", "x"}),
    ],
)
def test_progress_names_the_part(
    tiny_model: BiomedParse, volume: Any, request_: Any, keys: set[Any]
) -> None:
    if volume.ndim == 4:
        volume = _volume(volume, "tzyx")
        request_ = {}
    seen: list[Any] = []
    segment(
        volume, "liver", tiny_model, watch=lambda key, _: seen.append(key), **request_
    )
    assert set(seen) == keys


def test_watching_can_end_it(tiny_model: BiomedParse) -> None:
    class Enough(Exception):
        pass

    def stop(*_: Any) -> None:
        raise Enough

    with pytest.raises(Enough):
        segment(VALUES, "liver", tiny_model, consensus=True, watch=stop)
