"""Runs that somebody watches: they start where the eye is and can be changed later.

Like `worker`, it imports torch where it needs it and not before.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Generator, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_biomedparse.data.results import SegmentedSlices, spans
from napari_biomedparse.process.tasks import say_objects, say_planned, where

if TYPE_CHECKING:
    from napari_biomedparse.data.options import SegmentOptions
    from napari_biomedparse.data.prompts import PromptSet
    from napari_biomedparse.data.volume import Volume
    from napari_biomedparse.engine.engine import Engine
    from napari_biomedparse.pipeline.plan import RunPlan
    from napari_biomedparse.pipeline.scores import ScoreStore
    from napari_biomedparse.process.serve import Job
    from napari_biomedparse.slicing.intensity import Intensity

_GREYS_KEPT = 16
"""Volumes whose grey levels need not be looked at again."""


class Live:
    """Does previews and runs, and keeps what the next one may need of them."""

    def __init__(self) -> None:
        self._greys: OrderedDict[tuple[object, ...], Intensity] = OrderedDict()
        self._stores: OrderedDict[int, ScoreStore] = OrderedDict()

    def plan(
        self,
        volume: Volume,
        prompts: PromptSet,
        options: SegmentOptions,
        engine: Engine,
        job: Job,
    ) -> RunPlan:
        """Plan a run; the grey levels of a volume are looked at once."""
        from napari_biomedparse.pipeline.plan import plan_run

        number = job.fields["volume"]["number"]
        key = (number, options.modality, options.region)
        if key not in self._greys:
            job.say("status", text="Looking at the grey levels…")
        plan = plan_run(
            volume,
            prompts,
            options,
            config=engine.model.config,
            intensity=self._greys.get(key),
        )
        self._greys[key] = plan.intensity
        while len(self._greys) > _GREYS_KEPT:
            self._greys.popitem(last=False)
        return plan

    def preview(self, plan: RunPlan, engine: Engine, job: Job) -> None:
        """Segment one slice and say what is in it."""
        from napari_biomedparse.pipeline.preview import preview

        asked = job.fields["preview"]
        found = preview(plan, engine, asked["at"])
        at, axis = found.index, found.axis
        arrays = [np.expand_dims(found.labels, axis), found.existence[:, None]]
        if asked["probabilities"]:
            likeliest = found.probabilities.max(axis=0)
            arrays.append(np.expand_dims(likeliest, axis))
        job.say("preview", arrays=arrays, start=at, stop=at + 1, axis=axis)

    def run(self, plan: RunPlan, engine: Engine, job: Job) -> Generator[None]:
        """Do a run, or what is left of it, or what is done with other thresholds."""
        said = job.fields
        finished = _indices(said["done"]) & set(range(plan.start, plan.stop))
        store = self._store_of(plan, job)
        stored = {index for index in finished if store.has(index, index + 1)}
        silent: set[int] = set()
        if said["again"]:
            replay, network, kept = stored, finished - stored, set[int]()
        else:
            kept = stored if plan.instances else finished
            # Objects are told apart in all slices, of earlier runs too.
            replay = silent = set(kept) if plan.instances else set()
            network = set(range(plan.start, plan.stop)) - kept
        say_planned(
            job,
            plan,
            engine,
            total=len(finished) if said["again"] else plan.stop - plan.start,
            kept=spans(kept),
        )
        objects = Objects(plan) if plan.instances else None
        yield
        done: set[int] = set()
        while replay or network:
            steps = _steps(plan, engine, job, store, replay, network)
            with contextlib.closing(steps):
                for part in steps:
                    indices = set(range(part.start, part.stop))
                    replay, network = replay - indices, network - indices
                    done |= indices
                    if objects is not None:
                        objects.add(part)
                    if not indices <= silent:
                        arrays = (part.labels, part.existence)
                        job.say("slices", arrays=arrays, **where(part))
                    yield
                    if (options := job.take_retuned()) is not None:
                        plan = replace(plan, options=options)
                        again = done | kept
                        replay = {i for i in again if store.has(i, i + 1)}
                        network |= again - replay
                        silent = set()
                        break
        if objects is not None:
            job.say("status", text="Separating objects…")
            objects.say(job, plan.options.minimum_size)

    def close(self) -> None:
        """Remove what is kept on disk."""
        self._keep_stores(0)

    def _store_of(self, plan: RunPlan, job: Job) -> ScoreStore:
        """Return the scores of an earlier run, or an empty store."""
        from napari_biomedparse.pipeline.scores import MOST_BYTES, ScoreStore

        beside = job.fields["beside"]
        store = self._stores.pop(job.fields["earlier"], None)
        self._keep_stores(beside - 1)
        if store is None:
            # With edges, as somebody may want objects later.
            store = ScoreStore(replace(plan, instances=True), MOST_BYTES // beside)
        self._stores[job.number] = store
        return store

    def _keep_stores(self, count: int) -> None:
        """Remove the oldest."""
        while len(self._stores) > count:
            _, store = self._stores.popitem(last=False)
            store.close()


class Objects:
    """Collects labels and edges of a run whose objects are to be told apart.

    Parameters
    ----------
    plan : RunPlan
    """

    def __init__(self, plan: RunPlan) -> None:
        self._labels = np.zeros(plan.label_shape, plan.label_dtype)
        self._edges = np.zeros_like(self._labels)

    def add(self, part: SegmentedSlices) -> None:
        """Keep finished slices."""
        here: Any = (..., *part.where)
        self._labels[here] = part.labels
        self._edges[here] = part.edges

    def say(self, job: Job, minimum_size: int) -> None:
        """Separate the objects and send them, a slab at a time."""
        from napari_biomedparse.labels.instances import split_instances

        objects = split_instances(self._labels, self._edges, minimum_size)
        # Objects grow a voxel beyond their own label, so that only their inside tells.
        inside = np.where(self._edges == 0, self._labels, 0)
        say_objects(job, objects, inside)


def _steps(
    plan: RunPlan,
    engine: Engine,
    job: Job,
    store: ScoreStore,
    replay: set[int],
    network: set[int],
) -> Generator[SegmentedSlices]:
    """Yield slices from the store, then those that need the network."""
    from napari_biomedparse.pipeline.loop import run_plan
    from napari_biomedparse.pipeline.scores import resolve_again

    front = job.front or 0
    order = sorted(replay, key=lambda index: (abs(index - front), index))
    yield from resolve_again(plan, store, order)
    others = spans(set(range(plan.start, plan.stop)) - network)
    yield from run_plan(plan, engine, front=lambda: job.front, done=others, store=store)


def _indices(spans: Iterable[Iterable[int]]) -> set[int]:
    return {index for start, stop in spans for index in range(start, stop)}
