"""Options check themselves, so that forms and commands need not."""

from __future__ import annotations

from typing import Any, get_type_hints

import pytest

from napari_biomedparse.data.options import (
    OptionChanges,
    SegmentOptions,
    parse_region,
    parse_voxel_size,
    refuse_separate,
    region_text,
)
from napari_biomedparse.errors import OptionError


@pytest.mark.parametrize(
    ("text", "box"),
    [
        ("y=100:400", {"y": (100, 400)}),
        (" z = 0:3 , x=5 : 9", {"z": (0, 3), "x": (5, 9)}),
    ],
)
def test_a_region_is_a_box_in_named_axes(text: str, box: Any) -> None:
    assert parse_region(text) == box
    assert parse_region(region_text(box)) == box
    assert SegmentOptions(region=text).region == region_text(box)


@pytest.mark.parametrize(
    "text", ["", "y", "y=3", "y=a:4", "y=-1:4", "y=1:2,", "y=1:2,y=3:4", "yx=1:2"]
)
def test_what_is_no_region(text: str) -> None:
    with pytest.raises(OptionError, match=r"Region \(region\).*y=100:400,x=0:200"):
        SegmentOptions(region=text)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"overlaps": "both"}, "choose one of score, order, separate"),
        ({"edge_threshold": 1.5}, "between 0.0 and 1.0"),
        ({"minimum_size": -1}, "between 0 and"),
        ({"minimum_size": 2.5}, "whole number"),
    ],
)
def test_values_outside_their_limits(changes: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        SegmentOptions(**changes)


def test_separate_labels_are_refused_where_one_volume_is_held() -> None:
    refuse_separate(SegmentOptions(overlaps="order"), "a consensus")
    with pytest.raises(OptionError, match="a consensus holds a single one; choose"):
        refuse_separate(SegmentOptions(overlaps="separate"), "a consensus")


def test_changes_are_typed_as_the_options_are() -> None:
    assert get_type_hints(OptionChanges) == get_type_hints(SegmentOptions)


def test_single_fields_are_those_of_the_options() -> None:
    assert get_type_hints(OptionChanges) == get_type_hints(SegmentOptions)


def test_a_range_of_slices_and_the_largest_tile() -> None:
    assert SegmentOptions(slices=range(2, 5)).slices == (2, 5)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="Slices"):
        SegmentOptions(slices=range(0, 5, 2))  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="between 16 and 16384"):
        SegmentOptions(tile=1_000_000)


@pytest.mark.parametrize(
    ("text", "sizes", "unit"),
    [
        ("0.5,0.1,0.1um", (0.5, 0.1, 0.1), "um"),
        (" 0.5, .1 ,1e-1 \N{MICRO SIGN}m ", (0.5, 0.1, 0.1), "\N{MICRO SIGN}m"),
        ("30nm", (30.0,) * 3, "nm"),
        ("2", (2.0,) * 3, "um"),
    ],
)
def test_voxel_sizes(text: str, sizes: tuple[float, ...], unit: str) -> None:
    assert parse_voxel_size(text) == (sizes, unit)
    again = SegmentOptions(voxel_size=text).voxel_size
    assert again is not None
    assert parse_voxel_size(again) == (sizes, unit)


@pytest.mark.parametrize("text", ["", "um", "1,2um", "0,1,1um", "-1um", "1,2,3,4um"])
def test_voxel_sizes_that_are_none(text: str) -> None:
    with pytest.raises(OptionError, match="and their unit"):
        SegmentOptions(voxel_size=text)


def test_axes() -> None:
    assert SegmentOptions(axes=" zyxs").axes == "ZYXC"
    for text in ("", "ZY", "ZZYX", "QYX", "Z,Y,X"):
        with pytest.raises(OptionError, match="a letter for each axis"):
            SegmentOptions(axes=text)
