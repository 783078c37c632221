"""The model process: ``python -m napari_biomedparse.worker``, started by `remote`.

It keeps one model, takes one run at a time from its stdin, runs `segment`'s own loop
on an array that asks the other side for its voxels, and writes labels to its stdout as
they are finished. It ends when its stdin does.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np

from napari_biomedparse.remote.serve import Cancelled, Job, serve
from napari_biomedparse.remote.wire import Connection

if TYPE_CHECKING:
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
        self, volume: Volume, prompts: PromptSet, job: Job
    ) -> Generator[None, None, None]:
        """Do one run; a `Segment`."""
        # torch takes seconds to import: the other side is told what it waits for.
        job.say("status", text="Starting the network's process…")
        from napari_biomedparse.options import SegmentOptions
        from napari_biomedparse.plan import plan_run
        from napari_biomedparse.segment import run_plan
        from napari_biomedparse.weights import model_identity

        options = SegmentOptions(**job.fields["options"])
        yield
        engine = self._ready_engine(job, options.seed)
        yield
        job.say("status", text="Looking at the grey levels…")
        plan = plan_run(volume, prompts, options, config=engine.model.config)
        job.say(
            "planned",
            axis=plan.geometry.axis,
            start=plan.start,
            stop=plan.stop,
            intensity=plan.intensity.describe(),
            truncated=plan.truncated,
            parameters={
                **plan.parameters(),
                "model": model_identity(engine.model),
                "device": str(engine.device),
            },
        )
        objects = Objects(plan) if plan.instances else None
        yield
        parts = cast("Generator[SegmentedSlices, None, None]", run_plan(plan, engine))
        with contextlib.closing(parts):
            for part in parts:
                arrays = (part.labels, part.existence)
                at = {"start": part.start, "stop": part.stop, "axis": part.axis}
                job.say("slices", arrays=arrays, **at)
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
        owners = np.zeros(int(objects.max()) + 1, self._labels.dtype)
        # Objects grow a voxel beyond their own label, so that only their inside tells.
        inside = (self._edges == 0) & (self._labels > 0)
        owners[objects[inside]] = self._labels[inside]
        thickness = max(1, _SLAB_BYTES // max(1, objects[:1].nbytes))
        for start in range(0, len(objects), thickness):
            slab = objects[start : start + thickness]
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
