"""Peak memory of a run from Zarr to OME-Zarr, for 64 and for 256 slices of 2048 x 2048.

    nice -n 15 python benchmarks/stream_memory.py [--model tiny] [--tile none]

The volumes (uint8 noise, up to 1 GiB) are made in a temporary folder. Every run is a
process of its own, whose peak includes torch. Prints one line for each.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

EDGE = 2048
CHUNK = 16


def make(path: Path, depth: int) -> None:
    """Write a volume of blurred noise."""
    import numpy as np
    import zarr

    noise = np.random.default_rng(0).integers(0, 256, (CHUNK, EDGE, EDGE), np.uint8)
    array = zarr.create_array(
        str(path),
        shape=(depth, EDGE, EDGE),
        chunks=(CHUNK, 512, 512),
        dtype="u1",
        compressors=None,
    )
    for start in range(0, depth, CHUNK):
        array[start : start + CHUNK] = noise


def run(path: Path, model: str, tile: str, instances: bool) -> None:
    """Segment a volume in this process and print its peak memory in MiB."""
    from napari_biomedparse.runs.run import segment_to_folder

    segment_to_folder(
        path,
        ["mitochondria in electron microscopy"],
        path.with_suffix(".run"),
        model,
        tile=int(tile) if tile.isdigit() else tile,
        instances=instances,
    )
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--tile", default="none", help="none, auto or pixels")
    parser.add_argument("--instances", action="store_true")
    parser.add_argument("--depths", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--inner", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.inner:
        run(given.inner, given.model, given.tile, given.instances)
        return
    for depth in given.depths:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "volume.zarr"
            make(path, depth)
            begun = time.monotonic()
            command = [sys.executable, __file__, *sys.argv[1:], "--inner", str(path)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            print(
                f"{depth} slices, {given.model}, tile {given.tile}: peak "
                f"{done.stdout.strip()} MiB, {time.monotonic() - begun:.0f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
