"""A run's blocks on the workers of a dask.distributed cluster.

Each worker loads the network once, reads the volume itself and writes its own chunks;
the records of finished blocks are sent back. All workers must see the folder under the
same path.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import dask
import numpy as np
import torch
from distributed import Client, KilledWorker, LocalCluster, WorkerPlugin, get_worker

from napari_biomedparse.engine.devices import find_device
from napari_biomedparse.engine.engine import Engine
from napari_biomedparse.errors import (
    Cancelled,
    DeviceError,
    OptionError,
    OutputError,
    WorkerError,
    needs_extra,
)
from napari_biomedparse.io.lazy import chunk_thickness
from napari_biomedparse.networks.weights import load_model, model_identity
from napari_biomedparse.runs.blocks import blocks_here, never, unfinished
from napari_biomedparse.runs.folder import layout_of, recorded_blocks
from napari_biomedparse.runs.manifest import (
    MANIFEST,
    Block,
    Manifest,
    read_manifest,
    weights_checksum,
)

if TYPE_CHECKING:
    from napari_biomedparse.networks.network import Network
    from napari_biomedparse.pipeline.plan import RunPlan


PLUGIN = "napari-biomedparse"
LEAST_CHUNKS = 2
"""Minimum of the volume's chunks per task, so that none is read three times."""
_SCRIPT = ("__file__", "__spec__")
"""By which new processes find the script that this one runs."""
LOOK_SECONDS = 0.5
"""How often a run on a cluster, and those that follow it, check for news."""


class NetworkOnWorker(WorkerPlugin):  # type: ignore[misc]  # distributed is untyped
    """Holds the network of a worker, loaded at first use and kept for later runs.

    A model given by name or path is loaded by the worker itself and must have the
    checksum in `identity`. With the device "auto" or "cuda", the workers of a local
    cluster get a GPU each, in turn.
    """

    idempotent = True

    def __init__(
        self,
        model: str | os.PathLike[str] | Network,
        identity: str,
        device: str,
        seed: int,
        precision: str,
    ) -> None:
        # Runs of several people, with other weights, may share the workers.
        self._seed, self._precision = seed, precision
        checksum = weights_checksum(identity)
        self.name = f"{PLUGIN} {checksum} {device} {seed} {precision}"
        self._model, self._identity, self._device = model, identity, device

    def setup(self, worker: Any) -> None:
        """Prepare for a worker."""
        self.lock = Lock()
        self._engine: Engine | None = None
        cards = torch.cuda.device_count()
        if self._device in ("auto", "cuda") and cards > 1:
            number = worker.name if isinstance(worker.name, int) else 0
            self._device = f"cuda:{number % cards}"

    def forget(self) -> None:
        """Free the network's memory unless it is in use."""
        if self.lock.acquire(blocking=False):
            self._engine = None
            self.lock.release()

    def engine(self) -> Engine:
        """Return the network on its device."""
        if self._engine is None:
            for other in list(get_worker().plugins.values()):
                if isinstance(other, NetworkOnWorker) and other is not self:
                    other.forget()
            model = self._model
            if isinstance(model, str | os.PathLike):
                model = load_model(model)
            found = model_identity(model)
            if weights_checksum(found) != weights_checksum(self._identity):
                raise WorkerError(
                    f"A worker has the weights {found}, not {self._identity}; give "
                    "all machines the same file."
                )
            self._engine = Engine(
                model,
                self._device,
                seed=self._seed,
                precision=self._precision,
                cache_bytes=0,
            )
        return self._engine


@contextmanager
def connect(
    scheduler: str | Client | None = None, workers: int | None = None
) -> Iterator[Client]:
    """Provide a client of a running cluster, or of a temporary local one.

    A client that is given as `scheduler` stays open. If both or neither argument are
    given, an `OptionError` is raised; if the scheduler does not respond, a
    `WorkerError`.
    """
    if (scheduler is None) == (workers is None):
        raise OptionError(
            "Give either the address of a scheduler or the number of local workers."
        )
    if isinstance(scheduler, Client):
        yield scheduler
    elif scheduler is not None:
        try:
            client = Client(scheduler, set_as_default=False)
        except (OSError, TypeError, ValueError) as error:  # TypeError: no certificate
            raise WorkerError(
                f"No scheduler responds at {scheduler} ({error}); start one with: dask "
                "scheduler. One with TLS (tls://) also needs the certificates in "
                "dask's configuration, distributed.comm.tls."
            ) from error
        with client:
            yield client
    else:
        # Variables that limit workers to one thread are not for later processes.
        with patch.dict(os.environ), _script_hidden():
            yield from _local_client(workers)


def _local_client(workers: int | None) -> Iterator[Client]:
    """Provide a client of a cluster in processes on this machine."""
    routes: dict[str, list[str]] = {
        f"distributed.{who}.http.routes": [] for who in ("scheduler", "worker")
    }
    with needs_extra("cluster", "Local workers"), dask.config.set(routes):
        cluster = LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            memory_limit=0,
            dashboard_address="127.0.0.1:0",  # any port that is free
            silence_logs=logging.ERROR,
            security=True,  # or every user of this machine could have it run code
        )
    with cluster, Client(cluster, set_as_default=False) as client:
        client.register_plugin(_Uninterrupted())
        try:
            yield client
        except KeyboardInterrupt:  # workers would first finish their blocks
            cluster.sync(_end_workers, cluster)
            raise


@contextmanager
def _script_hidden() -> Iterator[None]:
    """Keep new processes from running the user's script again, which needs no guard.

    Workers use nothing of it: what it defines reaches them by value.
    """
    main = sys.modules["__main__"]
    known = {name: vars(main)[name] for name in _SCRIPT if name in vars(main)}
    vars(main).update(dict.fromkeys(known))
    try:
        yield
    finally:
        vars(main).update(known)


async def _end_workers(cluster: LocalCluster) -> None:
    """End workers within a second; what they have not recorded is repeated."""
    closing = (worker.close(timeout=0.4) for worker in cluster.workers.values())
    await asyncio.gather(*closing, return_exceptions=True)


class _Uninterrupted(WorkerPlugin):  # type: ignore[misc]  # distributed is untyped
    """Has workers ignore Ctrl-C, which a terminal sends to all processes."""

    name = f"{PLUGIN} uninterrupted"

    def setup(self, worker: Any) -> None:
        """Prepare for a worker, in its main thread."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def kind_of_device(client: Client, device: str) -> str:
    """Ask a worker for the kind of a device: cpu, cuda or mps."""
    found = client.submit(lambda: find_device(device).type, pure=False)
    return str(found.result())


def blocks_on_cluster(
    client: Client,
    plan: RunPlan,
    folder: Path,
    manifest: Manifest,
    ranges: Iterable[tuple[int, int]],
    model: str | os.PathLike[str] | Network,
    device: str,
    stopped: Callable[[], bool] = never,
) -> Iterator[Block]:
    """Run ranges of blocks on a cluster; yield each block once it is on the disk.

    The folder has its stores and is locked by the caller. `stopped` is polled; once
    true, `Cancelled` is raised. Errors are an `OptionError` for a volume in memory, a
    `WorkerError` if workers die repeatedly, and those of the workers.
    """
    if isinstance(plan.volume.data, np.ndarray):
        raise OptionError(
            f"{plan.volume.name} is in memory, where the workers of a cluster cannot "
            "read it; give a path, or save it as Zarr first."
        )
    seed, precision = plan.options.seed, manifest.parameters["precision"]
    plugin = NetworkOnWorker(model, manifest.model, device, seed, precision)
    client.register_plugin(plugin)
    size = task_size(plan, layout_of(manifest).thickness)
    # A task, not scattered data: it survives the worker that holds the plan.
    shared = client.submit(lambda: plan, pure=False)
    futures = [
        client.submit(
            _run_task, plugin.name, shared, str(folder.absolute()), *part, pure=False
        )
        for start, stop in ranges
        for part in split_range(start, stop, size)
    ]
    try:
        seen = set(recorded_blocks(folder))
        while not all(future.done() for future in futures):
            if stopped():
                raise Cancelled("The run was cancelled; finished blocks are kept.")
            if any(future.status == "error" for future in futures):
                break
            new = recorded_blocks(folder, skip=seen)
            yield from new.values()
            seen.update(new)
            time.sleep(LOOK_SECONDS / 5)
        for future in futures:
            yield from (block for block in future.result() if block.start not in seen)
    except KilledWorker as error:
        raise WorkerError(
            f"Workers die repeatedly on the same slices ({error}), perhaps for lack of "
            "memory. Finished blocks are kept: run the same again to continue."
        ) from error
    finally:
        client.cancel([*futures, shared])


def _run_task(
    plugin: str, plan: RunPlan, folder_name: str, start: int, stop: int
) -> list[Block]:
    """Run unfinished blocks of a range on a worker."""
    folder = Path(folder_name)
    if not (folder / MANIFEST).is_file():
        raise OutputError(
            f"The worker {get_worker().address} does not see {folder}; choose a folder "
            "on a disk that all machines share."
        )
    part = replace(plan, start=start, stop=stop)
    manifest = read_manifest(folder)
    network = get_worker().plugins[plugin]
    # A worker reads the volume itself, not through other workers.
    with network.lock, dask.config.set(scheduler="threads"):
        engine = network.engine()
        if engine.device.type != manifest.output["device"]:
            raise DeviceError(
                f"A worker computes on {engine.device.type} and the run on "
                f"{manifest.output['device']}, with different rounding; use workers of "
                "one kind, or choose the device."
            )
        blocks = recorded_blocks(folder)
        left = unfinished(part, manifest, blocks)
        for block in blocks_here(part, folder, manifest, left, engine=engine):
            blocks[block.start] = block
    return [block for at, block in sorted(blocks.items()) if start <= at < stop]


def task_size(plan: RunPlan, thickness: int) -> int:
    """Return the number of slices per task: whole blocks, and several chunks."""
    chunk = chunk_thickness(plan.volume.data, plan.geometry.axis)
    return thickness * math.ceil(LEAST_CHUNKS * chunk / thickness)


def split_range(start: int, stop: int, size: int) -> Iterator[tuple[int, int]]:
    """Cut a range of slices into tasks."""
    while start < stop:
        end = min(stop, (start // size + 1) * size)
        yield start, end
        start = end
