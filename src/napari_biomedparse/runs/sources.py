"""What the blocks of a run read of a volume, to tell whether it is still the same."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from napari_biomedparse.errors import FormatError, OutputError
from napari_biomedparse.io.inputs import states
from napari_biomedparse.pipeline.plan import spans
from napari_biomedparse.runs.manifest import refuse_differences
from napari_biomedparse.slicing.read import Slabs, margin_of, needed_slices, read_slabs

if TYPE_CHECKING:
    from pathlib import Path

    from napari_biomedparse.data.volume import Volume
    from napari_biomedparse.pipeline.plan import RunPlan
    from napari_biomedparse.runs.manifest import Block, Manifest

SLICES_AT_ONCE = 8
"""Number of slices that are read at once to compare them."""


class SeenSlices:
    """Checksums of slices, and of all that blocks need; called as they are read."""

    def __init__(self, plan: RunPlan) -> None:
        self._depth = plan.geometry.depth
        self._margin = margin_of(plan.volume, plan.geometry)
        self._digests: dict[int, bytes] = {}

    def __call__(self, start: int, slabs: Slabs) -> Slabs:
        """Look at slabs [n, ...] from a slice on, and pass them on."""
        for slab in slabs:
            for index, plane in enumerate(slab, start):
                data = np.ascontiguousarray(plane).data
                self._digests[index] = hashlib.sha256(data).digest()
            start += len(slab)
            yield slab

    def needed(self, start: int, stop: int) -> range:
        """Return the slices that a block reads: its own and their neighbours."""
        return range(*needed_slices(start, stop, self._depth, self._margin))

    def of(self, start: int, stop: int) -> str:
        """Return a checksum of all that a block read."""
        read = map(self._digests.__getitem__, self.needed(start, stop))
        return hashlib.sha256(b"".join(read)).hexdigest()[:16]


def changed_slices(plan: RunPlan, blocks: Iterable[Block]) -> str:
    """Read again what blocks read; name the slices of those that read other voxels."""
    seen, blocks = SeenSlices(plan), [block for block in blocks if block.read]
    wanted = {i for block in blocks for i in seen.needed(block.start, block.stop)}
    for span in spans(wanted):
        slabs = read_slabs(plan.volume, plan.geometry.axis, *span, SLICES_AT_ONCE)
        deque(seen(span[0], slabs), 0)
    changed = [b for b in blocks if seen.of(b.start, b.stop) != b.read]
    found = spans(i for block in changed for i in range(block.start, block.stop))
    return ", ".join(f"slices {first} to {last - 1}" for first, last in found[:5])


def check_same(
    volume: Volume, manifest: Manifest, parts: Iterable[tuple[RunPlan, Iterable[Block]]]
) -> None:
    """Raise `FormatError` if blocks read something else than the volume is now.

    Voxels are compared if files have another size or time than before the run.
    """
    now = states(volume)
    if all(manifest.source.get(key, value) == value for key, value in now.items()):
        return
    for plan, blocks in parts:
        if changed := changed_slices(plan, blocks):
            raise FormatError(
                f"{volume.source} changed while it was being read, in {changed}. "
                "Finished blocks are kept: restore it as it was, and run the same "
                "again to continue."
            )


def refuse_changed(
    folder: Path, plan: RunPlan, old: Manifest, new: Manifest, blocks: Iterable[Block]
) -> None:
    """Raise `OutputError` if blocks read something else than the volume is now."""
    if not all(block.read for block in blocks):  # of an earlier version
        refuse_differences(folder, old, new)
    if changed := changed_slices(plan, blocks):
        raise OutputError(
            f"{folder} holds a run of other voxels: {plan.volume.source or 'the array'}"
            f" changed in {changed}. Restore it to continue, choose another folder, or "
            "overwrite the run."
        )
