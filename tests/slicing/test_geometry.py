"""Slicing axis, padding, resize and its inverse, and context."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cubic import cubic_matrix
from golden_pure import run_axis, run_float_input, run_process
from hypothesis import given, settings, strategies as st

from napari_biomedparse.errors import OptionError, VolumeError
from napari_biomedparse.slicing.geometry import (
    Turn,
    choose_axis,
    neighbour_index,
    plan_slices,
    radiological,
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


@pytest.mark.parametrize(
    ("scale", "working", "pad"),
    [
        ((1.0, 1.0), (64, 104), ((13, 14), (1, 2))),  # 37 rows and 101 columns
        ((2.0, 0.5), (76, 64), ((0, 1), (13, 14))),
        ((1.5, 3.25), (64, 332), ((3, 3), (0, 1))),
    ],
)
def test_large_slices_are_padded_to_whole_cells(
    scale: tuple[float, float], working: tuple[int, int], pad: object
) -> None:
    geometry = plan_slices((3, 37, 101), 64, 0, scale)
    assert (geometry.working_shape, geometry.pad) == (working, pad)


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
    padded, _ = geometry.padded_shape
    geometry = plan_slices(shape, padded * factor)
    rng = np.random.default_rng(0)
    planes = rng.integers(0, 65536, (2, *geometry.plane_shape))
    square = np.pad(planes, ((0, 0), *geometry.pad), constant_values=7)
    enlarged = square.repeat(factor, axis=1).repeat(factor, axis=2)
    np.testing.assert_array_equal(geometry.restore(enlarged), planes)
    np.testing.assert_array_equal(geometry.restore(torch.tensor(enlarged)), planes)


def turned(planes: Any, turn: Turn) -> Any:
    """Slices [B, Y, X] as somebody turns them who only knows numpy."""
    planes = planes[:, ::-1] if turn.mirror_rows else planes
    planes = planes[:, :, ::-1] if turn.mirror_columns else planes
    return (planes.transpose(0, 2, 1) if turn.swap else planes).copy()


@pytest.mark.parametrize("turn", [Turn(*which) for which in product([0, 1], repeat=3)])
@pytest.mark.parametrize("scale", [None, (1.5, 2.0)])
@pytest.mark.parametrize("alone", [False, True])
def test_the_network_sees_slices_turned_and_labels_come_back(
    turn: Turn, scale: Any, alone: bool
) -> None:
    planes = np.random.default_rng(0).integers(0, 256, (2, 11, 17), np.uint8)
    upright = turned(planes, turn)
    plain = plan_slices(upright.shape, 16, 0, scale, alone=alone)
    geometry = plan_slices(planes.shape, 16, 0, scale, alone=alone, turn=turn)
    assert geometry.plane_shape == (11, 17)
    for what in ("seen_shape", "pad", "padded_shape", "working_shape", "label_shape"):
        assert getattr(geometry, what) == getattr(plain, what)
    assert torch.equal(geometry.prepare(planes), plain.prepare(upright))
    labels = np.random.default_rng(1).integers(0, 9, (2, *plain.label_shape))
    back = geometry.restore(labels)
    assert back.shape == planes.shape
    np.testing.assert_array_equal(turned(back, turn), plain.restore(labels))
    np.testing.assert_array_equal(geometry.restore(torch.tensor(labels)), back)


LEFT, BACK, UP = np.eye(3)  # as DICOM counts
STANDARD = {"axial": (BACK, LEFT), "coronal": (-UP, LEFT), "sagittal": (-UP, BACK)}


@pytest.mark.parametrize("view", STANDARD)
@pytest.mark.parametrize("stored", [Turn(*w) for w in product([0, 1], repeat=3)])
def test_slices_stored_in_any_way_are_turned_upright(view: str, stored: Turn) -> None:
    places = np.stack(np.meshgrid(*[np.arange(5.0)] * 2, indexing="ij"))
    down, right = STANDARD[view]
    upright = np.einsum("iyx,ic->yxc", places, np.stack([down, right]))  # [Y, X, 3]
    slices = turned(np.moveaxis(upright, -1, 0), stored)
    found = np.stack(
        [slices[:, 1, 0] - slices[:, 0, 0], slices[:, 0, 1] - slices[:, 0, 0]]
    )
    oblique = found + 0.2 * np.random.default_rng(0).random((2, 3))
    for directions in (found, oblique):
        seen = turned(slices, radiological(directions))
        np.testing.assert_array_equal(seen, np.moveaxis(upright, -1, 0))


def test_nearest_agrees_with_torch_in_two_dimensions() -> None:
    rng = np.random.default_rng(0)
    labels = torch.tensor(rng.integers(0, 9, (1, 512, 512)))
    for size in (82, 94, 96, 218, 300, 512, 513, 700):
        expected = F.interpolate(labels[None].float(), size=(size, size))[0]
        restored = plan_slices((1, size, size), 512).restore(labels)
        np.testing.assert_array_equal(restored, expected.numpy())


@pytest.mark.parametrize(
    ("dtype", "travels"),
    [
        (np.uint8, torch.uint8),
        (np.dtype(np.uint8), torch.uint8),
        (np.dtype(np.uint16), torch.int16),
        (np.dtype(np.uint32), torch.int32),
        (None, torch.int32),
    ],
)
def test_labels_travel_in_few_bytes(dtype: Any, travels: torch.dtype) -> None:
    labels = torch.arange(16, dtype=torch.int32).reshape(1, 4, 4)
    picked = plan_slices((1, 4, 4), 4).pick(labels, dtype)
    assert picked.dtype == travels
    assert torch.equal(picked.to(torch.int32), labels)


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


# --- context -------------------------------------------------------------------------


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


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32])
def test_restored_labels_have_the_type_that_was_asked_for(dtype: type) -> None:
    most = min(np.iinfo(dtype).max, 2**20)
    labels = np.random.default_rng(0).integers(0, most, (2, 64, 64), dtype=np.int32)
    geometry = plan_slices((2, 30, 50), 64)
    expected = geometry.restore(labels)
    for values in (labels, torch.from_numpy(labels)):
        found = geometry.restore(values, dtype)
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, expected)
