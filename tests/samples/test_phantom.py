"""Phantoms: the same from the same seed, and true to what they say is in them."""

from __future__ import annotations

import numpy as np
import pytest

from napari_biomedparse.errors import OptionError
from napari_biomedparse.samples import (
    KINDS,
    make_phantom,
    sample_em,
    sample_light_sheet,
)

SMALL = (6, 96, 80)


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_fixes_the_phantom(kind: str) -> None:
    first, again, other = (make_phantom(kind, s, shape=SMALL) for s in (3, 3, 4))
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.labels, again.labels)
    assert not np.array_equal(first.image, other.image)


@pytest.mark.parametrize("kind", KINDS)
def test_targets_exclude_each_other_and_are_found_in_the_labels(kind: str) -> None:
    phantom = make_phantom(kind, 1, shape=SMALL, targets=KINDS[kind])
    assert tuple(phantom.objects) == KINDS[kind]
    taken = sum((found > 0).astype(int) for found in phantom.objects.values())
    assert np.max(taken) == 1
    for label, found in enumerate(phantom.objects.values(), start=1):
        np.testing.assert_array_equal(phantom.labels == label, found > 0)
    assert phantom.image.dtype == np.uint8
    assert phantom.image.shape == phantom.labels.shape == SMALL
    assert phantom.prompts.ids == tuple(range(1, len(KINDS[kind]) + 1))


@pytest.mark.parametrize("kind", KINDS)
def test_left_out_targets_are_absent(kind: str) -> None:
    for target in KINDS[kind]:
        others = tuple(name for name in KINDS[kind] if name != target)
        phantom = make_phantom(kind, 5, targets=others)
        assert target in phantom.absent
        assert set(phantom.objects) == set(KINDS[kind])


def test_targets_differ_from_their_surroundings() -> None:
    """A target that looks like everything else could not be learned."""
    for kind in KINDS:
        for target in KINDS[kind]:
            phantom = make_phantom(kind, 7, targets=(target,))
            inside = phantom.objects[target] > 0
            assert inside.any(), target
            values = phantom.image.astype(float)
            gap = abs(values[inside].mean() - values[~inside].mean())
            assert gap > 0.4 * values[~inside].std(), target


def test_nuclei_touch() -> None:
    phantom = make_phantom("light-sheet", 2, targets=("nuclei",))
    nuclei = phantom.objects["nuclei"]
    left, right = nuclei[:, :, :-1], nuclei[:, :, 1:]
    assert ((left > 0) & (right > 0) & (left != right)).any()


def test_both_kinds_are_of_the_default_shape_and_have_physical_voxels() -> None:
    for kind in KINDS:
        phantom = make_phantom(kind, 0)
        assert phantom.image.shape == (24, 128, 128)
        volume = phantom.volume
        assert volume.axes == ("z", "y", "x")
        assert volume.units == ("micrometer",) * 3
        assert volume.spacing[0] > volume.spacing[1] == volume.spacing[2] > 0


def test_samples_hold_what_they_promise() -> None:
    assert sample_em().absent == ("synaptic cleft",)
    assert sample_light_sheet().absent == ("plaques",)


@pytest.mark.parametrize("shape", [(1, 64, 64), (3, 32, 200), (40, 40, 40)])
def test_any_reasonable_shape_can_be_drawn(shape: tuple[int, int, int]) -> None:
    for kind in KINDS:
        assert make_phantom(kind, 11, shape=shape).image.shape == shape


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("ct", {}, "There is no phantom 'ct'. Choose em or light-sheet"),
        ("em", {"shape": (4, 8, 64)}, "shape \\(4, 8, 64\\) cannot be drawn"),
        ("em", {"targets": ("nuclei",)}, "has no 'nuclei'; its targets are membrane"),
    ],
)
def test_what_cannot_be_drawn_is_named(
    kind: str, changes: dict[str, tuple[str, ...]], message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        make_phantom(kind, 0, **changes)  # type: ignore[arg-type]
