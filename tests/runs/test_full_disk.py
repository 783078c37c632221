"""A disk that is really full: a file system in memory, too small for the run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_biomedparse.errors import OutputError
from napari_biomedparse.networks.v2.biomedparse import BiomedParse
from napari_biomedparse.runs.folder import Run
from napari_biomedparse.runs.run import segment_to_folder

GREY = np.random.default_rng(0).integers(0, 255, (64, 120, 100), dtype=np.uint8)
GIVEN: dict[str, Any] = {"prompts": ["liver", "cell"], "instances": True}


def _mount(*arguments: str) -> None:
    command = ["mount", "-t", "tmpfs", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no small disk can be mounted here: {done.stderr.strip()}")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """An empty disk of 64 MiB, which `_resize` makes smaller."""
    if sys.platform != "linux":
        pytest.skip("small disks are mounted on Linux only")
    place = tmp_path / "disk"
    place.mkdir()
    _mount("-o", "size=64m", "napari-biomedparse-test", str(place))
    yield place
    subprocess.run(["umount", str(place)], check=True)


def _resize(disk: Path, size: int) -> None:
    _mount("-o", f"remount,size={size}", "napari-biomedparse-test", str(disk))


def _used(folder: Path) -> int:
    return sum(p.stat().st_blocks for p in folder.rglob("*") if p.is_file()) * 512


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9])
def test_a_run_goes_on_once_there_is_room(
    tiny_model: BiomedParse, tmp_path: Path, disk: Path, share: float
) -> None:
    sizes: list[int] = []
    whole = segment_to_folder(
        GREY,
        out=tmp_path / "whole",
        model=tiny_model,
        on_progress=lambda *_: sizes.append(_used(tmp_path / "whole")),
        **GIVEN,
    )
    labels, objects = np.asarray(whole.labels), np.asarray(whole.instances)
    _resize(disk, int(share * max(sizes)))
    folder = disk / "run"
    with pytest.raises(OutputError, match=r"No space left.*run the same again"):
        segment_to_folder(GREY, out=folder, model=tiny_model, **GIVEN)
    if (folder / "manifest.json").exists():
        begun = Run(folder)
        assert not begun.finished
        assert len(begun.manifest.blocks) >= (share > 0.5)
        for block in begun.manifest.blocks:
            part = slice(block.start, block.stop)
            np.testing.assert_array_equal(begun.labels[part], labels[part])
    # Still full: the same message again, and nothing is lost.
    with pytest.raises(OutputError, match="No space left"):
        segment_to_folder(GREY, out=folder, model=tiny_model, **GIVEN)
    _resize(disk, 2**26)
    run = segment_to_folder(GREY, out=folder, model=tiny_model, **GIVEN)
    np.testing.assert_array_equal(run.labels, labels)
    np.testing.assert_array_equal(run.instances, objects)
    assert run.manifest.blocks == whole.manifest.blocks
