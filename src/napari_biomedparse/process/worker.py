"""The model process: ``python -m napari_biomedparse.process.worker``.

It keeps one model, takes one run at a time from its stdin, runs `segment`'s own loop
on an array that asks the other side for its voxels, and writes labels to its stdout as
they are finished. It ends when its stdin does.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Generator
from typing import Any, BinaryIO

from napari_biomedparse.process.finetune import train
from napari_biomedparse.process.serve import Cancelled, Job, serve
from napari_biomedparse.process.tasks import run_consensus, run_to_folder, say_estimate
from napari_biomedparse.process.watched import Live
from napari_biomedparse.process.wire import Connection

_REPORT_SECONDS = 0.5


class Network:
    """Does runs with `segment`'s own loop and keeps the model between them."""

    def __init__(self) -> None:
        self._key: tuple[str, str, int, int] | None = None
        self._engine: Any = None
        self._live = Live()

    def __call__(self, job: Job) -> Generator[None, None, None]:
        """Do one run; a `Work`."""
        if "training" in job.fields:
            train(job)
            return
        volume, prompts = job.volume(), job.prompts()
        # torch takes seconds to import: the other side is told what it waits for.
        job.say("status", text="Starting the network's process…")
        options = job.options()
        yield
        engine = self._ready_engine(job, options.seed)
        yield
        if volume is None:
            run_to_folder(prompts, options, engine.model, job)
        elif "estimate" in job.fields:
            say_estimate(volume, prompts, options, engine, job)
        elif job.fields.get("consensus"):
            yield from run_consensus(volume, prompts, options, engine, job)
        else:
            plan = self._live.plan(volume, prompts, options, engine, job)
            if "preview" in job.fields:
                self._live.preview(plan, engine, job)
            else:
                yield from self._live.run(plan, engine, job)

    def close(self) -> None:
        """Remove what is kept on disk."""
        self._live.close()

    def _ready_engine(self, job: Job, seed: int) -> Any:
        from napari_biomedparse.engine.engine import CACHE_BYTES, Engine
        from napari_biomedparse.networks.weights import load_model

        name, device = job.fields["model"], job.fields["device"]
        cache = job.fields.get("cache_bytes", CACHE_BYTES)
        if self._key is None or self._key[0] != name:
            self._key = self._engine = None  # before the next model takes its room
            job.say("status", text=f"Loading the model {name}…")
            model = load_model(name, on_progress=_download_report(job))
        else:
            model = self._engine.model
        if self._key != (name, device, seed, cache):
            self._engine = Engine(model, device, seed=seed, cache_bytes=cache)
            self._key = (name, device, seed, cache)
        return self._engine


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


def private_stdout() -> BinaryIO:
    """Keep stdout for messages; whatever libraries print goes to stderr."""
    stream = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return stream


def main() -> None:
    """Serve the process that started this one."""
    connection = Connection(sys.stdin.buffer, private_stdout())
    network = Network()

    def end() -> None:
        network.close()
        os._exit(0)  # a run may be deep in a slice: nothing waits for it

    serve(connection, network, on_end=end)


if __name__ == "__main__":
    main()
