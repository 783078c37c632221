"""Runs that are watched in napari: they start at the slice in view and can be changed.

As in `worker`, torch is imported inside functions.
"""

from __future__ import annotations

import contextlib
import math
from collections import OrderedDict
from collections.abc import Generator, Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from cachetools import LRUCache

from napari_biomedparse.data.results import SegmentedSlices
from napari_biomedparse.errors import Cancelled
from napari_biomedparse.pipeline.plan import spans
from napari_biomedparse.process.messages import (
    Counted,
    Instances,
    Learned,
    Planned,
    Previewed,
    Recognized,
    Status,
)

if TYPE_CHECKING:
    import numpy.typing as npt

    from napari_biomedparse.data.results import Owners, Span
    from napari_biomedparse.engine.engine import Engine
    from napari_biomedparse.pipeline.plan import RunPlan
    from napari_biomedparse.pipeline.scores import ScoreStore
    from napari_biomedparse.process.messages import (
        PreviewRequest,
        SegmentRequest,
        TeachRequest,
        VolumeRequest,
    )
    from napari_biomedparse.process.serve import RemoteArray, WorkerRun
    from napari_biomedparse.runs.manifest import Manifest
    from napari_biomedparse.slicing.intensity import Intensity

_SLAB_BYTES = 2**26
_INTENSITIES_KEPT = 16
"""Volumes whose grey levels need not be examined again."""


class Live:
    """Does previews and runs, and keeps what the next one may need of them."""

    def __init__(self) -> None:
        self._intensities: LRUCache[tuple[object, ...], Intensity]
        self._intensities = LRUCache(_INTENSITIES_KEPT)
        self._stores: OrderedDict[int, ScoreStore] = OrderedDict()

    def _plan(self, request: VolumeRequest, engine: Engine, run: WorkerRun) -> RunPlan:
        """Plan a run; the grey levels of a volume are examined once."""
        from napari_biomedparse.pipeline.plan import plan_run

        options = request.options
        number = cast("RemoteArray", request.volume.data).number
        key = (number, options.modality, options.region)
        if key not in self._intensities:
            run.send(Status("Examining the grey levels…"))
        plan = plan_run(
            request.volume,
            request.prompts,
            options,
            config=engine.model.config,
            intensity=self._intensities.get(key),
        )
        self._intensities[key] = plan.intensity
        return plan

    def preview(self, request: PreviewRequest, engine: Engine, run: WorkerRun) -> None:
        """Segment one slice and send it."""
        from napari_biomedparse.pipeline.preview import preview

        plan = self._plan(request, engine, run)
        slices, probabilities = preview(plan, engine, request.index)
        likeliest = None
        if request.probabilities:
            likeliest = np.expand_dims(probabilities.max(axis=0), slices.axis)
        run.send(Previewed(replace(slices, edges=None), likeliest))

    def run(
        self, request: SegmentRequest, engine: Engine, run: WorkerRun
    ) -> Generator[None]:
        """Do a run, or what is left of it, or finished slices with other thresholds."""
        from napari_biomedparse.pipeline.plan import Part, single
        from napari_biomedparse.pipeline.segment import Collector
        from napari_biomedparse.runs.manifest import describe_run

        plan = self._plan(request, engine, run)
        every = set(range(plan.start, plan.stop))
        finished = _indices(request.done) & every
        store = self._store_of(plan, request, run)

        def held(indices: set[int]) -> set[int]:
            if not engine.model.reads_kept:
                return set()
            return {index for index in indices if store.has(index, index + 1)}

        stored = held(finished)
        silent: set[int] = set()
        if request.again:
            replay, network, kept = stored, finished - stored, set[int]()
        else:
            kept = stored if plan.instances else finished
            # Objects are separated in all slices, those of earlier runs included.
            replay = silent = set(kept) if plan.instances else set()
            network = every - kept
        total = len(finished if request.again else every)
        manifest = describe_run(plan, engine, {}, request.model, "0.5")
        run.send(planned(manifest, total, tuple(spans(kept))))
        whole, sink = Part(0, None, plan), None
        if plan.instances:
            sink = Collector(single(plan), in_memory=True)
            sink.begin(whole)
        yield
        done: set[int] = set()
        while replay or network:
            steps = _steps(plan, engine, run, store, replay, network)
            with contextlib.closing(steps):
                for part in steps:
                    indices = set(range(part.start, part.stop))
                    replay, network = replay - indices, network - indices
                    done |= indices
                    if sink is not None:
                        sink.add(whole, part)
                    if not indices <= silent:
                        run.send(replace(part, edges=None))
                    yield
                    if (options := run.take_retuned()) is not None:
                        plan = replace(plan, options=options)
                        again = done | kept
                        replay = held(again)
                        network |= again - replay
                        silent = set()
                        break
        if sink is not None:
            run.send(Status("Separating objects…"))
            sink.end(replace(whole, plan=plan))
            send_instances(run, sink.instances, sink.owners[0])

    def teach(self, request: TeachRequest, engine: Engine, run: WorkerRun) -> None:
        """Learn from corrected slices, whose features a run may have kept."""
        from napari_biomedparse.learning.teach import teach_plan

        plan = self._plan(request, engine, run)
        store = self._stores.get(request.earlier or 0)
        count = len(request.corrected)
        run.send(Status(f"Learning from {count} corrected slice{'s' * (count > 1)}…"))
        corrected = dict(zip(request.corrected, request.labels, strict=True))

        def step() -> None:
            if run.cancelled:
                raise Cancelled("The teaching was cancelled.")

        taught = teach_plan(plan, engine, corrected, store, on_step=step)
        path = taught.save(request.output, overwrite=True)
        lessons = taught.lessons
        texts, before, after = (
            tuple(getattr(one, name) for one in lessons)
            for name in ("text", "dice_text", "dice_taught")
        )
        run.send(Learned(path, taught.slices, texts, before, after))

    def recognize(
        self, request: SegmentRequest, engine: Engine, run: WorkerRun
    ) -> Generator[None]:
        """Look for all targets of a kind of image in one slice."""
        from napari_biomedparse.pipeline.recognize import LOWEST_P, recognize_slice
        from napari_biomedparse.runs.manifest import describe_run

        options = replace(request.options, kind=request.kind)
        plan = self._plan(replace(request, options=options), engine, run)
        total = len(request.prompts)
        manifest = describe_run(plan, engine, {}, request.model, "0.5")
        facts = {"recognized": request.kind, "lowest_p": LOWEST_P}
        parameters = {**manifest.parameters, **facts}
        run.send(planned(replace(manifest, parameters=parameters), total))
        yield

        def count(done: int) -> None:
            if run.cancelled:
                raise Cancelled("The recognition was cancelled.")
            run.send(Counted(done, total))

        found = recognize_slice(plan, engine, on_target=count)
        axis = plan.geometry.axis
        labels = np.expand_dims(found.labels, axis)
        scores = np.array([found.p_values], np.float32).T
        run.send(SegmentedSlices(plan.start, plan.stop, axis, labels, scores))
        run.send(Recognized(found.p_values, found.outcomes))

    def close(self) -> None:
        """Remove what is kept on disk."""
        self._keep_stores(0)

    def _store_of(
        self, plan: RunPlan, request: SegmentRequest, run: WorkerRun
    ) -> ScoreStore:
        """Return the scores of an earlier run, or an empty store."""
        from napari_biomedparse.pipeline.scores import MOST_BYTES, ScoreStore

        store = None
        if request.earlier is not None:
            store = self._stores.pop(request.earlier, None)
        self._keep_stores(request.beside - 1)
        if store is None:
            # With edges, as objects may be wanted later.
            room = MOST_BYTES // request.beside
            store = ScoreStore(replace(plan, instances=True), room)
        self._stores[run.number] = store
        return store

    def _keep_stores(self, count: int) -> None:
        """Remove the oldest."""
        while len(self._stores) > count:
            _, store = self._stores.popitem(last=False)
            store.close()


def _steps(
    plan: RunPlan,
    engine: Engine,
    run: WorkerRun,
    store: ScoreStore,
    replay: set[int],
    network: set[int],
) -> Generator[SegmentedSlices]:
    """Yield slices from the store, then those that need the network."""
    from napari_biomedparse.pipeline.loop import run_plan
    from napari_biomedparse.pipeline.scores import resolve_again

    front = run.front or 0
    order = sorted(replay, key=lambda index: (abs(index - front), index))
    yield from resolve_again(plan, store, order, engine=engine)
    yield from run_plan(
        plan, engine, front=lambda: run.front, only=network, keep=store.add
    )


def _indices(done: Iterable[Span]) -> set[int]:
    return {index for start, stop in done for index in range(start, stop)}


def planned(manifest: Manifest, total: int, kept: tuple[Span, ...] = ()) -> Planned:
    """Return the message of a run that is about to begin, from its manifest."""
    used, environment = manifest.parameters, manifest.environment
    machine = {"device", "precision"} & environment.keys()
    made_by = {name: environment[name] for name in machine}
    return Planned(
        axis=manifest.output["axis"],
        truncated=tuple(used["truncated_prompts"]),
        parameters={**used, "model": manifest.model, **made_by},
        total=total,
        provenance={
            "source": manifest.source,
            "model": manifest.model,
            "load": manifest.load,
            "parameters": used,
            "environment": environment,
        },
        kept=kept,
    )


def send_instances(
    run: WorkerRun, instances: npt.NDArray[np.int32], owners: Owners
) -> None:
    """Send instances, and which label each belongs to, slab by slab."""
    for start, slab in slabs(instances):
        run.send(Instances(start, slab, owners.labels, owners.scores))


def slabs(array: Any) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """Cut an array along its first axis into parts that can be sent at once."""
    plane = math.prod(array.shape[1:]) * array.dtype.itemsize
    thickness = max(1, _SLAB_BYTES // max(1, plane))
    for start in range(0, len(array), thickness):
        yield start, np.asarray(array[start : start + thickness])
