"""A run notices that its volume is another one, or another state of it."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import tifffile
import zarr

from napari_biomedparse.data.volume import Volume, as_volume
from napari_biomedparse.errors import FormatError
from napari_biomedparse.io import open_volume
from napari_biomedparse.io.inputs import SAMPLE_EDGE, check_unchanged, identify


@pytest.fixture
def grey() -> Any:
    return np.random.default_rng(0).integers(0, 255, (7, 100, 90), dtype=np.uint8)


def lazy(grey: Any) -> Volume:
    return as_volume(da.from_array(grey, chunks=(1, 50, 90)))


def series(times: Any) -> Volume:
    units = ("second", "pixel", "pixel", "pixel")
    return Volume(da.from_array(times), tuple("tzyx"), (1.0,) * 4, units, (0.0,) * 4)


def voxels(volume: Volume, sampled: str = "") -> str:
    found: str = identify(volume, sampled)["voxels"]
    return found


def test_what_describes_a_volume_in_memory(grey: Any) -> None:
    found = identify(as_volume(grey))
    assert json.loads(json.dumps(found)) == found
    assert found["path"] is None
    assert found["shape"] == [7, 100, 90]
    assert found["dtype"] == "uint8"
    assert found["axes"] == ["z", "y", "x"]
    assert not {"bytes", "files", "metadata"} & set(found)


@pytest.mark.parametrize("change", ["spacing", "units", "origin"])
def test_place_and_scale_count(grey: Any, change: str) -> None:
    volume = as_volume(grey)
    values = {"spacing": (2.0, 1.0, 1.0), "units": ("micrometer",) * 3}
    values["origin"] = (0.0, 0.0, 5.0)
    other = replace(volume, **{change: values[change]})
    differing = {
        key for key, value in identify(other).items() if value != identify(volume)[key]
    }
    assert differing == {change}


@pytest.mark.parametrize("place", [(0, 0, 0), (3, 50, 45), (6, 99, 89)])
def test_in_memory_every_voxel_counts(grey: Any, place: tuple[int, ...]) -> None:
    other = grey.copy()
    other[place] += 1
    assert voxels(as_volume(other)) != voxels(as_volume(grey))
    # How the memory is laid out does not.
    assert voxels(as_volume(np.asfortranarray(grey))) == voxels(as_volume(grey))


def test_of_lazy_volumes_three_windows_count(grey: Any) -> None:
    top = (100 - SAMPLE_EDGE) // 2
    left = (90 - SAMPLE_EDGE) // 2
    for z in (0, 3, 6):
        for y, x in ((top, left), (top + SAMPLE_EDGE - 1, left + SAMPLE_EDGE - 1)):
            other = grey.copy()
            other[z, y, x] += 1
            assert voxels(lazy(other)) != voxels(lazy(grey))
    bottom, right = top + SAMPLE_EDGE, left + SAMPLE_EDGE
    beside = ((0, top - 1, 45), (3, 50, left - 1), (0, bottom, 45), (3, 50, right))
    for z, y, x in (*beside, (1, 50, 45), (5, 50, 45)):
        other = grey.copy()
        other[z, y, x] += 1
        assert voxels(lazy(other)) == voxels(lazy(grey))


def test_of_a_lazy_series_one_plane_of_three_times_counts() -> None:
    times = np.random.default_rng(0).integers(0, 255, (6, 3, 8, 9), dtype=np.uint8)

    def changed(*place: int) -> str:
        other = times.copy()
        other[place] ^= 1
        return voxels(series(other))

    known = voxels(series(times))
    for t, z in ((0, 1), (2, 1), (5, 1)):
        assert changed(t, z, 0, 0) != known
    for t, z in ((0, 0), (2, 2), (1, 1), (3, 1), (4, 1)):
        assert changed(t, z, 0, 0) == known


def test_a_single_slice_can_be_lazy() -> None:
    plane = np.arange(12, dtype=np.uint8).reshape(1, 3, 4)
    assert voxels(lazy(plane)) != voxels(lazy(plane + 1))


def test_voxels_that_were_read_before_are_not_read_again(grey: Any) -> None:
    def refuse(block: Any) -> Any:
        raise AssertionError("read")

    untouched = as_volume(
        da.from_array(grey, chunks=(1, 50, 90)).map_blocks(refuse, dtype=np.uint8)
    )
    assert voxels(untouched, "seen") == "seen"
    assert voxels(as_volume(grey), "seen") != "seen"


def test_a_file_is_told_by_size_and_time(grey: Any, tmp_path: Path) -> None:
    path = tmp_path / "grey.tif"
    tifffile.imwrite(path, grey, photometric="minisblack")
    volume = open_volume(path)
    known = identify(volume)
    assert known["path"] == str(path)
    assert known["bytes"] == path.stat().st_size
    check_unchanged(volume, known)
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    with pytest.raises(FormatError, match=r"grey\.tif changed while"):
        check_unchanged(volume, known)
    path.unlink()
    with pytest.raises(FormatError, match=r"grey\.tif disappeared while"):
        check_unchanged(volume, known)


def test_a_volume_in_memory_cannot_go_away(grey: Any) -> None:
    check_unchanged(as_volume(grey), {"bytes": 1})


def test_slices_in_files_are_told_by_each_of_them(grey: Any, tmp_path: Path) -> None:
    for z, plane in enumerate(grey):
        tifffile.imwrite(tmp_path / f"{z}.tif", plane, photometric="minisblack")
    volume = open_volume(tmp_path)
    known = identify(volume)
    check_unchanged(volume, known)
    os.utime(tmp_path / "4.tif", ns=(0, 1))
    with pytest.raises(FormatError, match="changed"):
        check_unchanged(volume, known)


def test_a_zarr_is_told_by_its_metadata(grey: Any, tmp_path: Path) -> None:
    path = tmp_path / "grey.zarr"
    array = zarr.create_array(
        str(path), shape=grey.shape, chunks=(1, 50, 90), dtype="u1"
    )
    array[:] = grey
    volume = open_volume(path)
    known = identify(volume)
    check_unchanged(volume, known)
    array[1] = 0  # chunks come and go while a run writes beside them
    check_unchanged(volume, known)
    array.attrs["note"] = "another"
    with pytest.raises(FormatError, match="changed"):
        check_unchanged(volume, known)
    shutil.rmtree(path)
    with pytest.raises(FormatError, match="disappeared"):
        check_unchanged(volume, known)


def test_identities_stay_what_they_were(tmp_path: Path) -> None:
    """Else no run that an earlier version began could go on."""
    cube = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    assert voxels(as_volume(cube)) == "1d64add2a6388367"
    assert voxels(lazy(cube)) == "1d64add2a6388367"
    files, folder = tmp_path / "slices", tmp_path / "a.zarr"
    files.mkdir()
    for z, plane in enumerate(cube):
        (files / f"{z}.tif").write_bytes(plane.tobytes())
        os.utime(files / f"{z}.tif", ns=(0, 10**18 + z))
    volume = replace(lazy(cube), source=files)
    assert identify(volume)["files"] == "25a2d78277782442"
    for name in (".zgroup", ".zattrs", "s0/.zarray", "s0/ignored", "s1/zarr.json"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    volume = replace(lazy(cube), source=folder)
    assert identify(volume)["metadata"] == "f77bf6bccdcc6fc5"
