"""Options of a run folder, requests that travel, and what they do in a folder."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import tifffile
import zarr

from napari_biomedparse.data.options import OptionChanges, SegmentOptions
from napari_biomedparse.data.prompts import parse_prompts
from napari_biomedparse.data.volume import Volume
from napari_biomedparse.errors import OptionError, OutputError, VolumeError
from napari_biomedparse.io import open_file
from napari_biomedparse.networks.v2.biomedparse import BiomedParse
from napari_biomedparse.pipeline.segment import segment
from napari_biomedparse.runs.folder import LABELS, PARTS, Run
from napari_biomedparse.runs.reproduce import reproduce
from napari_biomedparse.runs.run import (
    FolderChanges,
    FolderOptions,
    RunRequest,
    cluster_packages,
    merge_changes,
    segment_to_folder,
)

PROMPTS = {2: "liver", 5: "mitochondria in electron microscopy"}
UNITS = ("second", "micrometer", "micrometer", "micrometer")


@pytest.fixture(scope="module")
def series() -> Volume:
    """Three time points of 18 slices: two blocks each."""
    grey = np.random.default_rng(0).integers(0, 255, (3, 18, 40, 30), dtype=np.uint8)
    return Volume(
        da.from_array(grey, chunks=(1, 9, 40, 30)),
        ("t", "z", "y", "x"),
        (10.0, 2.0, 0.5, 0.5),
        UNITS,
        (0.0, 1.0, 2.0, 3.0),
        "film",
    )


@pytest.fixture(scope="module")
def cube() -> Volume:
    grey = np.random.default_rng(0).integers(0, 255, (20, 18, 22), dtype=np.uint8)
    data = da.from_array(grey, chunks=(7, 18, 22))
    return Volume(data, ("z", "y", "x"), (1.0,) * 3, UNITS[1:], (0.0,) * 3, "cube")


class _Cut(Exception):
    """Ends a run from within."""


def _cut_after(slices: int) -> Callable[[int, int], None]:
    def check(done: int, total: int) -> None:
        if done >= slices:
            raise _Cut

    return check


def _same_objects(ours: Any, theirs: Any) -> None:
    both = np.stack([np.asarray(ours).ravel(), np.asarray(theirs).ravel()])
    pairs = np.unique(both, axis=1)
    assert len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1]


def test_a_series_cut_off_twice(
    series: Volume, tiny_model: BiomedParse, tmp_path: Path
) -> None:
    expected = segment(series, PROMPTS, tiny_model, instances=True)
    assert len(np.unique(np.asarray(expected.labels))) == 3
    given: Any = (series, PROMPTS, tmp_path / "r", tiny_model)
    seen: list[tuple[int, int]] = []
    for end in (16, 34):
        with pytest.raises(_Cut):
            segment_to_folder(*given, instances=True, on_progress=_cut_after(end))
        begun = Run(tmp_path / "r")
        assert begun.kind == "series"
        assert not begun.finished
        assert begun.labels.shape == series.shape
        assert 0 < np.isfinite(begun.existence).sum() < begun.existence.size
    run = segment_to_folder(
        *given, instances=True, on_progress=lambda *done: seen.append(done)
    )
    assert run.finished
    assert seen[-1] == (54, 54)
    assert seen[0][0] > 36  # two time points were there
    np.testing.assert_array_equal(run.labels, expected.labels)
    np.testing.assert_array_equal(run.existence, expected.existence)
    labels = np.asarray(run.labels)
    for number, value in enumerate(PROMPTS):
        found = (labels == value).sum(axis=(2, 3))
        np.testing.assert_array_equal(run.voxels[number], found)
    assert run.parameters == expected.parameters
    for ours, theirs in zip(run.instances, expected.instances, strict=True):  # type: ignore[arg-type]
        _same_objects(ours, theirs)
    assert {p.name for p in run.folder.iterdir()} - {".lock"} == {
        "instances.ome.zarr",
        "labels.ome.zarr",
        "manifest.json",
    }
    assert segment_to_folder(*given, instances=True).manifest == run.manifest
    with pytest.raises(OutputError, match=r"parameters\.times"):
        segment_to_folder(*given, instances=True, time=(0, 2))


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_labels_of_a_series_have_time(
    series: Volume, tiny_model: BiomedParse, tmp_path: Path, version: Any
) -> None:
    run = segment_to_folder(
        series, PROMPTS, tmp_path / "r", tiny_model, time=(1, 3), ome_zarr=version
    )
    (found,) = open_file(run.labels_path).labels
    assert found.volume.axes == series.axes
    assert found.volume.spacing == series.spacing
    assert found.volume.units == series.units
    assert found.volume.origin == (10.0, 1.0, 2.0, 3.0)  # from the second time point
    assert found.texts == PROMPTS
    assert found.volume.shape == (2, 18, 40, 30)
    pytest.importorskip("ome_zarr_models")
    if version == "0.4":
        from ome_zarr_models.v04.image_label import ImageLabel
    else:
        from ome_zarr_models.v05.image_label import ImageLabel  # type: ignore[assignment]
    ImageLabel.from_zarr(zarr.open_group(str(run.labels_path), mode="r"))


def test_a_series_of_two_channels_in_a_file(
    tiny_model: BiomedParse, tmp_path: Path
) -> None:
    values = np.random.default_rng(1).integers(0, 255, (3, 2, 4, 40, 30), np.uint8)
    path = tmp_path / "film.ome.tif"
    tifffile.imwrite(path, values, ome=True, metadata={"axes": "TCZYX"})
    with pytest.raises(VolumeError, match="2 channels and no channel was chosen"):
        segment_to_folder(path, PROMPTS, tmp_path / "r", "tiny")
    run = segment_to_folder(path, PROMPTS, tmp_path / "r", "tiny", channel=1)
    expected = segment(values, PROMPTS, tiny_model, channel=1)
    np.testing.assert_array_equal(run.labels, expected.labels)
    one = segment_to_folder(path, PROMPTS, tmp_path / "o", "tiny", channel=1, time=2)
    assert one.kind == "volume"
    np.testing.assert_array_equal(one.labels, expected.labels[2])
    from_array = segment_to_folder(
        values, PROMPTS, tmp_path / "a", tiny_model, channel=1, time=2
    )
    np.testing.assert_array_equal(from_array.labels, expected.labels[2])
    again, differences = reproduce(run.folder, tmp_path / "again")
    assert differences == []
    np.testing.assert_array_equal(again.labels, run.labels)
    other = values.copy()
    other[2] = 255 - other[2]
    _, differences = reproduce(run.folder, tmp_path / "other", volume=other)
    assert any(one.startswith("time point 2: slices") for one in differences)
    assert not any(one.startswith("time point 1") for one in differences)


def test_a_consensus_cut_off_twice(
    cube: Volume, tiny_model: BiomedParse, tmp_path: Path
) -> None:
    expected = segment(cube, PROMPTS, tiny_model, instances=True, consensus=True)
    given: Any = (cube, PROMPTS, tmp_path / "r", tiny_model)
    more = {"consensus": True, "instances": True}
    for end in (16, 40):
        with pytest.raises(_Cut):
            segment_to_folder(*given, **more, on_progress=_cut_after(end))
        assert (tmp_path / "r" / PARTS).is_dir()
        (empty,) = open_file(tmp_path / "r" / LABELS).labels
        assert not np.asarray(empty.volume.data).any()  # until the vote
        assert Run(tmp_path / "r").kind == "consensus"
    run = segment_to_folder(*given, **more)
    assert run.finished
    np.testing.assert_array_equal(run.labels, expected.labels)
    np.testing.assert_array_equal(run.existence, expected.existence)
    assert run.existence.shape == (2, 3, 22)
    assert run.voxels.sum() == (np.asarray(run.labels) > 0).sum()
    assert run.parameters == expected.parameters
    _same_objects(run.instances, expected.instances)
    assert not (run.folder / PARTS).exists()
    assert segment_to_folder(*given, **more).manifest == run.manifest
    with pytest.raises(OutputError, match=r"parameters\.slicing_axis"):
        segment_to_folder(*given, instances=True)
    plain = segment_to_folder(*given, overwrite=True)
    assert plain.kind == "volume"


def test_a_consensus_is_reproduced(tmp_path: Path) -> None:
    grey = np.random.default_rng(3).integers(0, 255, (8, 20, 18), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "in.tif", grey)
    run = segment_to_folder(
        tmp_path / "in.tif", PROMPTS, tmp_path / "r", "tiny", consensus=True
    )
    again, differences = reproduce(run.folder, tmp_path / "again")
    assert differences == []
    assert again.kind == "consensus"
    np.testing.assert_array_equal(again.labels, run.labels)


def test_what_no_consensus_is_formed_of(
    series: Volume, cube: Volume, tiny_model: BiomedParse, tmp_path: Path
) -> None:
    out = tmp_path / "r"
    with pytest.raises(VolumeError, match="4 axes"):
        segment_to_folder(series, PROMPTS, out, tiny_model, consensus=True)
    with pytest.raises(VolumeError, match="not isotropic"):
        segment_to_folder(series.select(t=0), PROMPTS, out, tiny_model, consensus=True)
    with pytest.raises(OptionError, match="along all axes"):
        segment_to_folder(cube, PROMPTS, out, tiny_model, consensus=True, axis="y")
    assert not out.exists()


def test_changes_are_typed_as_the_options_are() -> None:
    ours = FolderChanges.__annotations__.keys() - OptionChanges.__annotations__.keys()
    typed = {name: FolderChanges.__annotations__[name].__forward_arg__ for name in ours}
    assert typed == {item.name: item.type for item in fields(FolderOptions)}


def test_changes_of_either_options() -> None:
    changes = {"channel": 1, "axis": "z"}
    options = SegmentOptions(seed=3)
    how, changed = merge_changes(FolderOptions(force=True), options, changes)
    assert how == FolderOptions(force=True, channel=1)
    assert changed == SegmentOptions(seed=3, axis="z")
    with pytest.raises(OptionError, match="no option chanel"):
        merge_changes(None, None, {"chanel": 1})


def test_versions_of_ome_zarr() -> None:
    version: Any = "0.3"
    with pytest.raises(OptionError, match=r"as 0\.4 or 0\.5, not '0\.3'"):
        FolderOptions(ome_zarr=version)


def test_a_request_travels() -> None:
    prompts = parse_prompts({3: "liver", 1: "cell"})
    request = RunRequest("a.tif", prompts, Path("out"), "tiny", SegmentOptions())
    assert request.path == Path("a.tif")
    again = pickle.loads(pickle.dumps(request.to_send()))
    assert again.volume == Path("a.tif").absolute()
    assert again.words() == request.words()
    assert again.words()["volume"].endswith("a.tif")


def test_missing_packages_are_named() -> None:
    with pytest.raises(OptionError, match=r"-m pip install .*distributed>="):
        with cluster_packages():
            raise ImportError("no distributed")
