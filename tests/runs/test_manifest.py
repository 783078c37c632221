"""Which run a folder holds, and what its record says."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs_manifests import FIRST, SECOND, a_manifest

from napari_biomedparse.data.options import SegmentOptions
from napari_biomedparse.errors import FormatError, OutputError
from napari_biomedparse.runs.manifest import (
    MANIFEST,
    Block,
    Manifest,
    check_block,
    check_manifest,
    read_manifest,
    refuse_differences,
    weights_checksum,
)


def test_saved_and_read_again_it_is_the_same(tmp_path: Path) -> None:
    manifest = a_manifest(finished="2026-11-24T00:00:00+00:00", objects=7)
    manifest.save(tmp_path)
    assert read_manifest(tmp_path) == manifest
    assert read_manifest(tmp_path / MANIFEST) == manifest
    assert [path.name for path in tmp_path.iterdir()] == [MANIFEST]
    series = a_manifest(parts=(manifest, a_manifest()))
    assert read_manifest_of(series, tmp_path).parts == series.parts


def read_manifest_of(manifest: Manifest, folder: Path) -> Manifest:
    manifest.save(folder)
    return read_manifest(folder)


@pytest.mark.parametrize(
    ("recorded", "expected"), [("bfloat16", "bfloat16"), ("half", "auto")]
)
def test_a_record_from_before_precision_was_an_option(
    tmp_path: Path, recorded: str, expected: str
) -> None:
    manifest = a_manifest()
    parameters = {k: v for k, v in manifest.parameters.items() if k != "precision"}
    old = replace(manifest, parameters=parameters, environment={"precision": recorded})
    assert read_manifest_of(old, tmp_path).options.precision == expected


@pytest.mark.parametrize("change", [{"kind": "cake"}, {"version": 2}, {"version": 0}])
def test_a_record_of_something_else_is_refused(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    a_manifest().save(tmp_path)
    record = json.loads((tmp_path / MANIFEST).read_text()) | change
    (tmp_path / MANIFEST).write_text(json.dumps(record))
    with pytest.raises(FormatError, match="something else or a later version"):
        read_manifest(tmp_path)


def test_a_missing_or_broken_record_is_named(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"manifest\.json cannot be read"):
        read_manifest(tmp_path / MANIFEST)
    (tmp_path / MANIFEST).write_text("{")
    with pytest.raises(FormatError, match=r"manifest\.json is not the record"):
        read_manifest(tmp_path)


def test_scores_lie_where_their_blocks_are() -> None:
    manifest = a_manifest()
    nan = np.nan
    expected = [[0.1, 0.2, 0.5, nan], [0.3, 0.4, 0.6, nan]]
    np.testing.assert_allclose(manifest.existence, expected, rtol=1e-6)
    assert manifest.existence.dtype == np.float32
    np.testing.assert_array_equal(manifest.voxels, [[1, 2, 5, 0], [3, 4, 6, 0]])
    assert manifest.voxels.dtype == np.int64


def test_scores_of_a_series_have_time() -> None:
    one = a_manifest()
    series = replace(
        one,
        parameters=one.parameters | {"times": [4, 6]},
        output=one.output | {"times": 2},
        blocks=(),
        parts=(one, replace(one, blocks=(SECOND,))),
    )
    assert (one.kind, series.kind) == ("volume", "series")
    assert series.existence.shape == series.voxels.shape == (2, 2, 4)
    np.testing.assert_array_equal(series.existence[:, 0], one.existence)
    np.testing.assert_array_equal(series.voxels[:, 0], one.voxels)
    assert np.isnan(series.existence[:, 1, :2]).all()
    np.testing.assert_array_equal(series.voxels[:, 1], [[0, 0, 5, 0], [0, 0, 6, 0]])


def test_scores_of_a_consensus_have_a_row_for_each_axis() -> None:
    one = a_manifest()
    along_y = replace(one, output=one.output | {"axis": 1})
    consensus = replace(
        one, output=one.output | {"along": ["z", "y"]}, parts=(one, along_y)
    )
    assert consensus.kind == "consensus"
    assert consensus.existence.shape == (2, 3, 6)
    np.testing.assert_array_equal(consensus.existence[:, 0, :4], one.existence)
    np.testing.assert_array_equal(consensus.existence[:, 1], along_y.existence)
    assert np.isnan(consensus.existence[:, 0, 4:]).all()
    assert np.isnan(consensus.existence[:, 2]).all()
    assert consensus.voxels.shape == (2, 4)
    assert consensus.options.slices is None


def test_prompts_and_options_come_back() -> None:
    manifest = a_manifest()
    assert manifest.prompts.ids == (2, 5)
    assert manifest.prompts.texts == ("liver", "kidney")
    assert not manifest.prompts.instance
    assert manifest.options == SegmentOptions(slices=(0, 3), instances=False)
    told_apart = a_manifest(parameters=manifest.parameters | {"instances": True})
    assert told_apart.prompts.instance


@pytest.mark.parametrize("part", ["source", "parameters", "output"])
def test_what_differs_is_said(part: str) -> None:
    old = a_manifest()
    new = replace(old, **{part: getattr(old, part) | {"deep": {"new": 1}}})
    assert old.differences(old) == []
    assert old.differences(new) == [f"{part}.deep.new was None and is 1"]
    assert new.differences(old) == [f"{part}.deep.new was 1 and is None"]


def test_weights_may_have_another_name_but_not_other_values() -> None:
    old = a_manifest()
    assert old.differences(replace(old, model="file.ckpt 123456789abc")) == []
    other = replace(old, model="tiny 000000000000")
    expected = ["model was 'tiny 123456789abc' and is 'tiny 000000000000'"]
    assert old.differences(other) == expected
    assert weights_checksum("a name with blanks 12ab") == "12ab"


def test_environment_and_progress_may_differ(tmp_path: Path) -> None:
    old = a_manifest()
    new = replace(old, environment={"torch": "9"}, blocks=(), load=None, objects=3)
    refuse_differences(tmp_path, old, new)
    with pytest.raises(OutputError, match=r"another run: model was .* Choose another"):
        refuse_differences(tmp_path, old, replace(new, model="x 0"))


def test_blocks_are_in_order() -> None:
    manifest = a_manifest().with_blocks({2: SECOND, 0: FIRST})
    assert manifest.blocks == (FIRST, SECOND)
    assert json.loads(FIRST.text()) == asdict(FIRST)


OUTPUT = {
    "shape": [4, 8, 8], "dtype": "uint8", "axis": 0, "thickness": 2, "ome_zarr": "0.5",
}  # fmt: skip
BLOCK = Block(0, 2, [[0.5, float("nan")]], [[1, 0]], "0")


@pytest.fixture
def manifest() -> Manifest:
    """Return the record of a run as `segment_to_folder` begins it."""
    options = {name: getattr(SegmentOptions(), name) for name in
               SegmentOptions.__dataclass_fields__}  # fmt: skip
    parameters = options | {
        "prompts": {"3": "liver"}, "prompt_order": [3], "instances": False,
        "slices": [0, 4],
    }  # fmt: skip
    return Manifest({"path": "a"}, "tiny 0", parameters, OUTPUT, None, {}, (BLOCK,))


def test_a_whole_record(manifest: Manifest, tmp_path: Path) -> None:
    check_manifest(manifest)
    manifest.save(tmp_path)
    assert read_manifest(tmp_path).output == OUTPUT


@pytest.mark.parametrize(
    "output",
    [
        {"shape": [4, 8]},
        {"shape": [4, 8, -8]},
        {"shape": [4.0, 8, 8]},
        {"shape": [2**30, 8, 8]},
        {"axis": 3},
        {"thickness": 0},
        {"dtype": "float32"},
        {"dtype": "9" * 5000},
        {"dtype": ["uint8"]},
        {"ome_zarr": "0.1"},
        {"times": 0},
        {"times": 2**30},
        {"along": ["../../elsewhere"]},
    ],
)
def test_an_impossible_output(output: Any, manifest: Manifest, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        check_manifest(replace(manifest, output=OUTPUT | output))
    replace(manifest, output=OUTPUT | output).save(tmp_path)
    with pytest.raises(FormatError, match="not the record of a run"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"start": -1},
        {"stop": 0},
        {"stop": 10**20},
        {"start": "0"},
        {"existence": [[0.5]]},
        {"existence": [["a", "b"]]},
        {"voxels": []},
        {"voxels": [[1, 2**63]]},
        {"voxels": [[1, 0.5]]},
        {"checksum": 5},
    ],
)
def test_an_impossible_block(changes: Any, manifest: Manifest) -> None:
    with pytest.raises((ValueError, TypeError)):
        check_block(replace(BLOCK, **changes))
    with pytest.raises((ValueError, TypeError)):
        check_manifest(replace(manifest, blocks=(replace(BLOCK, **changes),)))


def test_blocks_of_other_prompts_or_slices(manifest: Manifest) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        check_block(BLOCK, prompts=2)
    with pytest.raises(ValueError, match="slices"):
        check_block(BLOCK, depth=1)


@pytest.mark.parametrize("text", ["5", "[1]", "[" * 100_000, '{"kind": 5}', "\0"])
def test_other_json(text: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(FormatError, match="not the record of a run"):
        read_manifest(tmp_path)


def test_parts_are_checked_too(manifest: Manifest, tmp_path: Path) -> None:
    part = replace(manifest, output=OUTPUT | {"axis": 7})
    manifest = replace(manifest, parts=(part,))
    manifest.save(tmp_path)
    assert json.loads((tmp_path / "manifest.json").read_text())["parts"]
    with pytest.raises(FormatError, match="axis"):
        read_manifest(tmp_path)
