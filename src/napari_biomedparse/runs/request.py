"""Requests of runs in a folder, which can be sent to a cluster, and doing them.

A single volume lies in the folder itself. Each time point of a series, and the run
along each axis of a consensus, is a run of its own in the folder's ``parts``, so that
what holds for one volume holds for these, too. Once all are finished, their records
become part of the folder's manifest.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, closing
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from napari_biomedparse.data.options import OptionChanges
from napari_biomedparse.data.results import Owners
from napari_biomedparse.data.volume import Volume
from napari_biomedparse.engine.devices import check_not_forked
from napari_biomedparse.engine.engine import Engine
from napari_biomedparse.errors import OptionError, needs_extra
from napari_biomedparse.io.durable import (
    check_folder,
    refuse_inputs,
    refuse_links,
    writing,
)
from napari_biomedparse.io.formats.ome_labels import (
    LabelStore,
    OmeVersion,
    create_labels,
)
from napari_biomedparse.io.identity import chunk_states, identify
from napari_biomedparse.networks.weights import load_model
from napari_biomedparse.pipeline.plan import (
    Part,
    PartsPlan,
    Times,
    choose_input,
    plan_parts,
    run_parts,
    vote,
)
from napari_biomedparse.runs.blocks import (
    FilledBlock,
    grid_volume,
    never,
    open_stores,
    run_blocks,
    unfinished,
    write_block,
    write_objects,
)
from napari_biomedparse.runs.folder import (
    LABELS,
    OBJECTS,
    Run,
    finish,
    layout_of,
    mended,
    object_layout,
    open_folder,
    part_folders,
    verified_blocks,
)
from napari_biomedparse.runs.manifest import Block, Manifest, describe_run
from napari_biomedparse.runs.sources import check_same, refuse_changed

if TYPE_CHECKING:
    from distributed import Client

    from napari_biomedparse.data.options import SegmentOptions
    from napari_biomedparse.data.prompts import PromptSet
    from napari_biomedparse.data.volume import VolumeLike
    from napari_biomedparse.networks.network import Network
    from napari_biomedparse.pipeline.plan import RunPlan

Progress = Callable[[int, int], None]
"""Called with the number of finished slices, and of all."""
DoBlocks = Callable[
    ["RunPlan", Path, Manifest, Iterable[tuple[int, int]]], Iterator[Block]
]
"""Runs ranges of slices; see `blocks_on_cluster`."""


@dataclass(frozen=True)
class FolderOptions:
    """What of a volume goes to a run folder, and where and how it is computed.

    Parameters
    ----------
    device : str
        "auto", "cpu", "cuda", "cuda:1", "mps", ...
    channel : int or str, optional
        Which channel; needed where there are several.
    time : int or pair of int, optional
        One time point, or the first and the one after the last; by default all. One
        is segmented as a volume of its own.
    consensus : bool
        Whether to run along each axis and let the three runs vote.
    force : bool
        Whether to form a consensus of a volume that is not isotropic, too.
    ome_zarr : {"0.5", "0.4"}
        Version of the label images.
    overwrite : bool
        Whether another run in the folder is replaced.
    load : str or path, optional
        Name or path by which a network that is given as such can be loaded again.
    scheduler : str or distributed.Client, optional
        Address or client of a cluster that does the run. It must see the volume and
        the folder under the same paths. The run continues if this process ends, and
        the same call, also without `scheduler`, attaches to it.
    workers : int, optional
        Number of local worker processes. A script that asks for them must guard its
        main part by ``if __name__ == "__main__":``.

    Raises
    ------
    OptionError
        If there is no such version of OME-Zarr.
    """

    device: str = "auto"
    channel: int | str | None = None
    time: Times = None
    consensus: bool = False
    force: bool = False
    ome_zarr: OmeVersion = "0.5"
    overwrite: bool = False
    load: str | os.PathLike[str] | None = None
    scheduler: str | Client | None = None
    workers: int | None = None

    def __post_init__(self) -> None:
        """Refuse an unknown version."""
        if self.ome_zarr not in get_args(OmeVersion):
            raise OptionError(
                f"OME-Zarr can be written as 0.4 or 0.5, not {self.ome_zarr!r}."
            )


class FolderChanges(OptionChanges, total=False):
    """Single fields of `FolderOptions` and `SegmentOptions`, as keywords."""

    device: str
    channel: int | str | None
    time: Times
    consensus: bool
    force: bool
    ome_zarr: OmeVersion
    overwrite: bool
    load: str | os.PathLike[str] | None
    scheduler: str | Client | None
    workers: int | None


def split_changes(
    options: FolderOptions | None, changes: Mapping[str, Any]
) -> tuple[FolderOptions, dict[str, Any]]:
    """Return folder options with their changes, and the remaining changes."""
    names = {item.name for item in fields(FolderOptions)}
    ours = {name: value for name, value in changes.items() if name in names}
    others = {name: value for name, value in changes.items() if name not in names}
    return replace(options or FolderOptions(), **ours), others


@dataclass(frozen=True)
class RunRequest:
    """A run in a folder; its fields are the arguments of `segment_to_folder`."""

    volume: str | os.PathLike[str] | VolumeLike
    prompts: PromptSet
    folder: Path
    model: str | os.PathLike[str] | Network
    options: SegmentOptions
    how: FolderOptions = FolderOptions()

    @property
    def path(self) -> Path | None:
        """The volume's path, if it is given by one."""
        volume = self.volume
        return Path(volume) if isinstance(volume, str | os.PathLike) else None

    def words(self) -> dict[str, str]:
        """Return, as text, what distinguishes this run from others."""
        volume: Any = self.volume
        if self.path is not None:
            volume = self.path.absolute()
        elif isinstance(volume, Volume):
            volume = volume.source or volume.name
        else:
            volume = "an array"
        model = self.how.load or self.model
        if not isinstance(model, str | os.PathLike):
            model = type(model).__name__
        words = {
            "volume": volume,
            "prompts": {
                label: self.prompts.texts[self.prompts.ids.index(label)]
                for label in self.prompts.ranked
            },
            "model": os.fspath(model),
            "channel": self.how.channel,
            "time": self.how.time,
            "consensus": self.how.consensus,
            "ome_zarr": self.how.ome_zarr,
            **asdict(self.options),
        }
        if self.options.instances is None:
            words["instances"] = self.prompts.instance
        return {key: str(value) for key, value in words.items()}


def do_request(
    request: RunRequest,
    client: Client | None,
    on_progress: Progress | None,
    stopped: Callable[[], bool] = never,
) -> Run:
    """Do a run, its blocks on a cluster if a client of one is given."""
    check_folder(request.folder)
    how, chosen = request.how, {}
    if request.path is not None:
        times = list(how.time) if isinstance(how.time, tuple) else how.time
        chosen = {"channel": how.channel, "time": times}
        if how.overwrite:
            refuse_inputs(request.folder, [request.path])
    opened = choose_input(
        request.volume,
        request.options,
        channel=how.channel,
        time=how.time,
        consensus=how.consensus,
        force=how.force,
    )
    local, kind = how.device, None
    do: DoBlocks | None = None
    model = how.load or request.model
    if client is not None:
        with cluster_packages():
            from napari_biomedparse.runs import cluster
        local, kind = "cpu", cluster.kind_of_device(client, how.device)
        do = partial(
            cluster.blocks_on_cluster,
            client,
            model=model,
            device=how.device,
            stopped=stopped,
        )
    network: Any = request.model
    if isinstance(network, str | os.PathLike):
        check_not_forked()
        network = load_model(network)
    # A run sees each slice once: remembered features would only take room.
    engine = Engine(network, local, seed=request.options.seed, cache_bytes=0)
    parts = plan_parts(
        opened,
        request.prompts,
        request.options,
        config=engine.model.config,
        consensus=how.consensus,
    )
    return parts_to_folder(
        parts,
        request.folder,
        Execution(engine, chosen, _load_name(model), how.ome_zarr, kind, do, stopped),
        overwrite=how.overwrite,
        on_progress=on_progress,
    )


@dataclass(frozen=True)
class Execution:
    """How a request is run, and what its record says besides its plans."""

    engine: Engine
    chosen: Mapping[str, Any]
    """Channel and time point if chosen from a file."""
    load: str | None
    """Name or path by which the network can be loaded again."""
    ome_zarr: OmeVersion = "0.5"
    kind: str | None = None
    """Of the devices that compute, if not the engine's."""
    do: DoBlocks | None = None
    """Runs blocks elsewhere; without it the engine runs them here."""
    stopped: Callable[[], bool] = never
    """Polled: whether the rest is no longer wanted."""

    def describe(self, plan: RunPlan) -> Manifest:
        """Make the manifest of a plan's run before it begins."""
        return describe_run(
            plan, self.engine, self.chosen, self.load, self.ome_zarr, kind=self.kind
        )


def parts_to_folder(
    parts: PartsPlan,
    folder: Path,
    execution: Execution,
    *,
    overwrite: bool = False,
    on_progress: Progress | None = None,
) -> Run:
    """Run what is missing of a request in a folder, new or begun."""
    source = parts.first.volume if parts.series is None else parts.series.volume
    chosen = {**execution.chosen, **chunk_states(source)}
    execution = replace(execution, chosen=chosen)
    first = execution.describe(parts.first)
    whole = replace(first, parameters=parts.parameters())
    if parts.series is not None:
        output = first.output | {"times": len(parts.keys)}
        known = identify(source, first.source["voxels"]) | chosen
        whole = replace(whole, source=known, output=output)
    if parts.kind == "consensus":
        whole = replace(whole, output=first.output | {"along": list(parts.keys)})

    def verify(found: Manifest) -> None:
        record = Run(folder).manifest
        for part, one in zip(parts, record.parts or (record,), strict=False):
            if one.blocks:
                refuse_changed(folder, part.plan, found, whole, one.blocks)

    with open_folder(folder, whole, overwrite=overwrite, verify=verify) as found:
        if found.finished is not None:
            found = mended(folder, found)
        if found.finished is None:
            sink = FolderSink(parts, folder, found, execution, first)
            with closing(run_parts(parts, sink.run)) as blocks:
                for _ in blocks:
                    if on_progress is not None:
                        on_progress(sink.done, parts.total)
            sink.combine()
    return Run(folder)


class FolderSink:
    """Writes the parts of a request to an open run folder; a `Sink`.

    `manifest` is the folder's, `first` that of the first part's run. The attribute
    `done` is the number of finished slices.
    """

    def __init__(
        self,
        parts: PartsPlan,
        folder: Path,
        manifest: Manifest,
        execution: Execution,
        first: Manifest,
    ) -> None:
        self._parts, self._folder, self._manifest = parts, folder, manifest
        self._execution, self._first = execution, first
        self._finished: list[Manifest] = []
        self._runs: list[list[LabelStore]] = []
        self.done = 0
        if parts.series is not None:
            self._create_series()
        if parts.kind == "consensus":  # can be looked at before the vote
            self._stores = open_stores(parts.first, manifest, folder)

    def run(self, part: Part) -> Generator[Block]:
        """Run what is missing of a part; yield each block once it is on the disk."""
        plan = part.plan
        if self._parts.kind == "volume":
            yield from self._run(plan, self._folder, self._manifest)
            return
        first = part.number == 0
        one = self._first if first else self._execution.describe(plan)
        if self._parts.kind == "series":
            output = self._manifest.output | {"time": part.number}
            one = replace(one, output=output)
        place = part_folders(self._folder, self._manifest)[part.number]
        before = self.done
        refuse_links(place.parent, place)
        with open_folder(
            place, one, overwrite=False, verify=lambda _: None
        ) as found:  # which was compared with all others
            if found.finished is None:
                yield from self._run(plan, place, found)
        self.done = before + plan.stop - plan.start
        self._finished.append(Run(place).manifest)
        if self._parts.kind == "consensus":
            self._runs.append(open_stores(plan, self._finished[-1], place))

    def _run(self, plan: RunPlan, folder: Path, manifest: Manifest) -> Generator[Block]:
        execution, before = self._execution, self.done
        keep_edges = self._parts.kind == "consensus"
        stores = open_stores(plan, manifest, folder)
        blocks = verified_blocks(folder, stores)
        ranges = unfinished(plan, manifest, blocks)
        if execution.do is not None:
            new = execution.do(plan, folder, manifest, ranges)
        else:
            new = chain.from_iterable(
                run_blocks(
                    plan, execution.engine, folder, stores, *span, execution.stopped
                )
                for span in ranges
            )
        for block in new:
            blocks[block.start] = block
            self.done = before + sum(b.stop - b.start for b in blocks.values())
            yield block
        if plan.instances and not keep_edges:
            manifest = write_objects(folder, plan, manifest, stores, blocks)
        if self._parts.kind == "volume":
            check_same(plan.volume, manifest, [(plan, blocks.values())])
        with writing(folder):
            for store in stores:
                store.sync()  # they are still there
        finish(folder, manifest, blocks, keep_edges=keep_edges)

    def combine(self) -> None:
        """Finish the whole from its finished parts."""
        parts, first = self._parts, self._parts.first
        if parts.kind == "volume":
            return
        source = first.volume if parts.series is None else parts.series.volume
        plans = (part.plan for part in parts)
        blocks_of = (one.blocks for one in self._finished)
        check_same(source, self._manifest, zip(plans, blocks_of, strict=True))
        found = replace(self._manifest, parts=tuple(self._finished))
        blocks: dict[int, Block] = {}
        if parts.kind == "consensus":
            blocks = self._vote()
        if first.instances:
            count = sum(one.objects or 0 for one in self._finished)
            found = replace(found, objects=count)
            if parts.kind == "consensus":
                found = write_objects(self._folder, first, found, self._stores, blocks)
            else:
                found = self._name_objects(found)
        finish(self._folder, found, blocks)

    def _create_series(self) -> None:
        """Make the empty label images, with an axis of time, that the parts fill."""
        parts, plan, layout = self._parts, self._parts.first, layout_of(self._manifest)
        assert parts.series is not None
        one = grid_volume(plan.volume)
        nothing = np.broadcast_to(np.uint8(0), (len(parts.keys), *one.shape))
        grid = parts.series.over_time(one, nothing)
        with writing(self._folder):
            prompts = replace(plan.prompts, instance=False)
            create_labels(self._folder / LABELS, layout, grid, prompts)
            if plan.instances:
                layout, prompts = object_layout(layout), replace(prompts, instance=True)
                create_labels(self._folder / OBJECTS, layout, grid, prompts)

    def _name_objects(self, manifest: Manifest) -> Manifest:
        """Record what objects with the same number have in common over time."""
        known = [Owners.parse(one.owners) for one in self._finished]
        owners = Owners.common([one for one in known if one is not None])
        if owners is None or None in known:
            return manifest
        store = LabelStore(self._folder / OBJECTS, object_layout(layout_of(manifest)))
        with writing(self._folder):
            store.name_objects(owners)
            store.sync()
        return replace(manifest, owners=owners.describe())

    def _vote(self) -> dict[int, Block]:
        """Let three runs vote, block by block; return the blocks, by start."""
        plan, stores = self._parts.first, self._stores
        layout, existence = stores[0].layout, self._finished[0].existence
        blocks = verified_blocks(self._folder, stores)
        for begin, end in unfinished(plan, self._manifest, blocks):
            for start in range(begin, end, layout.thickness):
                stop = layout.block(start)[1]
                found = [
                    vote(*(run[kind][(slice(start, stop),)] for run in self._runs))
                    for kind in range(len(stores))
                ]
                scores = existence[:, start:stop]
                block = FilledBlock(start, stop, start, found, scores)
                blocks[start] = write_block(plan, self._folder, stores, block)
        return blocks


def cluster_packages() -> AbstractContextManager[None]:
    """Name what to install if an import of a cluster's packages fails."""
    return needs_extra("cluster", "Clusters")


def _load_name(model: str | os.PathLike[str] | Network) -> str | None:
    """Return a name by which the model can be loaded again, from any folder."""
    if not isinstance(model, str | os.PathLike):
        return None
    path = Path(model)
    return str(path.absolute()) if path.exists() else os.fspath(model)
