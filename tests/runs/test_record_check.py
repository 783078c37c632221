from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from napari_biomedparse.errors import FormatError
from napari_biomedparse.runs.manifest import Block, Manifest, read_manifest
from napari_biomedparse.runs.record_check import check_block, check_manifest

OUTPUT = {
    "shape": [4, 8, 8], "dtype": "uint8", "axis": 0, "thickness": 2, "ome_zarr": "0.5",
}  # fmt: skip
BLOCK = Block(0, 2, [[0.5, float("nan")]], [[1, 0]], "0")


@pytest.fixture
def manifest() -> Manifest:
    """Return the record of a run as `segment_to_folder` begins it."""
    from napari_biomedparse.data.options import SegmentOptions

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
