"""Whole slices or tiles; slices and their neighbours, each read once, in order."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import zarr
from hypothesis import given, settings, strategies as st

from napari_biomedparse.data.options import SegmentOptions
from napari_biomedparse.data.volume import Volume, as_volume, volume_of
from napari_biomedparse.errors import FormatError, OptionError
from napari_biomedparse.networks.config import TINY
from napari_biomedparse.pipeline.plan import plan_run
from napari_biomedparse.slicing.geometry import Turn, plan_slices
from napari_biomedparse.slicing.intensity import Intensity, choose_intensity
from napari_biomedparse.slicing.read import (
    LARGE_SLICE,
    read_slices,
    seen_slice,
    slice_batches,
    slice_geometry,
)


@pytest.mark.parametrize(
    ("edge", "tile", "working"),
    [
        (LARGE_SLICE, "auto", 512),
        (LARGE_SLICE + 4, "auto", LARGE_SLICE + 4),
        (LARGE_SLICE + 4, "none", 512),
        (LARGE_SLICE, 256, 2 * LARGE_SLICE),
    ],
)
def test_large_slices_keep_their_resolution(edge: int, tile: Any, working: int) -> None:
    volume = as_volume(np.broadcast_to(np.uint8(0), (2, edge, edge)))
    geometry = slice_geometry(volume, SegmentOptions(tile=tile), 512)
    assert geometry.working_shape == (working, working)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("lazy", [np.asarray, zarr.array])
def test_slices_come_first(axis: int, lazy: Any) -> None:
    grey = np.random.default_rng(0).integers(0, 255, (6, 7, 8), dtype=np.uint8)
    found = read_slices(as_volume(lazy(grey)), axis, 2, 5)
    np.testing.assert_array_equal(found, np.moveaxis(grey, axis, 0)[2:5])


def test_colours_stay_last() -> None:
    colours = np.random.default_rng(0).integers(0, 255, (6, 7, 8, 3), dtype=np.uint8)
    found = read_slices(as_volume(colours), 0, 2, 5)
    np.testing.assert_array_equal(found, colours[2:5])


def test_what_cannot_be_read_is_named() -> None:
    class Lost:
        shape, dtype = (4, 5, 6), np.dtype(np.uint8)

        def __getitem__(self, index: Any) -> Any:
            raise OSError("gone")

    with pytest.raises(FormatError, match=r"volume: slices 1 to 2 cannot be read \(OS"):
        read_slices(as_volume(Lost()), 0, 1, 3)


AS_IS = Intensity("none")


def _numbered(depth: int, axis: int) -> np.ndarray[Any, Any]:
    """A volume whose slices hold their own number."""
    planes = np.arange(depth, dtype=np.uint8)[:, None, None] + np.zeros((1, 8, 8))
    return np.moveaxis(planes.astype(np.uint8), 0, axis)


def _grey(array: Any) -> Volume:
    """A volume whatever its sizes; a bare array (8, 8, 3) would be a colour image."""
    return Volume(array, ("z", "y", "x"), (1.0,) * 3, ("pixel",) * 3, (0.0,) * 3)


@settings(deadline=None)  # the machine may be busy
@given(
    depth=st.integers(1, 23),
    batch_size=st.integers(1, 9),
    chunk=st.integers(1, 25),
    axis=st.integers(0, 2),
    kind=st.sampled_from(["numpy", "dask", "zarr"]),
    data=st.data(),
)
def test_every_slice_comes_once_with_its_neighbours(
    depth: int, batch_size: int, chunk: int, axis: int, kind: str, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, depth - 1))
    stop = data.draw(st.integers(start + 1, depth))
    array: Any = _numbered(depth, axis)
    chunks = tuple(min(chunk, n) if i == axis else 4 for i, n in enumerate(array.shape))
    if kind == "dask":
        array = da.from_array(array, chunks=chunks)
    if kind == "zarr":
        array = zarr.array(array, chunks=chunks)
    volume = _grey(array)
    geometry = plan_slices(volume.shape, 8, axis)
    batches = list(slice_batches(volume, geometry, AS_IS, start, stop, batch_size))
    assert [b.start for b in batches] == list(range(start, stop, batch_size))
    numbers = torch.cat([b.slices for b in batches])[:, :, 0, 0]
    expected = [
        [
            i,
            abs(i - 1) if depth > 1 else 0,
            i + 1 if i + 1 < depth else max(depth - 2, 0),
        ]
        for i in range(start, stop)
    ]
    assert numbers.tolist() == expected


@settings(deadline=None)  # the machine may be busy
@given(
    depth=st.integers(1, 9),
    batch_size=st.integers(1, 4),
    axis=st.integers(0, 2),
    chunk=st.integers(1, 9),
)
def test_colour_slices_have_their_own_channels(
    depth: int, batch_size: int, axis: int, chunk: int
) -> None:
    colours = np.arange(depth * 3, dtype=np.uint8).reshape(depth, 1, 1, 3)
    values = np.moveaxis(np.broadcast_to(colours, (depth, 8, 8, 3)), 0, axis)
    chunks = [chunk if i == axis else 4 for i in range(3)]
    array: Any = da.from_array(values, chunks=(*chunks, 2))
    axes, ones, zeros = ("z", "y", "x", "c"), (1.0,) * 4, (0.0,) * 4
    volume = Volume(array, axes, ones, ("pixel",) * 4, zeros)
    geometry = plan_slices(volume.grid, 8, axis)
    batches = list(slice_batches(volume, geometry, AS_IS, 0, depth, batch_size))
    assert [b.start for b in batches] == list(range(0, depth, batch_size))
    slices = torch.cat([b.slices for b in batches])
    assert slices.shape == (depth, 3, 8, 8)
    assert (slices == torch.arange(depth * 3).reshape(depth, 3, 1, 1)).all()


def test_a_chunk_is_read_once() -> None:
    class Counting:
        shape, dtype, chunks = (64, 8, 8), np.dtype(np.uint8), (16, 8, 8)
        reads: list[slice] = []  # noqa: RUF012

        def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray[Any, Any]:
            self.reads.append(index[0])
            return np.zeros((index[0].stop - index[0].start, 8, 8), np.uint8)

    volume = as_volume(Counting())
    list(slice_batches(volume, plan_slices(volume.shape, 8), AS_IS, 0, 64, 3))
    assert Counting.reads == [slice(i, i + 16) for i in range(0, 64, 16)]


def test_damage_is_reported_with_file_and_slices() -> None:
    def broken(block_info: Any = None) -> np.ndarray[Any, Any]:
        raise OSError("bad block")

    array = da.map_blocks(broken, chunks=((4, 4), (8,), (8,)), dtype=np.uint8)
    volume = replace(as_volume(array), name="stack")
    batches = slice_batches(volume, plan_slices((8, 8, 8), 8), AS_IS, 0, 8, 2)
    with pytest.raises(FormatError, match=r"stack: slices 0 to 3 cannot be read"):
        next(batches)


# ---- what people are shown is what enters the network

SIZE = TINY.image_size


def entering(volume: Any, options: SegmentOptions, index: int) -> Any:
    """The network's own input of a slice, [3, H, W]."""
    plan = plan_run(volume, "liver", options, config=TINY)
    (batch,) = slice_batches(
        plan.volume, plan.geometry, plan.intensity, index, index + 1, 1
    )
    return batch.slices[0]


def resized(seen: Any, shape: Any) -> Any:
    planes = torch.from_numpy(np.moveaxis(np.atleast_3d(seen), -1, 0).copy())
    return F.interpolate(planes[:, None], shape, mode="bicubic")[:, 0].int()


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
@pytest.mark.parametrize(
    "options",
    [
        SegmentOptions(axis="y"),
        SegmentOptions(axis="z", modality="ct"),
        SegmentOptions(axis="z", tile=32),
    ],
)
def test_what_is_seen_is_what_enters(dtype: Any, options: SegmentOptions) -> None:
    grey = np.random.default_rng(0).normal(40, 300, (9, 30, 41))
    volume = np.clip(grey, 0, 255).astype(dtype) if dtype == np.uint8 else grey
    volume = volume.astype(dtype)
    seen = seen_slice(volume, options, 3, size=SIZE)
    assert seen.dtype == np.uint8
    expected = entering(volume, options, 3)
    assert torch.equal(resized(seen, expected.shape[1:])[0], expected[0])


def test_colours() -> None:
    volume = np.random.default_rng(1).random((2, 20, 30, 3), np.float32)
    seen = seen_slice(volume, SegmentOptions(), 1, size=SIZE)
    assert seen.shape == (30, 30, 3)
    planes = torch.from_numpy(np.moveaxis(seen, -1, 0).astype(np.float32))
    expected = F.interpolate(planes[None], SIZE, mode="bicubic")[0]  # not rounded
    assert torch.equal(expected, entering(volume, SegmentOptions(), 1))
    as_slices = SegmentOptions(mode="3d")
    assert torch.equal(resized(seen, (SIZE, SIZE)), entering(volume, as_slices, 1))


@pytest.mark.parametrize("colours", [(), (3,)])
@pytest.mark.parametrize("tile", ["none", 20])
def test_slices_read_alone_are_seen_as_the_square_that_enters(
    colours: tuple[int, ...], tile: Any
) -> None:
    config, options = replace(TINY, network="v1"), SegmentOptions(tile=tile)
    volume = np.random.default_rng(2).integers(0, 256, (2, 30, 41, *colours), np.uint8)
    seen = seen_slice(volume, options, 1, size=SIZE, alone=True)
    plan = plan_run(volume, "liver", options, config=config)
    (batch,) = slice_batches(plan.volume, plan.geometry, plan.intensity, 1, 2, 1)
    expected = np.moveaxis(batch.slices[0].numpy(), 0, -1)
    shown = seen if colours else np.stack([seen] * 3, -1)
    np.testing.assert_array_equal(shown, expected)


# ---- how slices are turned for the network

HEAD, BACK, LEFT = (0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0)
RIGHT = (-1.0, 0.0, 0.0)


def patient(*directions: tuple[float, ...], header: bytes | None = None) -> Volume:
    grey = np.random.default_rng(3).integers(0, 256, (4, 30, 41), np.uint8)
    return replace(volume_of(grey), directions=directions, header=header)


def turn_of(volume: Volume, *, alone: bool, **options: Any) -> Turn:
    return slice_geometry(volume, SegmentOptions(**options), SIZE, alone=alone).turn


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_only_v1_is_shown_nifti_with_x_downwards(axis: int) -> None:
    nifti, other = patient(header=b"a header"), patient()
    assert turn_of(nifti, alone=True, axis=axis) == Turn(swap=True)
    assert turn_of(nifti, alone=True, axis=axis, orientation="stored") == Turn()
    assert (
        turn_of(nifti, alone=False, axis=axis) == turn_of(other, alone=True) == Turn()
    )
    seen = seen_slice(nifti, SegmentOptions(axis=axis), 1, size=SIZE, alone=True)
    plane = np.take(nifti.data, 1, axis)
    expected = seen_slice(plane.T, SegmentOptions(), 0, size=SIZE, alone=True)
    np.testing.assert_array_equal(seen, expected)


@pytest.mark.parametrize("alone", [False, True])
def test_the_radiological_view_follows_the_patient(alone: bool) -> None:
    volume = patient(LEFT, HEAD, BACK)  # sagittal slices, with the head below
    radiological = partial(turn_of, volume, alone=alone, orientation="radiological")
    assert radiological(axis="z") == Turn(mirror_rows=True)
    assert radiological(axis="y") == Turn(swap=True)
    assert radiological(axis="x") == Turn(mirror_columns=True, swap=True)
    mirrored = replace(volume, directions=(RIGHT, HEAD, BACK))
    assert turn_of(mirrored, alone=alone, axis=1, orientation="radiological") == Turn(
        mirror_rows=True, swap=True
    )
    options = SegmentOptions(axis="z", orientation="radiological")
    seen = seen_slice(volume, options, 2, size=SIZE, alone=alone)
    expected = seen_slice(
        volume.data[:, ::-1], SegmentOptions(axis="z"), 2, size=SIZE, alone=alone
    )
    np.testing.assert_array_equal(seen, expected)


@pytest.mark.parametrize("directions", [(), ((0.0,) * 3, BACK, (0.0,) * 3)])
def test_a_volume_without_a_patient_has_no_radiological_view(directions: Any) -> None:
    with pytest.raises(OptionError, match="does not say where left and right"):
        turn_of(patient(*directions), alone=True, orientation="radiological", axis=0)


def test_the_size_of_pixels_is_that_of_turned_slices() -> None:
    volume = replace(
        patient(header=b"a header"), spacing=(1.0, 2.0, 3.0), units=("micrometer",) * 3
    )
    options = SegmentOptions(pixel_size=1.0, axis="z")
    geometry = slice_geometry(volume, options, SIZE, alone=True)
    assert geometry.working_shape == (124, 64)  # 41 columns of 3, 30 rows of 2


def test_colours_are_turned_too() -> None:
    colours = np.random.default_rng(1).random((2, 20, 30, 3), np.float32)
    volume = replace(as_volume(colours), header=b"a header")
    seen = seen_slice(volume, SegmentOptions(), 1, size=SIZE, alone=True)
    upright = colours.transpose(0, 2, 1, 3)
    expected = seen_slice(upright, SegmentOptions(), 1, size=SIZE, alone=True)
    np.testing.assert_array_equal(seen, expected)


def test_values_as_they_are_are_cut_off_for_the_eye() -> None:
    volume = np.array([[[-5.0, 300.9]]])
    seen = seen_slice(volume, SegmentOptions(modality="none"), 0)
    assert seen.tolist() == [[0, 255], [0, 0]]


def test_a_choice_of_grey_levels_is_kept() -> None:
    volume = np.arange(24.0).reshape(1, 4, 6)
    intensity = choose_intensity(volume * 2)
    seen = seen_slice(volume, SegmentOptions(), 0, intensity=intensity)
    assert seen.max() < 130
    plan = plan_run(volume, "liver", config=TINY, intensity=intensity)
    assert plan.intensity is intensity


def test_no_such_slice() -> None:
    with pytest.raises(OptionError, match=r"no slice 4 along axis z; choose 0 to 3"):
        seen_slice(np.zeros((4, 20, 20), np.uint8), SegmentOptions(), 4)


def test_looking_needs_no_torch() -> None:
    code = (
        "import sys, numpy as np\n"
        "from napari_biomedparse.data.options import SegmentOptions\n"
        "from napari_biomedparse.slicing.read import seen_slice\n"
        "seen_slice(np.zeros((2, 3, 4)), SegmentOptions(), 0)\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
