"""Three runs and a vote, the same as three runs and numpy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import dask.array as da
import numpy as np
import pytest

from napari_biomedparse.data.volume import Volume, as_volume
from napari_biomedparse.errors import OptionError, VolumeError
from napari_biomedparse.networks.v2.biomedparse import BiomedParse
from napari_biomedparse.pipeline.parts import check_isotropy, segment_consensus, vote
from napari_biomedparse.pipeline.segment import segment

PROMPTS = {2: "liver", 5: "mitochondria", 9: "a b c"}
VALUES = np.random.default_rng(5).integers(0, 255, (20, 22, 18), dtype=np.uint8)


def _counted(runs: list[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    """Count the votes of each id; the first run decides where no id has two."""
    votes = np.stack([sum(run == i for run in runs) for i in (0, *PROMPTS)])
    ids = np.array((0, *PROMPTS))
    return np.where(votes.max(axis=0) >= 2, ids[votes.argmax(axis=0)], runs[0])


@pytest.mark.parametrize("lazy", [False, True])
def test_labels_are_the_vote_of_three_runs(tiny_model: BiomedParse, lazy: bool) -> None:
    alone = [segment(VALUES, PROMPTS, tiny_model, axis=axis) for axis in "zyx"]
    volume: Any = da.from_array(VALUES, chunks=7) if lazy else VALUES
    result = segment_consensus(volume, PROMPTS, tiny_model, instances=True)
    assert isinstance(result.labels, da.Array) == lazy
    labels = np.asarray(result.labels)
    runs = [run.labels for run in alone]
    np.testing.assert_array_equal(labels, _counted(runs))
    assert any((labels != run).any() for run in runs)
    assert list(result.existence) == ["z", "y", "x"]
    for axis, run in zip("zyx", alone, strict=True):
        np.testing.assert_array_equal(result.existence[axis], run.existence)
    assert result.instances is not None
    assert result.instances.any() and not result.instances[labels == 0].any()
    assert result.parameters["slicing_axis"] == "consensus"


def test_ties_go_to_the_first() -> None:
    first, second, third = np.array([[1, 1, 1, 2, 0], [2, 1, 2, 1, 5], [3, 3, 1, 1, 7]])
    assert vote(first, second, third).tolist() == [1, 1, 1, 1, 0]


def _spaced(*spacing: float, unit: str = "micrometer") -> Volume:
    return replace(as_volume(VALUES), spacing=spacing, units=(unit,) * 3)


def test_what_is_isotropic_enough() -> None:
    check_isotropy(as_volume(VALUES))
    check_isotropy(_spaced(1.4, 1.0, 1.0))
    with pytest.raises(VolumeError, match=r"not isotropic .*z 5 micrometer, y 1"):
        check_isotropy(_spaced(5, 1, 1))
    check_isotropy(_spaced(5, 1, 1), force=True)
    mixed = replace(_spaced(1, 1, 1), units=("nanometer", "micrometer", "micrometer"))
    with pytest.raises(VolumeError, match="not isotropic"):
        check_isotropy(mixed)


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
        check_isotropy(as_volume(volume), force=True)


def test_axis_and_range_make_no_sense(tiny_model: BiomedParse) -> None:
    for choice in ({"axis": "z"}, {"slices": (0, 2)}):
        with pytest.raises(OptionError, match="leave the slicing axis"):
            segment_consensus(VALUES, PROMPTS, tiny_model, **choice)


def test_a_region_and_an_order_of_prompts(tiny_model: BiomedParse) -> None:
    options: dict[str, Any] = {"overlaps": "order", "minimum_size": 4}
    box = VALUES[2:18, 3:20]
    expected = segment_consensus(box, PROMPTS, tiny_model, instances=True, **options)
    result = segment_consensus(
        VALUES, PROMPTS, tiny_model, instances=True, region="z=2:18,y=3:20", **options
    )
    np.testing.assert_array_equal(result.labels, expected.labels)
    np.testing.assert_array_equal(result.instances, expected.instances)
    assert np.bincount(result.instances.ravel()).min() >= 4
    with pytest.raises(OptionError, match="a consensus holds a single one"):
        segment_consensus(VALUES, PROMPTS, tiny_model, overlaps="separate")
