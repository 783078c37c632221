"""The model process; `bootstrap` executes this file.

It keeps one model, does one run at a time, reads voxels from the other process and
sends labels as they are finished. It ends when the other process does.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING

from napari_biomedparse.errors import Cancelled
from napari_biomedparse.process.channel import open_channel
from napari_biomedparse.process.messages import (
    EstimateRequest,
    FinetuneRequest,
    FolderRequest,
    PreviewRequest,
    SegmentRequest,
    Status,
    VolumeRequest,
)
from napari_biomedparse.process.serve import WorkerRun, serve
from napari_biomedparse.process.tasks import (
    finetune_network,
    run_consensus,
    run_to_folder,
    send_estimate,
)
from napari_biomedparse.process.watched import Live

if TYPE_CHECKING:
    from napari_biomedparse.engine.engine import Engine
    from napari_biomedparse.runs.recipe import Recipe

_REPORT_SECONDS = 0.5


class Worker:
    """Does runs, and keeps the model between them."""

    def __init__(self) -> None:
        self._name = ""
        self._key: tuple[str, int, int] | None = None
        self._engine: Engine | None = None
        self._live = Live()

    def __call__(self, run: WorkerRun) -> Generator[None]:
        """Do one run; a `Work`."""
        # torch takes seconds to import: the user reads what it waits for.
        run.send(Status("Starting the model process…"))
        yield
        request = run.request
        if isinstance(request, FinetuneRequest):
            finetune_network(request, run)
            return
        wanted = request.recipe if isinstance(request, FolderRequest) else request
        engine = self._ready_engine(wanted, run)
        yield
        match request:
            case FolderRequest(recipe):
                run_to_folder(recipe, engine.model, run)
            case EstimateRequest():
                send_estimate(request, engine, run)
            case PreviewRequest():
                self._live.preview(request, engine, run)
            case SegmentRequest(consensus=True):
                yield from run_consensus(request, engine, run)
            case SegmentRequest():
                yield from self._live.run(request, engine, run)

    def close(self) -> None:
        """Remove what is kept on disk."""
        self._live.close()

    def _ready_engine(self, wanted: VolumeRequest | Recipe, run: WorkerRun) -> Engine:
        """Return an engine, the same as before if nothing has changed."""
        from napari_biomedparse.engine.engine import CACHE_BYTES, Engine
        from napari_biomedparse.networks.weights import load_model

        name, device, seed = wanted.model, wanted.device, wanted.options.seed
        room = wanted.cache_bytes if isinstance(wanted, VolumeRequest) else None
        room = CACHE_BYTES if room is None else room
        if self._engine is None or self._name != name:
            self._engine = None  # frees memory for the next model
            run.send(Status(f"Loading the model {name}…"))
            model = load_model(name, on_progress=_download_report(run))
        else:
            model = self._engine.model
        if self._engine is None or self._key != (device, seed, room):
            self._engine = Engine(model, device, seed=seed, cache_bytes=room)
            self._name, self._key = name, (device, seed, room)
        return self._engine


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


def main() -> None:
    """Serve the process that started this one."""
    worker = Worker()

    def end() -> None:
        worker.close()
        os._exit(0)  # a run may be deep in a slice: nothing waits for it

    serve(open_channel(int(sys.argv[1])), worker, on_end=end)


if __name__ == "__main__":
    main()
