"""Grey levels: windows, percentiles, and values that are not numbers."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np
import pytest
import zarr
from hypothesis import given, settings, strategies as st

from napari_biomedparse.data.options import MODALITIES
from napari_biomedparse.errors import OptionError, VolumeError
from napari_biomedparse.slicing import intensity
from napari_biomedparse.slicing.intensity import Intensity, choose_intensity

VOLUMEWISE = [key for key, kind in MODALITIES.items() if not kind.each_slice]


@pytest.mark.parametrize("modality", VOLUMEWISE)
def test_8_bit_values_are_not_touched(modality: str) -> None:
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


@pytest.mark.parametrize("dtype", ["i2", "i4", "i8", "f4", "f8"])
def test_equal_voxels_get_the_same_hint(dtype: str) -> None:
    voxels = np.full((4, 20, 20), -1000)
    voxels[:, 5:15, 5:15] = 40
    assert "CT window" in choose_intensity(voxels.astype(dtype)).hint
    assert "CT window" in choose_intensity(voxels.astype("f4") + np.float32(0.3)).hint


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "g", "i1", "i8", "u8"])
@pytest.mark.filterwarnings("error")
def test_values_as_far_apart_as_their_type_allows(dtype: str) -> None:
    limits: Any = np.iinfo(dtype) if dtype[0] in "iu" else np.finfo(dtype)
    voxels = np.full((3, 8, 8), limits.min, dtype)
    voxels[:, ::2] = limits.max
    if dtype == "g":
        voxels = np.where(voxels > 0, np.finfo("f8").max, np.finfo("f8").min).astype(
            "g"
        )
        voxels[0, 0, 0] = limits.max  # becomes infinite
    chosen = choose_intensity(voxels)
    mapped = chosen.apply(voxels)
    assert mapped[0, 1, 1] == 0
    assert mapped[0, 2, 1] == 255
    voxels = np.zeros((3, 8, 8), dtype)
    voxels[1, 1, 1] = limits.max  # percentiles are equal
    mapped = choose_intensity(voxels).apply(voxels)
    assert (mapped[1, 1, 1], mapped[0, 0, 0]) == (255, 0)
    assert not choose_intensity(np.full((3, 8, 8), 7, dtype)).apply(voxels)[0].any()


def test_infinite_and_missing_values_beside_large_ones() -> None:
    voxels = np.full((3, 8, 8), -1.7e308)
    voxels[0], voxels[1, 0], voxels[1, 1] = 1.7e308, np.inf, -np.inf
    voxels[1, 2] = np.nan
    mapped = choose_intensity(voxels).apply(voxels)
    assert mapped[0].min() == mapped[1, 0].min() == 255
    assert mapped[1, 1:].max() == mapped[2].max() == 0


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
    with pytest.raises(OptionError, match=r"'xray'.*auto, none, ct, .*pancreas-v1"):
        choose_intensity(np.zeros((1, 2, 2), np.uint8), "xray")


@given(st.tuples(st.integers(1, 60), st.integers(1, 30), st.integers(1, 20)))
@settings(deadline=None, max_examples=100)
def test_large_volumes_are_sampled_within_bounds(shape: tuple[int, int, int]) -> None:
    seen = np.zeros(shape, int)
    budget = 1000
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(intensity, "SAMPLE_VOXELS", budget)
        for window in intensity._windows(shape):
            assert all(
                0 <= s.start < s.stop <= n
                for s, n in zip(window, shape[:2], strict=True)
            )
            seen[window] += 1
    # Rounding may make two slabs meet; with thin ones the floor is one row a band.
    floor = intensity.SAMPLE_SLABS**2 * shape[2]
    assert 0 < seen.sum() <= max(budget, floor)
    if seen.size <= budget:
        assert (seen == 1).all()


def test_sampling_is_spread_over_the_depth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intensity, "SAMPLE_VOXELS", 1600)
    slabs = [slab for slab, _ in intensity._windows((80, 10, 10))]
    assert [(slab.start, slab.stop) for slab in slabs] == [
        (4 + 10 * i, 6 + 10 * i) for i in range(8)
    ]


@pytest.mark.parametrize("chunks", [(1, 40, 40), (7, 9, 11), (64, 64, 64)])
def test_percentiles_do_not_depend_on_the_kind_of_array(
    chunks: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intensity, "SAMPLE_VOXELS", 5000)
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
    monkeypatch.setattr(intensity, "SAMPLE_VOXELS", 800)
    read: list[int] = []

    def plane(block_info: Any = None) -> np.ndarray:
        read.append(block_info[None]["array-location"][0][0])
        return np.arange(100, dtype=np.float32).reshape(1, 10, 10)

    data = da.map_blocks(
        plane, chunks=((1,) * 400, 10, 10), dtype=np.float32, meta=np.empty((0, 0, 0))
    )
    choose_intensity(data)
    assert len(read) == 8


def test_each_slice_is_windowed_and_stretched_by_itself() -> None:
    data = np.array([[[-900, 0, 150]], [[50, 150, 9000]], [[7, 7, 7]]], np.int16)
    intensity = choose_intensity(data, "ct-abdomen-v1")
    found = intensity.apply(data)[:, 0].tolist()
    assert found == [[0, 127, 255], [0, 127, 255], [0, 0, 0]]
    assert "CT abdomen: -150 to 250, of each slice" in intensity.describe()
    alike = choose_intensity(data, "ct-abdomen")
    assert alike.apply(data)[:, 0].tolist() == [
        [0, 96, 191],
        [128, 191, 255],
        [100] * 3,
    ]


def test_percentiles_are_those_of_positive_values() -> None:
    slices = np.zeros((2, 20, 20), np.float32)
    slices[0, :10] = np.arange(1, 201).reshape(10, 20)
    slices[1] = -5
    found = choose_intensity(slices, "positive-v1").apply(slices)
    low, high = np.percentile(np.arange(1, 201), (0.5, 99.5))
    assert found[0, 0, 2] == int((3 - low) / (high - low) * 255)
    assert found[0, 9, -1] == 255 and found[0, 15, 0] == 0
    assert not found[1].any()  # no value above 0
    alike = choose_intensity(slices, "positive")
    assert (alike.low, alike.high) == pytest.approx((low, high))
    with pytest.raises(VolumeError, match="no values above 0"):
        choose_intensity(slices[1:], "positive")


def test_grey_of_8_bits_is_stretched_where_that_is_chosen_and_colors_never() -> None:
    grey = np.array([[[100, 120, 140]]], np.uint8)
    found = choose_intensity(grey, "ct-chest-v1").apply(grey)
    assert found.ravel().tolist() == [0, 127, 255]
    colours = np.stack([grey] * 3, axis=-1)
    assert choose_intensity(colours, "positive-v1").apply(colours) is colours


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "g", "i1", "i8", "u8", "u2"])
def test_each_slice_of_any_values_is_stretched(dtype: str) -> None:
    limits: Any = np.iinfo(dtype) if dtype[0] in "iu" else np.finfo(dtype)
    slices = np.full((1, 8, 8), limits.min, dtype)
    slices[:, ::2] = limits.max
    slices[:, 1] = 1
    if dtype[0] not in "iu":
        slices[:, 3, 0] = np.nan
    for modality in ("positive-v1", "ct-liver-v1"):
        found = choose_intensity(slices, modality).apply(slices)
        assert found.min() == 0 and found[0, 0, 0] == 255
