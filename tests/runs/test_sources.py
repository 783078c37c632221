"""What blocks read is compared when a run goes on: changed or only touched."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr

from napari_biomedparse.errors import FormatError, OutputError
from napari_biomedparse.runs.folder import Run
from napari_biomedparse.runs.run import segment_to_folder

GREY = np.random.default_rng(0).integers(0, 255, (48, 70, 60), dtype=np.uint8)
Write = Callable[[Path, Any], Path]


def as_zarr(folder: Path, grey: Any) -> Path:
    path = folder / "in.zarr"
    zarr.create_array(str(path), data=grey, chunks=(8, 32, 32), overwrite=True)
    return path


def as_tiff(folder: Path, grey: Any) -> Path:
    tifffile.imwrite(folder / "in.tif", grey)
    return folder / "in.tif"


def as_slices(folder: Path, grey: Any) -> Path:
    (folder / "slices").mkdir(exist_ok=True)
    for number, plane in enumerate(grey):
        tifffile.imwrite(folder / "slices" / f"{number}.tif", plane)
    return folder / "slices"


def as_nifti(folder: Path, grey: Any) -> Path:
    nibabel = pytest.importorskip("nibabel")
    nibabel.save(nibabel.Nifti1Image(grey.T, np.eye(4)), folder / "in.nii")
    return folder / "in.nii"


def touch(path: Path) -> None:
    for file in (p for p in [path, *path.rglob("*")] if p.is_file()):
        os.utime(file, (1, 1))


class _Enough(Exception):
    """Stops a run."""


def interrupted(path: Path, out: Path) -> None:
    """Run one block."""

    def stop(done: int, _: int) -> None:
        if done:
            raise _Enough

    with pytest.raises(_Enough):
        segment_to_folder(path, "liver", out, "tiny", device="cpu", on_progress=stop)
    assert 0 < len(Run(out).manifest.blocks) < 3


def resumed(path: Path, out: Path) -> Run:
    return segment_to_folder(path, "liver", out, "tiny", device="cpu")


@pytest.mark.parametrize("write", [as_zarr, as_tiff, as_slices, as_nifti])
def test_a_touched_volume_goes_on_and_a_changed_one_does_not(
    tmp_path: Path, write: Write
) -> None:
    path, out = write(tmp_path, GREY), tmp_path / "run"
    whole = np.asarray(resumed(path, tmp_path / "whole").labels)
    interrupted(path, out)
    changed = GREY.copy()
    changed[3, 2:6, 2:6] ^= 255  # far from what samples see
    write(tmp_path, changed)
    with pytest.raises(OutputError, match="changed in slices 0 to 15"):
        resumed(path, out)
    write(tmp_path, GREY)
    touch(path)
    assert np.array_equal(np.asarray(resumed(path, out).labels), whole)
    touch(path)
    assert Run(out).finished
    assert resumed(path, out).finished  # still


def test_a_volume_that_changes_during_the_run_is_noticed(tmp_path: Path) -> None:
    path, out = as_zarr(tmp_path, GREY), tmp_path / "run"
    array: Any = zarr.open(str(path))

    def change(done: int, _: int) -> None:
        if done == 16:
            array[1, :10, :10] = 0

    with pytest.raises(FormatError, match=r"changed while it was .* slices 0 to 15"):
        segment_to_folder(path, "liver", out, "tiny", on_progress=change, device="cpu")
    assert not Run(out).finished
    array[1, :10, :10] = GREY[1, :10, :10]  # restored, with other times
    assert resumed(path, out).finished


def test_records_of_earlier_versions_do_not_say_what_was_read(tmp_path: Path) -> None:
    path, out = as_zarr(tmp_path, GREY), tmp_path / "run"
    interrupted(path, out)
    for record in (out / "blocks").iterdir():
        known = json.loads(record.read_text())
        assert known.pop("read")
        record.write_text(json.dumps(known))
    touch(path)
    with pytest.raises(OutputError, match=r"source\.chunks was"):
        resumed(path, out)
    manifest = json.loads((out / "manifest.json").read_text())
    del manifest["source"]["chunks"]
    (out / "manifest.json").write_text(json.dumps(manifest))
    assert resumed(path, out).finished
