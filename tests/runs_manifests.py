"""The record of a run that never was, for the tests of folders and records."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from napari_biomedparse.data.options import SegmentOptions
from napari_biomedparse.runs.manifest import Block, Manifest

FIRST = Block(0, 2, [[0.1, 0.2], [0.3, 0.4]], [[1, 2], [3, 4]], "aa")
SECOND = Block(2, 3, [[0.5], [0.6]], [[5], [6]], "bb")


def a_manifest(**changes: Any) -> Manifest:
    """Three of four slices of two prompts, in blocks of two."""
    parameters = asdict(SegmentOptions()) | {
        "prompts": {"2": "liver", "5": "kidney"},
        "prompt_order": [2, 5],
        "slicing_axis": "z",
        "slices": [0, 3],
        "instances": False,
    }
    output = {
        "shape": [4, 6, 5],
        "dtype": "uint8",
        "axis": 0,
        "thickness": 2,
        "ome_zarr": "0.5",
        "device": "cpu",
    }
    manifest = Manifest(
        source={"path": "/a.tif", "shape": [4, 6, 5]},
        model="tiny 123456789abc",
        parameters=parameters,
        output=output,
        load="tiny",
        environment={"device": "cpu"},
        blocks=(FIRST, SECOND),
    )
    return replace(manifest, **changes)
