"""What the blocks of a run read of a volume, to tell whether it is still the same."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_biomedparse.errors import FormatError, OutputError
from napari_biomedparse.io.identity import states
from napari_biomedparse.pipeline.plan import spans
from napari_biomedparse.runs.manifest import refuse_differences
from napari_biomedparse.slicing.read import needed_slices, read_slabs

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from napari_biomedparse.data.volume import Volume
    from napari_biomedparse.pipeline.plan import RunPlan
    from napari_biomedparse.runs.manifest import Block, Manifest

SLICES_AT_ONCE = 8
"""Number of slices that are read at once to compare them."""


class SeenSlices:
    """Checksums of the slices that were read; called with them as they are read."""

    def __init__(self, plan: RunPlan) -> None:
        self._depth = plan.geometry.depth
        self._margin = 0 if plan.volume.is_colour else 1
        self._digests: dict[int, bytes] = {}

    def __call__(self, start: int, slices: npt.NDArray[Any]) -> None:
        """Take slices, [n, ...], the first of which is `start`."""
        for index, plane in enumerate(slices, start):
            data = np.ascontiguousarray(plane).data
            self._digests[index] = hashlib.sha256(data).digest()

    def needed(self, start: int, stop: int) -> range:
        """Return the slices that a block reads: its own and their neighbours."""
        return range(*needed_slices(start, stop, self._depth, self._margin))

    def of(self, start: int, stop: int) -> str:
        """Return a checksum of all that a block read."""
        digest = hashlib.sha256()
        for index in self.needed(start, stop):
            digest.update(self._digests[index])
        return digest.hexdigest()[:16]


def find_changed(plan: RunPlan, blocks: Iterable[Block]) -> list[Block]:
    """Read again what blocks read; return those to which it is not the same.

    A block whose record, an earlier one, does not say what it read counts as changed.
    """
    seen, known = SeenSlices(plan), [block for block in blocks if block.read]
    axis = plan.geometry.axis
    wanted = {i for block in known for i in seen.needed(block.start, block.stop)}
    for first, last in spans(wanted):
        for slab in read_slabs(plan.volume, axis, first, last, SLICES_AT_ONCE):
            seen(first, slab)
            first += len(slab)
    return [
        block
        for block in blocks
        if not block.read or seen.of(block.start, block.stop) != block.read
    ]


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
        if changed := find_changed(plan, blocks):
            raise FormatError(
                f"{volume.source} changed while it was being read, in "
                f"{_slices(changed)}. Finished blocks are kept: restore it as it was, "
                "and run the same again to continue."
            )


def refuse_changed(
    folder: Path, plan: RunPlan, old: Manifest, new: Manifest, blocks: Iterable[Block]
) -> None:
    """Raise `OutputError` if blocks read something else than the volume is now."""
    changed = find_changed(plan, blocks)
    if not all(block.read for block in changed):
        refuse_differences(folder, old, new)
    if changed := [block for block in changed if block.read]:
        raise OutputError(
            f"{folder} holds a run of other voxels: {plan.volume.source or 'the array'}"
            f" changed in {_slices(changed)}. Restore it to continue, choose another "
            "folder, or overwrite the run."
        )


def _slices(blocks: Iterable[Block]) -> str:
    every = spans(i for block in blocks for i in range(block.start, block.stop))
    return "slices " + ", ".join(f"{first} to {last - 1}" for first, last in every[:5])
