"""Small volumes in the formats of the fault suite, and the run that each is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr

from napari_biomedparse.io.durable import is_zarr
from napari_biomedparse.runs.folder import Run
from napari_biomedparse.runs.run import segment_to_folder

SLICES, BLOCK = 12, 2
FORMATS = {"zarr": "in.zarr", "tiff": "in.tif", "nifti": "in.nii.gz", "npz": "in.npz"}
GIVEN: Mapping[str, Any] = {
    "prompts": ["liver", "cell"],
    "instances": True,
    "batch_size": 1,
}
"""What is asked for: with objects, and slice by slice."""


def make_volume(folder: Path, name: str) -> Path:
    """Write the same voxels in one of the formats."""
    shape = (SLICES, 24, 20)
    grey = np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)
    path = folder / FORMATS[name]
    if name == "zarr":
        chunks = (BLOCK, *shape[1:])
        zarr.create_array(str(path), data=grey, chunks=chunks)
    elif name == "tiff":
        tifffile.imwrite(path, grey, photometric="minisblack")
    elif name == "nifti":
        nibabel = pytest.importorskip("nibabel")
        nibabel.save(nibabel.Nifti1Image(grey.T, np.eye(4)), path)
    else:
        np.savez_compressed(path, imgs=grey)
    return path


def small_blocks(set_attribute: Callable[[str, Any], None]) -> None:
    """Have runs write, and files be read, a few slices at a time."""
    size = BLOCK * 24 * 20
    set_attribute("napari_biomedparse.io.formats.ome_labels.THICKEST", BLOCK)
    set_attribute("napari_biomedparse.io.lazy.THICKEST", BLOCK)
    set_attribute("napari_biomedparse.io.lazy.BLOCK_BYTES", size)
    set_attribute("napari_biomedparse.io.formats.npz.BLOCK_BYTES", size)
    set_attribute("napari_biomedparse.io.formats.nifti._PACKED_BLOCK", size)


def do_run(source: Path, folder: Path, model: Any, **more: Any) -> Run:
    """Do the run of the suite."""
    return segment_to_folder(source, out=folder, model=model, **GIVEN, **more)


def assert_finished_blocks_are_intact(folder: Path, whole: Run) -> int:
    """Compare what is recorded as finished; return how many blocks are."""
    if not (folder / "manifest.json").is_file():
        return 0
    begun = Run(folder)
    assert not begun.finished
    if not is_zarr(begun.labels_path):  # that was the fault
        return 0
    known = {block.start: block for block in whole.manifest.blocks}
    for block in begun.manifest.blocks:
        assert block == known[block.start]
        where = slice(block.start, block.stop)
        np.testing.assert_array_equal(begun.labels[where], whole.labels[where])
    return len(begun.manifest.blocks)


def assert_same(run: Run, whole: Run) -> None:
    """Compare a finished run with the undisturbed one, to the bit."""
    assert run.finished
    assert run.manifest.blocks == whole.manifest.blocks
    np.testing.assert_array_equal(run.labels, whole.labels)
    np.testing.assert_array_equal(run.instances, whole.instances)
    assert sorted(path.name for path in run.folder.iterdir()) == [
        ".lock",
        "instances.ome.zarr",
        "labels.ome.zarr",
        "manifest.json",
    ]
