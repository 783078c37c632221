"""A run folder: its lock, its manifest, and the records of finished blocks."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import dask.array as da
import numpy as np
import numpy.typing as npt

from napari_biomedparse.data.results import P_VALUES, Owners
from napari_biomedparse.errors import FormatError, OutputError, check_shortage
from napari_biomedparse.io.durable import (
    PARTIAL,
    is_zarr,
    refuse_links,
    write_durably,
    writing,
)
from napari_biomedparse.io.formats.ome_labels import LabelStore, Layout
from napari_biomedparse.io.formats.zarr import open_zarr
from napari_biomedparse.io.inputs import SUFFIXES
from napari_biomedparse.io.lazy import plan_thickness
from napari_biomedparse.io.painting import (
    EDITS,
    LOCK as LOCK,
    accepted_slices,
    edited_voxels,
    lock_folder,
    open_levels,
    recover,
)
from napari_biomedparse.runs.manifest import (
    MANIFEST,
    Block,
    Manifest,
    check_block,
    check_manifest,
    read_manifest,
    refuse_differences,
)

if TYPE_CHECKING:
    from napari_biomedparse.data.prompts import PromptSet
    from napari_biomedparse.data.results import Kind
    from napari_biomedparse.data.volume import Volume

logger = logging.getLogger(__name__)

LABELS = "labels.ome.zarr"
OBJECTS = "instances.ome.zarr"
EDGES = "edges.zarr"
COMPONENTS = "components.zarr"
BLOCKS = "blocks"
PARTS = "parts"
REPORT = "report.html"
JOB = "job.json"
"""Names the cluster that does the run, while it does."""
WRITTEN = (
    LABELS, OBJECTS, EDGES, COMPONENTS, BLOCKS, PARTS, EDITS, LOCK, JOB, MANIFEST,
)  # fmt: skip
"""What a run writes in its folder, which may be a stranger's: not through links."""


@contextmanager
def open_folder(
    folder: Path,
    manifest: Manifest,
    *,
    overwrite: bool,
    verify: Callable[[Manifest], None] | None = None,
) -> Iterator[Manifest]:
    """Lock a run folder, new or begun, while the run writes to it.

    If files of the volume were touched since it was begun, `verify` compares what was
    read; without it, they count as changed.

    Yields its manifest: the one given, or the one found, which is of the same run. If
    the folder is in use, holds something else or cannot be written, an `OutputError`
    is raised; with `overwrite`, another run is removed first.
    """
    with writing(folder):
        if folder.name.lower().endswith(SUFFIXES):
            raise OutputError(
                f"{folder} names a run folder; labels go into it as {LABELS}. Choose a "
                "name without an extension."
            )
        folder.mkdir(parents=True, exist_ok=True)
        refuse_links(*(folder / name for name in WRITTEN))
        lock = lock_folder(folder)
    try:
        with writing(folder):
            for name in (LABELS, OBJECTS):
                recover(folder / name, locked=True)
            yield _prepare(folder, manifest, overwrite, verify)
    finally:
        lock.release()


def record_block(folder: Path, block: Block) -> None:
    """Record a finished block, whose labels must be on the disk already."""
    (folder / BLOCKS).mkdir(exist_ok=True)
    write_durably(folder / BLOCKS / _record_name(block.start), block.text())


def recorded_blocks(folder: Path, skip: Container[int] = ()) -> dict[int, Block]:
    """Read the records of finished blocks by start, except those to skip."""
    found = {}
    for path in (folder / BLOCKS).glob("*.json"):
        if skip and int(path.stem) in skip:
            continue
        try:
            block = Block(**json.loads(path.read_text("utf-8")))
            check_block(block)
        except (AttributeError, RecursionError, TypeError, ValueError) as error:
            raise FormatError(
                f"{path} is not the record of a block ({error}); remove it and run the "
                "same again to repeat its slices."
            ) from error
        found[block.start] = block
    return found


def verified_blocks(folder: Path, stores: list[LabelStore]) -> dict[int, Block]:
    """Return the finished blocks whose labels on the disk match their record."""
    good = {}
    for start, block in recorded_blocks(folder).items():
        if is_whole(block, stores):
            good[start] = block
        else:
            logger.warning("%s: slices from %d on are repeated.", folder, start)
            (folder / BLOCKS / _record_name(start)).unlink()
    return good


def mended(folder: Path, manifest: Manifest) -> Manifest:
    """Return the manifest of a finished run, unfinished if its labels are not whole.

    They are compared with their records. Blocks that are whole are kept.
    """
    series = manifest.kind == "series"
    parts = manifest.parts if series else (manifest,)
    good = [_whole_blocks(folder, part) for part in parts]
    if good == [list(part.blocks) for part in parts]:
        tidy(folder)  # what a crash left
        return manifest
    logger.warning("%s: labels are missing or damaged; these are run again.", folder)
    begun = replace(manifest, blocks=(), parts=(), finished=None, objects=None)
    places = part_folders(folder, manifest) if series else [folder]
    for place, part, blocks in zip(places, parts, good, strict=True):
        place.mkdir(parents=True, exist_ok=True)
        for block in blocks:
            record_block(place, block)
        if series:
            whole = blocks == list(part.blocks)
            again = replace(part, blocks=(), finished=None, objects=None)
            (part if whole else again).save(place)
    for name in (LABELS, OBJECTS):
        try:
            open_levels(folder / name)
        except OutputError:  # to be made anew
            shutil.rmtree(folder / name, ignore_errors=True)
    begun.save(folder)
    return begun


def _whole_blocks(folder: Path, part: Manifest) -> list[Block]:
    """Return the whole blocks of a finished volume; none if objects are not whole."""
    objects = part.objects is not None
    try:
        store = _store(folder / LABELS, part)
        if objects and part.sealed and part.sealed != seal(folder, part):
            return []
    except Exception as error:  # a damaged chunk fails as its codec likes
        check_shortage(error)
        return []
    # Edges, with which earlier versions summed labels up, are gone.
    return [
        block
        for block in part.blocks
        if (objects and not block.written) or is_whole(block, [store])
    ]


def seal(folder: Path, part: Manifest) -> list[Any]:
    """Return a checksum of objects, and the place in their journal that it is of."""
    store = _store(folder / OBJECTS, part)
    since = part.sealed[1] if part.sealed else store.journal.end
    starts = range(0, store.shape[store.layout.axis], store.layout.thickness)
    blocks = (store.as_written(*store.layout.block(at), since) for at in starts)
    return [checksum(blocks), since]


def _store(image: Path, part: Manifest) -> LabelStore:
    layout = layout_of(part)
    layout = object_layout(layout) if image.name == OBJECTS else layout
    return LabelStore(image, layout, part.output.get("time", 0))


def is_whole(block: Block, stores: list[LabelStore]) -> bool:
    """Return whether a block is on the disk as it was written, later edits aside.

    Without the edges, which a finished run does not keep, the labels are compared.
    """
    try:
        parts = [s.as_written(block.start, block.stop, block.edits) for s in stores]
    except Exception as error:  # a damaged chunk fails as its codec likes
        check_shortage(error)
        logger.info("%s: block %d: %s", stores, block.start, error)
        return False
    if block.written:
        return [checksum([part]) for part in parts] == block.written[: len(parts)]
    return checksum(parts) == block.checksum


def checksum(parts: Iterable[npt.NDArray[Any]]) -> str:
    """Compute a checksum of labels (and edges); one at a time is in memory."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()[:16]


def finish(
    folder: Path,
    manifest: Manifest,
    blocks: dict[int, Block],
    *,
    keep_edges: bool = False,
) -> Manifest:
    """Write the final manifest, and remove what it makes superfluous."""
    if manifest.objects is not None and manifest.kind != "series":
        sealed = seal(home_of(folder, manifest), replace(manifest, sealed=[]))
        manifest = replace(manifest, sealed=sealed)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    done = replace(manifest.with_blocks(blocks), finished=now)
    done.save(folder)
    tidy(folder, (EDGES,) if keep_edges else ())
    return done


def layout_of(manifest: Manifest) -> Layout:
    """Return the layout of a run's labels on disk."""
    output = manifest.output
    return Layout(
        tuple(output["shape"]),
        np.dtype(output["dtype"]),
        output["axis"],
        output["thickness"],
        output["ome_zarr"],
        output.get("times"),
    )


def object_layout(layout: Layout) -> Layout:
    """Return the layout of the objects of labels on disk."""
    dtype = np.dtype(np.uint32)
    thickness = plan_thickness(layout.shape, layout.axis, dtype.itemsize)
    return replace(layout, dtype=dtype, thickness=thickness)


def grid_volume(volume: Volume) -> Volume:
    """Return a volume with the grid of its labels, without voxels and colours."""
    one = volume.select(c=0) if volume.is_colour else volume
    nothing = np.broadcast_to(np.uint8(0), one.shape)
    return replace(one, data=nothing, channel_names=(), levels=())


def home_of(folder: Path, manifest: Manifest) -> Path:
    """Return the folder that holds the labels: for a time point that of its series."""
    return folder.parents[1] if "time" in manifest.output else folder


def part_folders(folder: Path, manifest: Manifest) -> list[Path]:
    """Return the folders of the runs that a series or a consensus consists of."""
    output = manifest.output
    if manifest.kind == "volume":
        return []
    if manifest.kind == "series":
        return [folder / PARTS / f"t{i:06d}" for i in range(output["times"])]
    return [folder / PARTS / f"along_{axis}" for axis in output["along"]]


class Run:
    """A run folder for reading, finished or not.

    Parameters
    ----------
    folder : path
        As given to `segment_to_folder`.

    Raises
    ------
    FormatError
        If it is not a run folder.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        manifest = read_manifest(self.folder)
        if manifest.finished is None:
            manifest = manifest.with_blocks(recorded_blocks(self.folder))
            try:
                check_manifest(manifest)
            except ValueError as error:
                raise FormatError(
                    f"The records of blocks in {self.folder / BLOCKS} do not fit its "
                    f"{MANIFEST} ({error}); remove them and run the same again."
                ) from error
            begun = [
                Run(part).manifest
                for part in part_folders(self.folder, manifest)
                if (part / MANIFEST).is_file()
            ]
            manifest = replace(manifest, parts=tuple(begun))
        self.manifest: Manifest = manifest

    @property
    def kind(self) -> Kind:
        """Whether this is one volume, a time series, or a consensus."""
        return self.manifest.kind

    @property
    def finished(self) -> bool:
        """Whether the run is finished."""
        return self.manifest.finished is not None

    @property
    def labels_path(self) -> Path:
        """The OME-Zarr label image, which exists from the start of the run."""
        return self.folder / LABELS

    @property
    def instances_path(self) -> Path | None:
        """The OME-Zarr label image of objects, if they were separated."""
        return self.folder / OBJECTS if self.manifest.objects is not None else None

    @property
    def labels(self) -> da.Array:
        """Labels, unsigned [Z, Y, X], of a series [T, Z, Y, X]; lazy."""
        return self._array(LABELS)

    @property
    def instances(self) -> da.Array | None:
        """Objects, uint32 of the labels' shape, lazy; None if not separated."""
        return None if self.instances_path is None else self._array(OBJECTS)

    @property
    def owners(self) -> Owners | None:
        """The prompt of each object, if it was recorded; see `Segmentation`."""
        return Owners.parse(self.manifest.owners)

    @property
    def existence(self) -> npt.NDArray[np.float32]:
        """Existence probabilities, float32, as in `Segmentation`."""
        return self.manifest.existence

    @property
    def p_values(self) -> npt.NDArray[np.float32] | None:
        """How well masks look like their targets, as in `Segmentation`."""
        return self.existence if P_VALUES in self.parameters else None

    @property
    def voxels(self) -> npt.NDArray[np.int64]:
        """Voxels of each prompt, int64 [P, slices]; 0 where not run.

        Of a series [P, T, slices]; of a consensus along the first axis.
        """
        return self.manifest.voxels

    @property
    def prompts(self) -> PromptSet:
        """The prompts."""
        return self.manifest.prompts

    @property
    def parameters(self) -> dict[str, Any]:
        """What the labels depend on, as plain JSON types."""
        made = self.manifest
        precision = made.environment.get("precision")
        return {**made.parameters, "model": made.model, "precision": precision}

    @property
    def edited(self) -> int:
        """Number of voxels of labels and objects that were edited by hand."""
        return sum(edited_voxels(self.folder / name) for name in (LABELS, OBJECTS))

    def _array(self, name: str) -> da.Array:
        path = self.folder / name / "s0"
        if not is_zarr(path):
            raise FormatError(f"{path} is missing; run the same again.")
        recover(path.parent)
        lazy: Any = open_zarr(path).images[0].data
        return cast(da.Array, lazy)


def _prepare(
    folder: Path,
    manifest: Manifest,
    overwrite: bool,
    verify: Callable[[Manifest], None] | None,
) -> Manifest:
    ours, finished = {LOCK, JOB}, (folder / MANIFEST).is_file()
    if finished:
        ours |= {*WRITTEN, REPORT}
        if not overwrite:
            found = read_manifest(folder)
            same = found if verify is None else found.with_states(manifest)
            refuse_differences(folder, same, manifest)
            if verify is not None and (
                found.source.get("path") is None or found.is_touched(manifest)
            ):
                verify(found)
            if same.source != found.source:
                same.save(folder)
            _drop_partial(folder)
            return same
        images = [folder / name for name in (LABELS, OBJECTS)]
        count, what = sum(map(edited_voxels, images)), "voxels that were edited by hand"
        if not count:
            count, what = sum(map(accepted_slices, images)), "slices that were accepted"
        if count:
            raise OutputError(
                f"{folder} has {count} {what}, and is not overwritten; choose another "
                f"folder, or move its folder {EDITS} away."
            )
    if others := [
        p.name for p in folder.iterdir() if p.name not in ours and not _is_leftover(p)
    ]:
        raise OutputError(
            f"{folder} holds other files ({', '.join(sorted(others)[:3])}); choose a "
            "new folder for the run, or move them away."
        )
    if finished:
        for name in (MANIFEST, REPORT, LABELS, OBJECTS, EDITS):
            _remove(folder / name)
        tidy(folder)
    _drop_partial(folder)
    manifest.save(folder)
    return manifest


def tidy(folder: Path, keep: tuple[str, ...] = ()) -> None:
    """Remove what a finished run does not need."""
    for name in {BLOCKS, EDGES, COMPONENTS, PARTS}.difference(keep):
        _remove(folder / name)


def _record_name(start: int) -> str:
    return f"{start:08d}.json"


def _is_leftover(path: Path) -> bool:
    """Return whether a file was left by a run that ended while writing."""
    stores = (LABELS, OBJECTS, EDGES, COMPONENTS)
    lost = path.name in stores and path.is_dir() and not is_zarr(path)
    return lost or path.name.endswith(PARTIAL)


def _drop_partial(folder: Path) -> None:
    """Remove partial files that a crash left."""
    for path in list(folder.rglob(f"*{PARTIAL}")):
        _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
