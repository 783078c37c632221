"""The model process; `bootstrap` executes this file.

It keeps one model, does one run at a time, reads voxels from the other process and
sends labels as they are finished. It ends when the other process does. What a run needs
is imported inside functions, as torch takes seconds and the user reads a status first.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from napari_biomedparse.data.results import SegmentedSlices
from napari_biomedparse.errors import Cancelled
from napari_biomedparse.process.channel import open_channel
from napari_biomedparse.process.messages import (
    Counted,
    EstimateRequest,
    FinetuneRequest,
    FolderRequest,
    FolderResult,
    PreviewRequest,
    SegmentRequest,
    Status,
    TeachRequest,
    VolumeRequest,
    Voted,
)
from napari_biomedparse.process.serve import WorkerRun, serve
from napari_biomedparse.process.watched import Live, planned, send_instances, slabs

if TYPE_CHECKING:
    from napari_biomedparse.engine.engine import Engine
    from napari_biomedparse.networks.network import Network
    from napari_biomedparse.runs.recipe import Recipe
    from napari_biomedparse.training.progress import Progress

_REPORT_SECONDS = 0.5
_STEP_SECONDS = 0.05


class Worker:
    """Does runs, and keeps the model between them."""

    def __init__(self) -> None:
        self._name = self._base_name = ""
        self._base: Network | None = None
        self._key: tuple[str, int, str, int] | None = None
        self._engine: Engine | None = None
        self._live = Live()

    def __call__(self, run: WorkerRun) -> Generator[None]:
        """Do one run; a `Work`."""
        # torch takes seconds to import: the user reads what it waits for.
        run.send(Status("Starting the model process…"))
        yield
        request = run.request
        if isinstance(request, FinetuneRequest):
            _finetune_network(request, run)
            return
        wanted = request.recipe if isinstance(request, FolderRequest) else request
        engine = self._ready_engine(wanted, run)
        yield
        match request:
            case FolderRequest(recipe):
                _run_to_folder(recipe, engine.model, run)
            case TeachRequest():
                self._live.teach(request, engine, run)
            case EstimateRequest():
                _send_estimate(request, engine, run)
            case PreviewRequest():
                self._live.preview(request, engine, run)
            case SegmentRequest(consensus=True):
                yield from _run_consensus(request, engine, run)
            case SegmentRequest() if request.kind:
                yield from self._live.recognize(request, engine, run)
            case SegmentRequest():
                yield from self._live.run(request, engine, run)

    def close(self) -> None:
        """Remove what is kept on disk."""
        self._live.close()

    def _ready_engine(self, wanted: VolumeRequest | Recipe, run: WorkerRun) -> Engine:
        """Return an engine, the same as before if nothing has changed."""
        from napari_biomedparse.engine.engine import CACHE_BYTES, Engine

        name, device = wanted.model, wanted.device
        seed, precision = wanted.options.seed, wanted.options.precision
        room = wanted.cache_bytes if isinstance(wanted, VolumeRequest) else None
        room = CACHE_BYTES if room is None else room
        if self._engine is None or self._name != name:
            self._engine = None  # frees memory for the next model
            model = self._load(name, run)
        else:
            model = self._engine.model
        if self._engine is None or self._key != (device, seed, precision, room):
            self._engine = Engine(
                model, device, seed=seed, precision=precision, cache_bytes=room
            )
            self._name, self._key = name, (device, seed, precision, room)
        return self._engine

    def _load(self, name: str, run: WorkerRun) -> Network:
        """Load a model; the base of what was taught is loaded once."""
        from napari_biomedparse.networks.taught import TaughtNetwork
        from napari_biomedparse.networks.weights import load_model, untaught

        base_name = untaught(name)
        if base_name != self._base_name:
            self._base = None
        if self._base is not None and name == base_name:
            return self._base
        run.send(Status(f"Loading the model {name}…"))
        report = _download_report(run)
        model = load_model(name, on_progress=report, base=self._base)
        self._base = model.base if isinstance(model, TaughtNetwork) else model
        self._base_name = base_name
        return model


def _download_report(run: WorkerRun) -> Callable[[int, int], None]:
    """Return what `load_model` reports its progress to."""
    last = 0.0

    def report(done: int, total: int) -> None:
        nonlocal last
        if run.cancelled:
            raise Cancelled("The download was cancelled.")
        if time.monotonic() - last > _REPORT_SECONDS:
            last = time.monotonic()
            sizes = f"{done / 1e9:.2f} of {total / 1e9:.2f} GB"
            run.send(Status(f"Downloading the weights: {sizes}"))

    return report


def _run_consensus(
    request: SegmentRequest, engine: Engine, run: WorkerRun
) -> Iterator[None]:
    """Run along each axis, send what comes of it, and then what the runs agree on."""
    from napari_biomedparse.networks.weights import model_identity
    from napari_biomedparse.pipeline.plan import choose_input, plan_parts, run_parts
    from napari_biomedparse.pipeline.segment import Collector
    from napari_biomedparse.runs.manifest import describe_run

    prompts, options = request.prompts, request.options
    volume = choose_input(request.volume, options, consensus=True)
    config = engine.model.config
    parts = plan_parts(volume, prompts, options, config=config, consensus=True)
    manifest = describe_run(parts.first, engine, {}, request.model, "0.5")
    parameters = manifest.parameters | parts.together
    run.send(planned(replace(manifest, parameters=parameters), parts.total))
    yield
    sink = Collector(parts, engine)
    for _, done in run_parts(parts, sink.run):
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
    if found.instances is not None and found.owners is not None:
        send_instances(run, found.instances, found.owners)


def _run_to_folder(recipe: Recipe, model: Network, run: WorkerRun) -> None:
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
            run.send(planned(Run(folder).manifest, total))
            announced = True
        run.send(Counted(done, total))

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


def _send_estimate(request: EstimateRequest, engine: Engine, run: WorkerRun) -> None:
    """Try a few slices and send what all of them will take."""
    from napari_biomedparse.runs.estimate import combine, estimate_run

    run.send(Status("Trying a few slices…"))
    one = estimate_run(
        request.volume,
        request.prompts,
        engine,
        request.options,
        consensus=request.consensus,
        to_folder=request.to_folder,
    )
    whole = combine([one] * request.times)
    run.send(Status(f"Estimate: {whole.describe()}."))


def _finetune_network(request: FinetuneRequest, run: WorkerRun) -> None:
    """Fine-tune; a cancelled run ends with the best weights so far."""
    from napari_biomedparse.training import load_finetune

    finetune = load_finetune()
    last = 0.0
    measured: float | None = None

    def report_case(name: str, number: int, count: int) -> None:
        run.send(Status(f"Reading {name} ({number + 1} of {count})…"))

    def report(now: Progress) -> None:
        nonlocal last, measured
        if now.val_loss != measured or time.monotonic() - last > _STEP_SECONDS:
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


def main() -> None:
    """Serve the process that started this one."""
    worker = Worker()

    def end() -> None:
        worker.close()
        os._exit(0)  # a run may be deep in a slice: nothing waits for it

    serve(open_channel(int(sys.argv[1])), worker, on_end=end)


if __name__ == "__main__":
    main()
