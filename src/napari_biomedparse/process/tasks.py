"""What the model process can do besides the plain run: consensus, folder, estimate.

Like `worker`, it imports torch where it needs it and not before.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_biomedparse.process.serve import Cancelled, Job

if TYPE_CHECKING:
    import numpy.typing as npt

    from napari_biomedparse.data.options import SegmentOptions
    from napari_biomedparse.data.prompts import PromptSet
    from napari_biomedparse.data.results import SegmentedSlices
    from napari_biomedparse.data.volume import Volume
    from napari_biomedparse.engine.engine import Engine
    from napari_biomedparse.networks.network import Network
    from napari_biomedparse.pipeline.plan import RunPlan

_SLAB_BYTES = 2**26


def run_consensus(
    volume: Volume,
    prompts: PromptSet,
    options: SegmentOptions,
    engine: Engine,
    job: Job,
) -> Iterator[None]:
    """Run along each axis, show what comes of it, and then what the runs agree on."""
    from napari_biomedparse.networks.weights import model_identity
    from napari_biomedparse.pipeline.parts import check_request, plan_parts, run_parts
    from napari_biomedparse.pipeline.segment import Collector

    check_request(volume, options, consensus=True)
    config = engine.model.config
    parts = plan_parts(volume, prompts, options, config=config, consensus=True)
    say_planned(
        job, parts.first, engine, total=parts.total, parameters=parts.parameters()
    )
    yield
    sink = Collector(parts, engine)
    for _, done in run_parts(parts, sink):
        if job.cancelled:
            raise Cancelled
        job.say("slices", arrays=(done.labels, done.existence), **where(done))
    found = sink.result(model_identity(engine.model), engine.precision)
    existence = found.existence[:, 0]
    for start, labels in _slabs(found.labels):
        at = {"start": start, "stop": start + len(labels), "axis": 0}
        scores = existence[:, start : start + len(labels)]
        job.say("voted", arrays=(labels, scores), **at)
        yield
    if found.instances is not None:
        say_objects(job, found.instances, np.asarray(found.labels))


def say_planned(
    job: Job,
    plan: RunPlan,
    engine: Engine,
    *,
    total: int | None = None,
    kept: Sequence[tuple[int, int]] = (),
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
        kept=kept,
        intensity=plan.intensity.describe(),
        truncated=plan.truncated,
        parameters={
            **used,
            "model": manifest.model,
            "device": manifest.environment["device"],
            "precision": manifest.environment["precision"],
        },
        provenance={
            "source": manifest.source,
            "model": manifest.model,
            "load": manifest.load,
            "parameters": used,
            "environment": manifest.environment,
        },
    )


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


def run_to_folder(
    prompts: PromptSet, options: SegmentOptions, model: Network, job: Job
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
        stopped=lambda: job.cancelled,
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


def say_estimate(
    volume: Volume,
    prompts: PromptSet,
    options: SegmentOptions,
    engine: Engine,
    job: Job,
) -> None:
    """Try a few slices and say what all of them will take."""
    from napari_biomedparse.runs.estimate import estimate_run

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


def where(part: SegmentedSlices) -> dict[str, int]:
    """Return where slices lie, as a message says it."""
    return {"start": part.start, "stop": part.stop, "axis": part.axis}


def _slabs(array: Any) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """Cut an array along its first axis to what can be sent at once."""
    plane = math.prod(array.shape[1:]) * array.dtype.itemsize
    thickness = max(1, _SLAB_BYTES // max(1, plane))
    for start in range(0, len(array), thickness):
        yield start, np.asarray(array[start : start + thickness])
