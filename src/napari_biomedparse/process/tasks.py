"""What the model process does besides the plain run and the preview.

As in `watched`, torch is imported inside functions.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from napari_biomedparse.data.results import SegmentedSlices
from napari_biomedparse.errors import Cancelled
from napari_biomedparse.process.messages import (
    EstimateRequest,
    FinetuneRequest,
    FolderResult,
    SegmentRequest,
    Status,
    Voted,
    Written,
)
from napari_biomedparse.process.watched import planned, send_instances, slabs
from napari_biomedparse.training import load_finetune

if TYPE_CHECKING:
    from napari_biomedparse.engine.engine import Engine
    from napari_biomedparse.networks.network import Network
    from napari_biomedparse.process.serve import WorkerRun
    from napari_biomedparse.runs.recipe import Recipe
    from napari_biomedparse.training.progress import Progress

_REPORT_SECONDS = 0.05


def run_consensus(
    request: SegmentRequest, engine: Engine, run: WorkerRun
) -> Iterator[None]:
    """Run along each axis, send what comes of it, and then what the runs agree on."""
    from napari_biomedparse.networks.weights import model_identity
    from napari_biomedparse.pipeline.parts import check_request, plan_parts, run_parts
    from napari_biomedparse.pipeline.segment import Collector
    from napari_biomedparse.runs.sink import describe_run

    volume, prompts, options = request.volume, request.prompts, request.options
    check_request(volume, options, consensus=True)
    config = engine.model.config
    parts = plan_parts(volume, prompts, options, config=config, consensus=True)
    manifest = describe_run(parts.first, engine, {}, request.model, "0.5")
    parameters = {**manifest.parameters, **parts.parameters()}
    run.send(planned(replace(manifest, parameters=parameters), parts.total))
    yield
    sink = Collector(parts, engine)
    for _, done in run_parts(parts, sink):
        if run.cancelled:
            raise Cancelled("The run was cancelled.")
        run.send(replace(done, edges=None))
    found = sink.result(model_identity(engine.model), engine.precision)
    existence = found.existence[:, 0]
    for start, labels in slabs(found.labels):
        stop = start + len(labels)
        scores = existence[:, start:stop]
        run.send(Voted(SegmentedSlices(start, stop, 0, labels, scores)))
        yield
    if found.instances is not None:
        send_instances(run, found.instances, np.asarray(found.labels))


def run_to_folder(recipe: Recipe, model: Network, run: WorkerRun) -> None:
    """Do a run that reads a file and writes to a folder, here or on a cluster."""
    from napari_biomedparse.runs.folder import Run
    from napari_biomedparse.runs.run import segment_to_folder

    assert recipe.folder is not None
    folder, announced = recipe.folder, False

    def report(done: int, total: int) -> None:
        nonlocal announced
        if run.cancelled:
            raise Cancelled("The run was cancelled.")
        if not announced:
            run.send(planned(Run(folder).manifest, total, folder=folder))
            announced = True
        run.send(Written(done, total))

    result = segment_to_folder(
        recipe.source,
        recipe.prompts,
        folder,
        model,
        recipe.options,
        device=recipe.device,
        channel=recipe.channel,
        time=recipe.time,
        consensus=recipe.consensus,
        scheduler=recipe.scheduler,
        load=recipe.model,
        on_progress=report,
        stopped=lambda: run.cancelled,
    )
    if not announced:  # it was finished before
        start, stop = result.parameters["slices"]
        report(stop - start, stop - start)
    existence, voxels = result.existence, result.voxels
    if result.kind == "consensus":
        existence = existence[:, 0, : voxels.shape[1]]
    run.send(FolderResult(existence, voxels))


def send_estimate(request: EstimateRequest, engine: Engine, run: WorkerRun) -> None:
    """Try a few slices and send what all of them will take."""
    from napari_biomedparse.runs.estimate import estimate_run

    run.send(Status("Trying a few slices…"))
    one = estimate_run(
        request.volume,
        request.prompts,
        engine,
        request.options,
        consensus=request.consensus,
        to_folder=request.to_folder,
    )
    times = request.times
    whole = replace(one, seconds=times * one.seconds, disk=times * one.disk)
    run.send(Status(f"Estimate on {engine.device}: {whole.describe()}."))


def finetune_network(request: FinetuneRequest, run: WorkerRun) -> None:
    """Fine-tune; a cancelled run ends with the best weights so far.

    Raises
    ------
    BiomedParseError
        As `napari_biomedparse.finetune` does; also if packages are missing.
    """
    finetune = load_finetune()
    last = 0.0
    measured: float | None = None

    def report_case(name: str, number: int, count: int) -> None:
        run.send(Status(f"Reading {name} ({number + 1} of {count})…"))

    def report(now: Progress) -> None:
        nonlocal last, measured
        if now.val_loss != measured or time.monotonic() - last > _REPORT_SECONDS:
            last, measured = time.monotonic(), now.val_loss
            run.send(now)

    result = finetune(
        request.data,
        request.output,
        request.checkpoint,
        request.options,
        device=request.device,
        on_case=report_case,
        on_progress=report,
        stop=lambda: run.cancelled,
    )
    best = {name: float(value) for name, value in result.best.items()}
    run.send(replace(result, best=best))
