from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from napari_biomedparse.data.prompts import parse_prompts
from napari_biomedparse.data.volume import Volume
from napari_biomedparse.io.formats.ome_labels import describe_labels, ome_attributes
from napari_biomedparse.io.formats.zarr import (
    read_channel_names,
    read_label_colours,
    read_label_texts,
    read_multiscale,
)


def test_ome_attributes_of_both_layouts() -> None:
    assert ome_attributes({"ome": {"version": "0.5"}}) == {"version": "0.5"}
    assert ome_attributes({"multiscales": []}) == {"multiscales": []}


@pytest.mark.parametrize(
    ("axes", "names"),
    [
        (None, "tczyx"),
        (["z", "y", "x"], "zyx"),
        (
            [{"name": "channels", "type": "channel"}, {"name": "Y"}, {"name": "x"}],
            "cyx",
        ),
        ([{"name": "depth", "type": "space"}, {"name": "y"}, {"name": "x"}], "zyx"),
        ([{"name": "dim_0"}, {"name": "dim_1"}, {"name": "dim_2"}], "zyx"),
    ],
)
def test_axes_of_all_versions(axes: Any, names: str) -> None:
    entry = {"datasets": [{"path": "0"}]} | ({} if axes is None else {"axes": axes})
    assert read_multiscale(entry).axes == tuple(names)


@pytest.mark.parametrize("paths", [[], ["0", "1", "0"], ["0", "/0"]])
def test_no_array_or_one_twice(paths: list[str]) -> None:
    with pytest.raises(ValueError, match=r"no arrays|array twice"):
        read_multiscale({"datasets": [{"path": path} for path in paths]})


def test_units_and_defaults() -> None:
    entry = {
        "axes": [{"name": "y", "unit": "micrometer"}, {"name": "x", "unit": "parrot"}],
        "datasets": [{"path": "a"}, {"path": "b"}],
    }
    found = read_multiscale(entry)
    assert found.paths == ("a", "b")
    assert found.units == ("pixel", "pixel")  # without sizes to go with them
    ones = {"coordinateTransformations": [{"type": "scale", "scale": [1, 1]}]}
    assert read_multiscale(entry | ones).units == ("micrometer", "pixel")
    assert (found.scale, found.translation) == ((1.0, 1.0), (0.0, 0.0))


def test_channel_names() -> None:
    channels = [{"label": "a"}, {"label": "b"}]
    assert read_channel_names({"omero": {"channels": channels}}, 2) == ("a", "b")
    assert read_channel_names({"omero": {"channels": channels}}, 3) == ()
    assert read_channel_names({"omero": {"channels": [{}, {}]}}, 2) == ()
    assert read_channel_names({}, 2) == ()


def test_a_description_is_read_back() -> None:
    prompts = parse_prompts({1: "a", 7: "b"})
    units = ("micrometer", "pixel", "nanometer")
    data = np.zeros((1, 2, 3))
    volume = Volume(data, ("t", "y", "x"), (1.0, 2.0, 3.0), units, (4.0, 5.0, 6.0))
    described = describe_labels(volume, prompts, 2)
    (entry,) = described["multiscales"]
    assert [axis["type"] for axis in entry["axes"]] == ["time", "space", "space"]
    assert "unit" not in entry["axes"][1]
    coarse = entry["datasets"][1]["coordinateTransformations"]
    assert coarse[0]["scale"] == [1.0, 4.0, 6.0]
    assert coarse[1]["translation"] == [4.0, 5.0, 6.0]
    found = read_multiscale(entry)
    assert (found.axes, found.units) == (volume.axes, volume.units)
    assert (found.scale, found.translation) == (volume.spacing, volume.origin)
    label = described["image-label"]
    assert read_label_texts(label) == {1: "a", 7: "b"}
    assert sorted(read_label_colours(label)) == [1, 7]


def test_label_entries_of_others() -> None:
    label = {
        "colors": [
            {"label-value": 1, "rgba": [1, 2, 3, 4]},
            {"label-value": 2, "rgba": [1, 2, 3]},
            {"label-value": 3, "rgba": [1, 2, 3, 999]},
            {"label-value": 4},
        ],
        "properties": [{"label-value": 1, "note": " ", "prompt": "x"}],
    }
    assert read_label_colours(label) == {1: (1, 2, 3, 4)}
    assert read_label_texts(label) == {1: "x"}
    assert read_label_texts({}) == {}
