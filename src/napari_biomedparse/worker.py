"""The model process: ``python -m napari_biomedparse.worker``, started by `remote`.

It keeps one model, takes one run at a time from its stdin, runs `segment`'s own loop
on an array that asks the other side for its voxels, and writes labels to its stdout as
they are finished. It ends when its stdin does.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np

from napari_biomedparse.remote.serve import Cancelled, Job, serve
from napari_biomedparse.remote.wire import Connection

if TYPE_CHECKING:
    import numpy.typing as npt

    from napari_biomedparse.engine import Engine
    from napari_biomedparse.model.biomedparse import BiomedParse
    from napari_biomedparse.options import SegmentOptions
    from napari_biomedparse.plan import RunPlan
    from napari_biomedparse.prompts import PromptSet
    from napari_biomedparse.slices import SegmentedSlices
    from napari_biomedparse.volume import Volume

_SLAB_BYTES = 2**26
_REPORT_SECONDS = 0.5


class Network:
    """Does runs with `segment`'s own loop and keeps the model between them."""

    def __init__(self) -> None:
        self._key: tuple[str, str, int] | None = None
        self._engine: Any = None

    def __call__(
        self, volume: Volume | None, prompts: PromptSet, job: Job
    ) -> Generator[None, None, None]:
        """Do one run; a `Segment`."""
        # torch takes seconds to import: the other side is told what it waits for.
        job.say("status", text="Starting the network's process…")
        from napari_biomedparse.options import SegmentOptions
        from napari_biomedparse.plan import plan_run
        from napari_biomedparse.segment import run_plan

        options = SegmentOptions(**job.fields["options"])
        yield
        engine = self._ready_engine(job, options.seed)
        yield
        job.say("status", text="Looking at the grey levels…")
        if volume is None:
            run_to_folder(prompts, options, engine.model, job)
            return
        if "estimate" in job.fields:
            say_estimate(volume, prompts, options, engine, job)
            return
        if job.fields["consensus"]:
            yield from run_consensus(volume, prompts, options, engine, job)
            return
        plan = plan_run(volume, prompts, options, config=engine.model.config)
        _say_planned(job, plan, engine)
        objects = Objects(plan) if plan.instances else None
        yield
        parts = cast("Generator[SegmentedSlices, None, None]", run_plan(plan, engine))
        with contextlib.closing(parts):
            for part in parts:
                arrays = (part.labels, part.existence)
                job.say("slices", arrays=arrays, **_where(part))
                if objects is not None:
                    objects.add(part)
                yield
        if objects is not None:
            job.say("status", text="Separating objects…")
            objects.say(job)

    def _ready_engine(self, job: Job, seed: int) -> Any:
        from napari_biomedparse.engine import Engine
        from napari_biomedparse.weights import load_model

        name, device = job.fields["model"], job.fields["device"]
        if self._key is None or self._key[0] != name:
            self._key = self._engine = None  # before the next model takes its room
            job.say("status", text=f"Loading the model {name}…")
            model = load_model(name, on_progress=_download_report(job))
        else:
            model = self._engine.model
        if self._key != (name, device, seed):
            self._engine = Engine(model, device, seed=seed)
            self._key = (name, device, seed)
        return self._engine


def say_estimate(
    volume: Volume,
    prompts: PromptSet,
    options: SegmentOptions,
    engine: Engine,
    job: Job,
) -> None:
    """Try a few slices and say what all of them will take."""
    from napari_biomedparse.estimate import estimate_run

    job.say("status", text="Trying a few slices…")
    said = job.fields["estimate"]
    one = estimate_run(
        volume,
        prompts,
        engine,
        options,
        consensus=job.fields["consensus"],
        to_folder=said["to_folder"],
    )
    times = said["times"]
    whole = replace(one, seconds=times * one.seconds, disk=times * one.disk)
    job.say("status", text=f"Estimate on {engine.device}: {whole.describe()}.")


def run_to_folder(
    prompts: PromptSet, options: SegmentOptions, model: BiomedParse, job: Job
) -> None:
    """Do a run that reads a file and writes to a folder, here or on a cluster."""
    from napari_biomedparse.runs.run import segment_to_folder

    said, planned = job.fields, False
    folder = Path(said["folder"])

    def tell(done: int, total: int) -> None:
        nonlocal planned
        if job.cancelled:
            raise Cancelled
        if not planned:
            _say_planned_folder(job, folder, total)
            planned = True
        job.say("written", done=done, total=total)

    run = segment_to_folder(
        said["source"],
        prompts,
        folder,
        model,
        options,
        device=said["device"],
        channel=said["channel"],
        time=said["time"],
        consensus=said["consensus"],
        scheduler=said["scheduler"],
        load=said["model"],
        on_progress=tell,
    )
    if not planned:  # it was finished before
        start, stop = run.parameters["slices"]
        tell(stop - start, stop - start)
    existence, voxels = run.existence, run.voxels
    if run.kind == "consensus":
        existence = existence[:, 0, : voxels.shape[1]]
    job.say("found", arrays=(existence, voxels))


def _say_planned_folder(job: Job, folder: Path, total: int) -> None:
    """Tell what a run's folder says of it."""
    from napari_biomedparse.runs.folder import Run

    manifest = Run(folder).manifest
    used = manifest.parameters
    start, stop = used["slices"]
    device = manifest.environment["device"]
    job.say(
        "planned",
        axis=manifest.output["axis"],
        start=start,
        stop=stop,
        total=total,
        intensity=used["intensity"],
        truncated=used["truncated_prompts"],
        parameters={**used, "model": manifest.model, "device": device},
        provenance={
            "source": manifest.source,
            "model": manifest.model,
            "load": manifest.load,
            "parameters": used,
            "environment": manifest.environment,
        },
        folder=str(folder),
    )


def run_consensus(
    volume: Volume,
    prompts: PromptSet,
    options: SegmentOptions,
    engine: Engine,
    job: Job,
) -> Iterator[None]:
    """Run along each axis, show what comes of it, and then what the runs agree on."""
    from napari_biomedparse.consensus import segment_consensus
    from napari_biomedparse.plan import plan_run

    first = replace(options, axis=0) if options.axis is None else options
    plan = plan_run(volume, prompts, first, config=engine.model.config)
    _say_planned(
        job,
        plan,
        engine,
        total=sum(volume.grid),
        parameters={"axis": None, "slicing_axis": "consensus"},
    )
    yield

    def watch(axis: str, part: SegmentedSlices) -> None:
        if job.cancelled:
            raise Cancelled
        job.say("slices", arrays=(part.labels, part.existence), **_where(part))

    found = segment_consensus(volume, prompts, engine, options, watch=watch)
    existence = found.existence[volume.axes[0]]
    for start, labels in _slabs(found.labels):
        at = {"start": start, "stop": start + len(labels), "axis": 0}
        scores = existence[:, start : start + len(labels)]
        job.say("voted", arrays=(labels, scores), **at)
        yield
    if found.instances is not None:
        say_objects(job, found.instances, np.asarray(found.labels))


def _say_planned(
    job: Job,
    plan: RunPlan,
    engine: Engine,
    *,
    total: int | None = None,
    parameters: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Tell what is about to be computed, in the words of a run's manifest."""
    from napari_biomedparse.runs.volume_run import describe_run

    manifest = describe_run(plan, engine, {}, job.fields["model"], "0.5")
    used = {**manifest.parameters, **parameters}
    job.say(
        "planned",
        axis=plan.geometry.axis,
        start=plan.start,
        stop=plan.stop,
        total=plan.stop - plan.start if total is None else total,
        intensity=plan.intensity.describe(),
        truncated=plan.truncated,
        parameters={
            **used,
            "model": manifest.model,
            "device": manifest.environment["device"],
        },
        provenance={
            "source": manifest.source,
            "model": manifest.model,
            "load": manifest.load,
            "parameters": used,
            "environment": manifest.environment,
        },
    )


def _where(part: SegmentedSlices) -> dict[str, int]:
    return {"start": part.start, "stop": part.stop, "axis": part.axis}


def _slabs(array: Any) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """Cut an array along its first axis to what can be sent at once."""
    plane = math.prod(array.shape[1:]) * array.dtype.itemsize
    thickness = max(1, _SLAB_BYTES // max(1, plane))
    for start in range(0, len(array), thickness):
        yield start, np.asarray(array[start : start + thickness])


def _download_report(job: Job) -> Callable[[int, int], None]:
    """Make what `load_model` tells its progress to."""
    last = 0.0

    def report(done: int, total: int) -> None:
        nonlocal last
        if job.cancelled:
            raise Cancelled
        if time.monotonic() - last > _REPORT_SECONDS:
            last = time.monotonic()
            sizes = f"{done / 1e9:.2f} of {total / 1e9:.2f} GB"
            job.say("status", text=f"Downloading the weights: {sizes}")

    return report


class Objects:
    """Collects labels and edges of a run whose objects are to be told apart.

    Parameters
    ----------
    plan : RunPlan
    """

    def __init__(self, plan: RunPlan) -> None:
        self._labels = np.zeros(plan.geometry.shape, plan.label_dtype)
        self._edges = np.zeros_like(self._labels)

    def add(self, part: SegmentedSlices) -> None:
        """Keep finished slices."""
        self._labels[part.where] = part.labels
        self._edges[part.where] = part.edges

    def say(self, job: Job) -> None:
        """Separate the objects and send them, a slab at a time."""
        from napari_biomedparse.instances import split_instances

        objects = split_instances(self._labels, self._edges)
        # Objects grow a voxel beyond their own label, so that only their inside tells.
        inside = np.where(self._edges == 0, self._labels, 0)
        say_objects(job, objects, inside)


def say_objects(
    job: Job, objects: npt.NDArray[np.int32], labels: npt.NDArray[Any]
) -> None:
    """Send objects, and which label each belongs to, a slab at a time."""
    count = int(objects.max()) + 1
    owners, most = np.zeros(count, labels.dtype), np.zeros(count, np.int64)
    for label in np.unique(labels[labels > 0]):
        voxels = np.bincount(objects[labels == label], minlength=count)
        owners[voxels > most] = label
        most = np.maximum(most, voxels)
    owners[0] = 0
    for start, slab in _slabs(objects):
        job.say("objects", arrays=(slab, owners), start=start)


def private_stdout() -> BinaryIO:
    """Keep stdout for messages; whatever libraries print goes to stderr."""
    stream = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return stream


def main() -> None:
    """Serve the process that started this one."""
    connection = Connection(sys.stdin.buffer, private_stdout())
    # A run may be deep in a slice when the other side goes: nothing waits for it.
    serve(connection, Network(), on_end=lambda: os._exit(0))


if __name__ == "__main__":
    main()
