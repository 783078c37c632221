"""Each time point as on its own; channels chosen; lazy in, lazy out."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np
import pytest

from napari_biomedparse.data.volume import Volume
from napari_biomedparse.errors import OptionError, VolumeError
from napari_biomedparse.networks.v2.biomedparse import BiomedParse
from napari_biomedparse.pipeline.segment import segment
from napari_biomedparse.pipeline.series import open_series, segment_series

PROMPTS = {2: "liver", 300: "mitochondria"}
VALUES = np.random.default_rng(3).integers(0, 255, (3, 2, 4, 30, 26), dtype=np.uint8)


def _volume(data: Any, axes: str = "tczyx", **names: Any) -> Volume:
    rank = len(axes)
    return Volume(
        data, tuple(axes), (1.0,) * rank, ("pixel",) * rank, (0.0,) * rank, **names
    )


@pytest.mark.parametrize("channel", [0, 1, "nuclei"])
def test_labels_of_each_time_point_are_those_of_a_run_on_it(
    tiny_model: BiomedParse, channel: Any
) -> None:
    volume = _volume(VALUES, channel_names=("membrane", "nuclei"))
    result = segment_series(volume, PROMPTS, tiny_model, channel=channel)
    index = 1 if channel == "nuclei" else channel
    assert result.labels.shape == (3, 4, 30, 26)
    assert result.labels.dtype == np.uint16
    assert result.existence.shape == (2, 3, 4)
    for time in range(3):
        alone = segment(VALUES[time, index], PROMPTS, tiny_model)
        np.testing.assert_array_equal(result.labels[time], alone.labels)
        np.testing.assert_array_equal(result.existence[:, time], alone.existence)
    assert result.parameters["times"] == [0, 3]
    assert result.parameters["model"].startswith("tiny ")


@pytest.mark.parametrize("axes", ["tczyx", "ctzyx", "zyxct"])
def test_lazy_series_of_any_order_of_axes(tiny_model: BiomedParse, axes: str) -> None:
    order = ["tczyx".index(axis) for axis in axes]
    lazy = da.from_array(VALUES.transpose(order), chunks=8)
    expected = segment_series(VALUES, PROMPTS, tiny_model, channel=1, instances=True)
    result = segment_series(
        _volume(lazy, axes), PROMPTS, tiny_model, channel=1, instances=True
    )
    assert isinstance(result.labels, da.Array)
    np.testing.assert_array_equal(np.asarray(result.labels), expected.labels)
    np.testing.assert_array_equal(result.existence, expected.existence)
    assert result.instances is not None and expected.instances is not None
    np.testing.assert_array_equal(np.asarray(result.instances), expected.instances)
    alone = segment(VALUES[2, 1], PROMPTS, tiny_model, instances=True)
    np.testing.assert_array_equal(expected.instances[2], alone.instances)


def test_some_time_points(tiny_model: BiomedParse) -> None:
    whole = segment_series(VALUES, "liver", tiny_model, channel=0)
    for time, part in (((1, 3), slice(1, 3)), (2, slice(2, 3))):
        some = segment_series(VALUES, "liver", tiny_model, channel=0, time=time)
        np.testing.assert_array_equal(some.labels, whole.labels[part])


@pytest.mark.parametrize("lazy", [False, True])
def test_images_over_time_are_single_images(
    tiny_model: BiomedParse, lazy: bool
) -> None:
    values: Any = VALUES[:, 0, 0]
    volume = _volume(da.from_array(values, chunks=9) if lazy else values, "tyx")
    result = segment_series(volume, PROMPTS, tiny_model, instances=True)
    assert result.labels.shape == (3, 30, 26)
    assert result.existence.shape == (2, 3, 1)
    for time in range(3):
        alone = segment(values[time], PROMPTS, tiny_model, instances=True)
        np.testing.assert_array_equal(np.asarray(result.labels[time]), alone.labels)
        found = np.asarray(result.instances)[time]  # type: ignore[index]
        np.testing.assert_array_equal(found, alone.instances)


def test_colours_over_time(tiny_model: BiomedParse) -> None:
    colours = np.moveaxis(VALUES[:, :1].repeat(3, axis=1), 1, -1)
    result = segment_series(colours, "liver", tiny_model)
    alone = segment(colours[1], "liver", tiny_model)
    np.testing.assert_array_equal(result.labels[1], alone.labels)
    first = segment_series(
        np.moveaxis(colours, -1, 1), "liver", tiny_model, channel="rgb"
    )
    np.testing.assert_array_equal(first.labels, result.labels)


def test_one_time_point_is_read_at_a_time(tiny_model: BiomedParse) -> None:
    read: list[int] = []

    def block(block_info: Any = None) -> np.ndarray[Any, Any]:
        where = block_info[None]["chunk-location"]
        read.append(where[0])
        return VALUES[where[0], where[1]][None, None]

    chunks = ((1, 1, 1), (1, 1), (4,), (30,), (26,))
    lazy = da.map_blocks(
        block, chunks=chunks, dtype=np.uint8, meta=np.empty((0,) * 5, np.uint8)
    )
    series = open_series(lazy, channel=1)
    assert read == []
    segment_series(lazy, "liver", tiny_model, channel=1, time=(0, 2))
    assert read == [0, 1]
    assert series.at(0).shape == (4, 30, 26)


@pytest.mark.parametrize(
    ("source", "choice", "message"),
    [
        (VALUES[0, 0], {}, r"axes z, y, x and none of time \(t\)"),
        (VALUES, {}, r"2 channels and no channel was chosen"),
        (VALUES, {"channel": 2}, r"2 is not one; choose one of 0, 1"),
        (VALUES, {"channel": 0, "time": 3}, r"time points 0 to 2, and 3"),
        (VALUES, {"channel": 0, "time": (2, 1)}, r"\(2, 1\) does not lie"),
    ],
)
def test_choices_that_make_no_sense(source: Any, choice: Any, message: str) -> None:
    with pytest.raises(VolumeError, match=message):
        open_series(source, **choice)


def test_options_are_those_of_segment(tiny_model: BiomedParse) -> None:
    with pytest.raises(OptionError, match="no option chanel"):
        segment_series(VALUES, "liver", tiny_model, chanel=1)


def test_a_region_of_each_time_point(tiny_model: BiomedParse) -> None:
    options = {"region": "y=2:28,x=0:20", "instances": True, "minimum_size": 3}
    result = segment_series(VALUES, PROMPTS, tiny_model, channel=1, **options)
    for time in range(3):
        alone = segment(VALUES[time, 1], PROMPTS, tiny_model, **options)
        np.testing.assert_array_equal(result.labels[time], alone.labels)
        np.testing.assert_array_equal(result.instances[time], alone.instances)


def test_separate_labels_are_refused(tiny_model: BiomedParse) -> None:
    with pytest.raises(OptionError, match="a series' result holds a single one"):
        segment_series(VALUES, "a", tiny_model, channel=1, overlaps="separate")
