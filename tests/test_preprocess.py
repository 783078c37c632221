"""Intensity, slicing axis, padding, resize and its inverse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import zarr
from cubic import cubic_matrix
from golden_pure import run_axis, run_float_input, run_process
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_biomedparse import preprocess
from napari_biomedparse.errors import OptionError, VolumeError
from napari_biomedparse.preprocess import (
    MODALITIES,
    Intensity,
    choose_axis,
    choose_intensity,
    neighbour_index,
    normalise,
    plan_slices,
    stack_context,
)

sizes = st.integers(1, 40)


@pytest.mark.parametrize("runner", [run_axis, run_process, run_float_input])
def test_golden(runner: Any, shared: Path) -> None:
    results = list(runner(shared / "reference"))
    assert results
    assert [r for r in results if not r.passed] == []


# --- slicing axis and geometry -------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((5, 100, 60), 0),
        ((100, 59, 100), 1),
        ((64, 64, 1), 2),
        ((20, 100, 20), 0),
        ((100, 8, 8), 0),
    ],
)
def test_axis_is_the_thin_one_unless_slices_are_squarish(
    shape: tuple[int, ...], axis: int
) -> None:
    assert choose_axis(shape) == axis


def test_axis_can_be_forced() -> None:
    geometry = plan_slices((9, 20, 30), 32, axis=2)
    assert (geometry.depth, geometry.plane_shape) == (30, (9, 20))
    assert geometry.pad == ((5, 6), (0, 0))


@pytest.mark.parametrize("axis", [-1, 3])
def test_wrong_axis_is_refused(axis: int) -> None:
    with pytest.raises(OptionError, match="0, 1 or 2"):
        plan_slices((4, 5, 6), axis=axis)


@given(shape=st.tuples(sizes, sizes, sizes), factor=st.integers(1, 3))
@settings(deadline=None, max_examples=50)
def test_restore_is_the_exact_inverse_of_the_grid(
    shape: tuple[int, int, int], factor: int
) -> None:
    """Labels that repeat every voxel of the padded slice come back as the slice."""
    geometry = plan_slices(shape)
    padded = geometry.padded_size
    geometry = plan_slices(shape, padded * factor)
    rng = np.random.default_rng(0)
    planes = rng.integers(0, 65536, (2, *geometry.plane_shape))
    square = np.pad(planes, ((0, 0), *geometry.pad), constant_values=7)
    enlarged = square.repeat(factor, axis=1).repeat(factor, axis=2)
    np.testing.assert_array_equal(geometry.restore(enlarged), planes)
    np.testing.assert_array_equal(geometry.restore(torch.tensor(enlarged)), planes)


def test_nearest_agrees_with_torch_in_two_dimensions() -> None:
    rng = np.random.default_rng(0)
    labels = torch.tensor(rng.integers(0, 9, (1, 512, 512)))
    for size in (82, 94, 96, 218, 300, 512, 513, 700):
        expected = F.interpolate(labels[None].float(), size=(size, size))[0]
        restored = plan_slices((1, size, size), 512).restore(labels)
        np.testing.assert_array_equal(restored, expected.numpy())


def test_a_slice_of_the_right_size_is_unchanged() -> None:
    rng = np.random.default_rng(0)
    planes = rng.integers(0, 256, (2, 48, 48)).astype(np.uint8)
    prepared = plan_slices((2, 48, 48), 48).prepare(planes)
    assert prepared.dtype == torch.int32
    np.testing.assert_array_equal(prepared.numpy(), planes)


@pytest.mark.parametrize("size", [20, 37, 64])
def test_float_resize_is_bicubic_by_definition(size: int) -> None:
    rng = np.random.default_rng(1)
    planes = rng.uniform(-300, 300, (3, 37, 37))
    matrix = cubic_matrix(37, size, -0.75, clamp=True)
    expected = matrix @ planes @ matrix.T
    prepared = plan_slices(planes.shape, size, axis=0).prepare(planes).numpy()
    exact = np.abs(expected - np.rint(expected)) > 1e-9
    np.testing.assert_array_equal(prepared[exact], np.trunc(expected)[exact])


def test_uint8_resize_rounds_and_clamps_after_each_pass() -> None:
    rng = np.random.default_rng(2)
    planes = rng.choice(np.array([0, 255], np.uint8), (3, 40, 40))
    matrix = cubic_matrix(40, 64, -0.75, clamp=True)
    across = np.clip(np.floor(planes @ matrix.T + 0.5), 0, 255)
    expected = np.clip(np.floor(matrix @ across + 0.5), 0, 255)
    prepared = plan_slices(planes.shape, 64, axis=0).prepare(planes).numpy()
    difference = np.abs(prepared - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 2e-3


@pytest.mark.parametrize("dtype", ["u1", "<f2", ">f4", ">f8"])
@pytest.mark.parametrize("batch", [1, 2, 7])
def test_prepare_does_not_depend_on_the_batch_or_the_memory_layout(
    dtype: str, batch: int
) -> None:
    rng = np.random.default_rng(3)
    volume = rng.uniform(0, 255, (33, 30, 7)).astype(dtype)
    volume.setflags(write=False)
    geometry = plan_slices(volume.shape, 48)
    planes = np.moveaxis(volume, geometry.axis, 0)
    native = np.array(planes, dtype=volume.dtype.newbyteorder("="))
    whole = geometry.prepare(torch.from_numpy(native))
    parts = [geometry.prepare(planes[i : i + batch]) for i in range(0, 7, batch)]
    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("dtype", ["i1", "i2", "u2", ">i4", "i8", "?", "c8"])
def test_prepare_refuses_dtypes_that_the_original_refuses(dtype: str) -> None:
    with pytest.raises(VolumeError, match="Choose a modality"):
        plan_slices((2, 8, 8), 8).prepare(np.zeros((2, 8, 8), dtype))


def test_prepare_refuses_slices_of_another_shape() -> None:
    with pytest.raises(VolumeError, match=r"\(8, 9\).*\(8, 8\)"):
        plan_slices((2, 8, 8), 8).prepare(np.zeros((2, 8, 9), np.uint8))


@pytest.mark.gpu
def test_prepare_gives_the_same_on_the_gpu() -> None:
    planes = torch.rand(2, 30, 40) * 255
    geometry = plan_slices((2, 30, 40), 64)
    on_gpu = geometry.prepare(planes.cuda())
    assert on_gpu.device.type == "cuda"
    assert torch.equal(on_gpu.cpu(), geometry.prepare(planes))


# --- context and normalisation -------------------------------------------------------


@pytest.mark.parametrize(
    ("depth", "expected"),
    [(1, [0, 0, 0]), (2, [1, 0, 1, 0]), (4, [1, 0, 1, 2, 3, 2])],
)
def test_neighbours_are_mirrored_at_the_ends(depth: int, expected: list[int]) -> None:
    assert [neighbour_index(i, depth) for i in range(-1, depth + 1)] == expected


def test_channels_are_this_previous_next() -> None:
    planes = torch.arange(5, dtype=torch.int32)[:, None, None].expand(5, 2, 2)
    stacked = stack_context(planes)
    assert stacked.shape == (3, 3, 2, 2)
    assert stacked[:, :, 0, 0].tolist() == [[1, 0, 2], [2, 1, 3], [3, 2, 4]]


def test_normalise() -> None:
    values = torch.tensor([0, 115, 255], dtype=torch.int32)
    expected = (values.double() - 114.495) / 57.63
    scaled = normalise(values, 114.495, torch.tensor(57.63))
    assert scaled.dtype == torch.float32
    torch.testing.assert_close(scaled.double(), expected, atol=1e-6, rtol=1e-6)


# --- intensity -----------------------------------------------------------------------


@pytest.mark.parametrize("modality", MODALITIES)
def test_8_bit_values_are_never_touched(modality: str) -> None:
    data = np.array([[[3, 250]]], np.uint8)
    intensity = choose_intensity(data, modality)
    assert intensity.apply(data) is data
    assert "as they are" in intensity.describe()


@pytest.mark.parametrize(
    ("modality", "low", "high"),
    [
        ("ct", -160, 240),
        ("ct-lung", -910, 590),
        ("ct-brain", 0, 80),
        ("ct-bone", -500, 1300),
    ],
)
def test_ct_windows(modality: str, low: int, high: int) -> None:
    data = np.array([[[-2000, low, (low + high) // 2, high, 3000]]], np.int16)
    intensity = choose_intensity(data, modality)
    assert intensity.apply(data).ravel().tolist() == [0, 0, 128, 255, 255]
    assert f"{low} to {high} become 0 to 255" in intensity.describe()
    assert intensity.hint == ""


def test_a_ct_window_on_unsigned_numbers_gets_a_hint() -> None:
    intensity = choose_intensity(np.zeros((1, 2, 2), np.uint16), "ct")
    assert intensity.low == -160
    assert "subtract" in intensity.describe()


@pytest.mark.parametrize(
    "dtype", ["u2", ">u2", "i2", ">i2", "i4", "u8", "f2", "f4", ">f4", "f8"]
)
def test_percentiles_of_every_dtype(dtype: str) -> None:
    data = np.arange(2000).reshape(2, 25, 40).astype(dtype)
    intensity = choose_intensity(data)
    low, high = np.percentile(data.astype(float), (0.5, 99.5))
    assert (intensity.method, intensity.low) == ("percentile", pytest.approx(low))
    assert intensity.high == pytest.approx(high)
    mapped = intensity.apply(data)
    expected = np.clip((data.astype(float) - low) / (high - low), 0, 1) * 255
    assert mapped.dtype == np.uint8
    assert np.abs(mapped - expected).max() <= 0.5 + 1e-3


def test_description_names_the_range() -> None:
    data = np.linspace(104, 375, 201).reshape(1, 3, 67)
    text = Intensity("percentile", 104, 375, "percentiles 0.5 to 99.5").describe()
    assert text == "percentiles 0.5 to 99.5: 104 to 375 become 0 to 255"
    assert choose_intensity(data, "mr").describe().startswith("percentiles 0.5 to 99.5")


def test_hounsfield_units_are_recognised_but_not_windowed_unasked() -> None:
    data = np.linspace(-1024, 1500, 1000).astype(np.int16).reshape(1, 10, 100)
    intensity = choose_intensity(data, "auto")
    assert intensity.method == "percentile"
    assert "CT" in intensity.describe()


def test_wide_int16_does_not_overflow() -> None:
    data = np.array([-32768, 32767] * 8, np.int16).reshape(1, 4, 4)
    intensity = choose_intensity(data)
    assert (intensity.low, intensity.high) == (-32768, 32767)
    assert set(intensity.apply(data).ravel().tolist()) == {0, 255}


@pytest.mark.parametrize("value", [0, -7, 1000])
@pytest.mark.parametrize("dtype", ["i2", "f4"])
def test_constant_volume_becomes_zero(value: int, dtype: str) -> None:
    data = np.full((2, 4, 4), value, dtype)
    assert not choose_intensity(data).apply(data).any()


def test_sparse_volume_uses_its_whole_range() -> None:
    data = np.zeros((2, 50, 50), np.uint16)
    data[0, 0, :3] = 100, 200, 400
    intensity = choose_intensity(data, "light-sheet")
    assert (intensity.method, intensity.low, intensity.high) == ("range", 0, 400)
    assert intensity.apply(data)[0, 0, :4].tolist() == [64, 128, 255, 0]


def test_values_that_are_not_finite() -> None:
    data = np.linspace(-50, 950, 1000, dtype=np.float32).reshape(1, 10, 100)
    clean = choose_intensity(data)
    data = np.concatenate([data.ravel(), [np.nan, np.inf, -np.inf]])
    data = data.astype(np.float32).reshape(1, 17, 59)
    intensity = choose_intensity(data)
    assert intensity == clean
    assert intensity.apply(data).ravel()[-3:].tolist() == [0, 255, 0]
    untouched = choose_intensity(data, "none").apply(data).ravel()
    assert untouched[-3:].tolist() == [0, 255, 0]
    np.testing.assert_array_equal(untouched[:-3], data.ravel()[:-3])
    constant = Intensity("range", 5, 5).apply(np.array([[[np.nan, 5, np.inf]]]))
    assert constant.ravel().tolist() == [0, 0, 255]


def test_nothing_finite_is_refused() -> None:
    with pytest.raises(VolumeError, match="no finite value"):
        choose_intensity(np.full((2, 3, 3), np.nan))


def test_none_passes_floats_on() -> None:
    data = np.array([[[-3.5, 300]]], np.float32)
    assert choose_intensity(data, "none").apply(data) is data


@pytest.mark.parametrize("dtype", ["i2", "u2", "i8"])
def test_none_refuses_integers_that_the_network_cannot_take(dtype: str) -> None:
    with pytest.raises(OptionError, match="'auto'"):
        choose_intensity(np.zeros((1, 2, 2), dtype), "none")


def test_unknown_modality_lists_the_choices() -> None:
    with pytest.raises(OptionError, match=r"'xray'.*auto, ct, .*none"):
        choose_intensity(np.zeros((1, 2, 2), np.uint8), "xray")


@given(st.tuples(st.integers(1, 60), st.integers(1, 30), st.integers(1, 20)))
@settings(deadline=None, max_examples=100)
def test_large_volumes_are_sampled_within_bounds(shape: tuple[int, int, int]) -> None:
    seen = np.zeros(shape, int)
    budget = 1000
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preprocess, "SAMPLE_VOXELS", budget)
        for window in preprocess._windows(shape):
            assert all(
                0 <= s.start < s.stop <= n
                for s, n in zip(window, shape[:2], strict=True)
            )
            seen[window] += 1
    # Rounding may make two slabs meet; with thin ones the floor is one row a band.
    floor = preprocess.SAMPLE_SLABS**2 * shape[2]
    assert 0 < seen.sum() <= max(budget, floor)
    if seen.size <= budget:
        assert (seen == 1).all()


def test_sampling_is_spread_over_the_depth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preprocess, "SAMPLE_VOXELS", 1600)
    slabs = [slab for slab, _ in preprocess._windows((80, 10, 10))]
    assert [(slab.start, slab.stop) for slab in slabs] == [
        (4 + 10 * i, 6 + 10 * i) for i in range(8)
    ]


@pytest.mark.parametrize("chunks", [(1, 40, 40), (7, 9, 11), (64, 64, 64)])
def test_percentiles_do_not_depend_on_the_kind_of_array(
    chunks: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preprocess, "SAMPLE_VOXELS", 5000)
    rng = np.random.default_rng(0)
    data = rng.integers(0, 60000, (50, 40, 40)).astype(np.uint16)
    stored = zarr.create_array({}, shape=data.shape, chunks=chunks, dtype=data.dtype)
    stored[:] = data
    expected = choose_intensity(data)
    assert choose_intensity(da.from_array(data, chunks)) == expected
    assert choose_intensity(stored) == expected
    exact = np.percentile(data, 99.5)
    assert expected.high == pytest.approx(exact, rel=0.02)


def test_a_dask_array_is_read_slab_by_slab(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preprocess, "SAMPLE_VOXELS", 800)
    read: list[int] = []

    def plane(block_info: Any = None) -> np.ndarray:
        read.append(block_info[None]["array-location"][0][0])
        return np.arange(100, dtype=np.float32).reshape(1, 10, 10)

    data = da.map_blocks(
        plane, chunks=((1,) * 400, 10, 10), dtype=np.float32, meta=np.empty((0, 0, 0))
    )
    choose_intensity(data)
    assert len(read) == 8
