from __future__ import annotations

from dataclasses import replace
from typing import Any

import dask.array as da
import numpy as np
import pytest
import zarr

from napari_biomedparse.data.volume import (
    ArrayLike,
    Volume,
    as_volume,
    choose_channel,
    volume_of,
    with_axis,
)
from napari_biomedparse.errors import VolumeError

DATA = np.arange(2 * 3 * 4 * 5, dtype=np.uint8).reshape(2, 3, 4, 5)


def _volume(data: Any = DATA, **changes: Any) -> Volume:
    values = {
        "axes": ("c", "z", "y", "x"),
        "spacing": (1.0, 3.0, 0.5, 0.25),
        "units": ("pixel", *("micrometer",) * 3),
        "origin": (0.0, 1.0, 2.0, 3.0),
        "name": "cells",
        "channel_names": ("a", "b"),
    }
    return Volume(data, **(values | changes))


def _first(*axes: str) -> dict[str, Any]:
    """Axes, and as many values of the rest."""
    size = len(axes)
    return {
        "axes": axes,
        "spacing": (2.0, 1.0, 0.5, 0.25)[:size],
        "units": ("pixel", *("micrometer",) * 3)[:size],
        "origin": (0.0,) * size,
    }


def _zarr(values: Any) -> Any:
    return zarr.create_array(store={}, data=values, chunks=(1, *values.shape[1:]))


def _lazy(values: Any) -> Any:
    return da.from_array(values, chunks=(1, *values.shape[1:]))


@pytest.mark.parametrize("make", [np.asarray, _lazy, _zarr])
def test_any_array_will_do(make: Any) -> None:
    data = make(DATA)
    assert isinstance(data, ArrayLike)
    volume = _volume(data, levels=(make(DATA[..., ::2]),)).select(c=1)
    assert volume.axes == ("z", "y", "x")
    assert volume.spacing == (3.0, 0.5, 0.25)
    assert volume.units == ("micrometer",) * 3
    assert volume.origin == (1.0, 2.0, 3.0)
    assert volume.channel_names == ()
    assert (volume.shape, volume.dtype) == ((3, 4, 5), np.uint8)
    np.testing.assert_array_equal(np.asarray(volume.data), DATA[1])
    np.testing.assert_array_equal(np.asarray(volume.levels[0]), DATA[1, ..., ::2])


def test_selecting_stays_lazy() -> None:
    assert hasattr(_volume(_zarr(DATA)).select(c=0, z=1).data, "dask")


def test_selecting_another_axis_keeps_the_channels() -> None:
    assert _volume().select(z=0).channel_names == ("a", "b")


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"t": 0}, r"no axis 't'; its axes are c, z, y, x"),
        ({"c": 2}, r"no position 2 along axis 'c'; choose 0 to 1"),
        ({"c": -1}, r"no position -1"),
    ],
)
def test_selecting_what_is_not_there(index: dict[str, int], message: str) -> None:
    with pytest.raises(VolumeError, match=message):
        _volume().select(**index)


@pytest.mark.parametrize("what", ["axes", "spacing", "units", "origin"])
def test_a_description_that_does_not_fit(what: str) -> None:
    with pytest.raises(VolumeError, match=f"cells: 1 {what} are given .* 4 axes"):
        _volume(**{what: ("z",)})


@pytest.mark.parametrize("make", [np.asarray, _lazy, _zarr])
def test_a_bare_array_becomes_a_volume(make: Any) -> None:
    volume = as_volume(make(DATA[0]))
    assert (volume.axes, volume.name) == (("z", "y", "x"), "volume")
    assert (volume.spacing, volume.units) == ((1.0,) * 3, ("pixel",) * 3)


def test_nested_lists_and_axes_of_size_one() -> None:
    assert as_volume(DATA[0].tolist()).shape == (3, 4, 5)
    assert as_volume(DATA[None, :1]).shape == (3, 4, 5)
    assert as_volume(DATA[:1, :1]).shape == (1, 4, 5)
    assert as_volume(_volume(DATA[:1], channel_names=("a",))).axes == ("z", "y", "x")


def test_a_volume_of_three_axes_is_kept() -> None:
    volume = _volume().select(c=0)
    assert as_volume(volume) is volume


@pytest.mark.parametrize("dtype", ["u1", "<i2", ">u2", "i8", "<f2", ">f4", "f8"])
def test_types_that_will_do(dtype: str) -> None:
    assert as_volume(DATA[0].astype(dtype)).dtype == np.dtype(dtype)


@pytest.mark.parametrize("make", [np.asarray, _lazy, _zarr])
def test_a_single_image_becomes_one_slice(make: Any) -> None:
    volume = as_volume(make(DATA[0, 0]))
    assert (volume.shape, volume.axes, volume.flat) == ((1, 4, 5), ("z", "y", "x"), 1)
    np.testing.assert_array_equal(np.asarray(volume.data[0]), DATA[0, 0])
    assert as_volume(volume) is volume
    assert not as_volume(make(DATA[0, :1])).flat


COLOUR = np.arange(2 * 8 * 9 * 4, dtype=np.uint8).reshape(2, 8, 9, 4)


@pytest.mark.parametrize("make", [np.asarray, _lazy, _zarr])
@pytest.mark.parametrize("samples", [3, 4])
def test_a_last_axis_of_three_or_four_is_colour(make: Any, samples: int) -> None:
    stack = as_volume(make(COLOUR[..., :samples]))
    assert stack.is_colour and not stack.flat
    assert (stack.axes, stack.grid) == (("z", "y", "x", "c"), (2, 8, 9))
    np.testing.assert_array_equal(np.asarray(stack.data[:]), COLOUR[..., :3])
    assert as_volume(stack) is stack
    image = as_volume(make(COLOUR[0, ..., :samples].astype(np.float32)))
    assert image.is_colour and image.flat
    np.testing.assert_array_equal(np.asarray(image.data[:]), COLOUR[:1, ..., :3])


def test_what_a_volume_says_of_its_axes_counts_more_than_sizes() -> None:
    thin = _volume(COLOUR[..., 0, :3], **_first("z", "y", "x"))
    assert not as_volume(thin).is_colour
    assert not as_volume(COLOUR[0].astype(np.int16)).is_colour


def test_letters_name_the_axes_of_an_array() -> None:
    data = np.zeros((2, 4, 30, 26), np.uint8)
    assert volume_of(data).axes == ("c", "z", "y", "x")
    assert volume_of(data, "TZYX").axes == ("t", "z", "y", "x")
    slices = np.zeros((20, 30, 3), np.uint8)  # not a color image
    assert as_volume(slices, axes="YXZ").axes == ("y", "x", "z")
    assert as_volume(volume_of(data[0]), axes="XYZ").axes == ("z", "y", "x")
    with pytest.raises(VolumeError, match=r"4 axes with .* cannot be named ZYX"):
        as_volume(data, axes="ZYX")


def test_channels_called_red_green_blue_are_colours_wherever_they_are() -> None:
    first = np.moveaxis(COLOUR, -1, 0)
    names = ("red", "green", "blue", "alpha")
    volume = as_volume(_volume(first, channel_names=names))
    assert volume.is_colour
    assert (volume.spacing, volume.origin) == ((3, 0.5, 0.25, 1), (1, 2, 3, 0))
    np.testing.assert_array_equal(np.asarray(volume.data), COLOUR[..., :3])
    with pytest.raises(VolumeError, match=r"in color with values of type int32"):
        as_volume(_volume(first.astype(np.int32), channel_names=names))


def test_a_channel_or_all_as_colours() -> None:
    first = _volume(np.moveaxis(COLOUR, -1, 0), channel_names=("a", "b", "d", "e"))
    for channel, index in ((0, 0), ("b", 1), (3, 3)):
        chosen = choose_channel(first, channel)
        np.testing.assert_array_equal(np.asarray(chosen.data), COLOUR[..., index])
    colours = as_volume(choose_channel(first, "rgb"))
    np.testing.assert_array_equal(np.asarray(colours.data), COLOUR[..., :3])
    for wrong in (None, 4, -1, "red"):
        with pytest.raises(VolumeError, match=r"0 \(a\), 1 \(b\).* or rgb for all"):
            choose_channel(first, wrong)
    grey = first.select(c=0)
    assert choose_channel(grey, None) is choose_channel(grey, 0) is grey
    with pytest.raises(VolumeError, match="one channel only, not 'b'"):
        choose_channel(grey, "b")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (DATA[0, 0, 0], r"1 axes"),
        (7, r"0 axes"),
        (DATA, r"4 axes \(c 2, z 3, y 4, x 5\); choose one channel, as in .*c=0"),
        (_volume(DATA[:, :, 0], **_first("c", "y", "x")), r"choose one channel"),
        (np.zeros((9, 8, 3, 3), np.uint8), r"choose one channel"),
        (np.zeros((2, 2, 2, 9, 8, 7)), r"6 axes"),
        (DATA[0, :0], r"is empty"),
        (DATA[0] > 1, r"True and False only"),
        (DATA[0].astype(complex), r"complex128"),
        (DATA[0].astype(str), r"voxels of type <U"),
        (DATA[0].astype(object), r"object"),
        ([[1, 2], [3]], r"not a regular array"),
    ],
)
def test_what_cannot_be_a_volume(source: Any, message: str) -> None:
    with pytest.raises(VolumeError, match=message):
        as_volume(source)


@pytest.mark.parametrize("lazy", [False, True])
def test_a_box_stays_where_it_is_in_the_world(lazy: bool) -> None:
    values = np.arange(2 * 5 * 6 * 7).reshape(2, 5, 6, 7)
    data = zarr.array(values) if lazy else values
    whole = Volume(
        data,
        ("c", "z", "y", "x"),
        (1.0, 2.0, 0.5, 0.25),
        ("pixel", *("micrometer",) * 3),
        (0.0, 10.0, 20.0, 30.0),
        channel_names=("a", "b"),
        levels=(values[:, ::2, ::2, ::2],),
    )
    box = whole.crop(z=(1, 4), x=(2, 7))
    assert isinstance(box.data, np.ndarray) != lazy
    np.testing.assert_array_equal(np.asarray(box.data), values[:, 1:4, :, 2:7])
    assert box.origin == (0.0, 12.0, 20.0, 30.5)
    assert (box.axes, box.spacing) == (whole.axes, whole.spacing)
    assert box.channel_names == ("a", "b") and box.levels == ()


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ({"t": (0, 1)}, r"cannot be cropped along 't'; choose from its axes z, y, x"),
        ({"c": (0, 1)}, r"cannot be cropped along 'c'"),
        ({"z": (1, 9)}, r"has 5 positions along axis 'z', but the range is 1 to 9"),
        ({"z": (2, 2)}, r"the range is 2 to 2; choose one within 0 to 5"),
        ({"z": (-1, 2)}, r"the range is -1 to 2"),
    ],
)
def test_no_such_box(box: Any, message: str) -> None:
    ones = np.ones((2, 5, 6, 7))
    volume = Volume(ones, ("c", "z", "y", "x"), (1,) * 4, ("pixel",) * 4, (0,) * 4)
    with pytest.raises(VolumeError, match=message):
        volume.crop(**box)


def test_directions_go_with_their_axes() -> None:
    back, left, up = np.eye(3).tolist()
    grey = np.zeros((2, 3, 4))
    volume = Volume(
        grey, ("z", "y", "x"), (1.0,) * 3, ("pixel",) * 3, (0.0,) * 3,
        directions=(back, left, up),
    )  # fmt: skip
    assert volume.select(y=1).directions == (back, up)
    assert volume.crop(x=(1, 3)).directions == volume.directions
    assert with_axis(volume, "t", grey[None]).directions == (
        (0.0, 0.0, 0.0),
        back,
        left,
        up,
    )
    flat = as_volume(volume.select(z=0))
    assert flat.axes == volume.axes and flat.directions[1:] == (left, up)
    with pytest.raises(VolumeError, match="2 directions are given"):
        replace(volume, directions=(back, left))
