"""Runs that a cluster does by itself: they go on when whoever asked for them is gone.

One task on the cluster, the driver, does what `segment_to_folder` does, with blocks as
further tasks. It is a published dataset of the scheduler, named after the run's folder,
which keeps it alive and lets others find it; progress is a `distributed.Variable`, and
a `distributed.Event` tells it to stop. Should the driver's worker die, the scheduler
starts it again on another one, and it resumes the folder.

Whoever talks to a scheduler unpickles what it sends. So a folder, which may come from
anybody, is believed to name one only if this user has named the same there before.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import platformdirs
from distributed import Client, Event, Future, Variable, worker_client

from napari_biomedparse.data.volume import Volume
from napari_biomedparse.errors import OptionError, OutputError, WorkerError
from napari_biomedparse.io.durable import write_durably, writing
from napari_biomedparse.runs.blocks import Stopped
from napari_biomedparse.runs.cluster import LOOK_SECONDS, PLUGIN, connect
from napari_biomedparse.runs.folder import JOB
from napari_biomedparse.runs.run import do_asked

if TYPE_CHECKING:
    from napari_biomedparse.runs.request import Asked
    from napari_biomedparse.runs.volume_run import Progress

_GONE = (
    "The run was dropped by its scheduler, or that answers no more. Finished blocks "
    "are kept: the same call attaches to it if it still goes on, or continues it."
)
PATIENCE = 10.0
"""Seconds to wait for a run that was told to stop, and for a scheduler's answer."""


@contextlib.contextmanager
def job_client(scheduler: str | Client | None, folder: Path) -> Iterator[Client | None]:
    """Give a client of the cluster that is to do a run, or that does it already.

    Parameters
    ----------
    scheduler : str or distributed.Client, optional
        The cluster that is to do it. Without it, the one that the folder names, if it
        is the one that this user gave for that folder.
    folder : Path
        The run's.

    Yields
    ------
    distributed.Client or None
        None if no scheduler is given and no cluster works on the folder any more.

    Raises
    ------
    WorkerError
        If the given scheduler does not answer.
    """
    if scheduler is not None:
        with connect(scheduler) as client:
            yield client
        return
    try:
        named = (folder / JOB).read_text("utf-8")
        if named != _own_record(folder).read_text("utf-8"):
            raise ValueError("not the user's")
        address = json.loads(named)["scheduler"]
        client = Client(address, timeout=PATIENCE, set_as_default=False)
    except (OSError, ValueError, KeyError):
        yield None
        return
    with client:
        yield client if _find(client, _name(folder)) else None


def follow_job(
    client: Client,
    asked: Asked,
    on_progress: Progress | None,
    stopped: Callable[[], bool] = lambda: False,
) -> None:
    """Have a cluster do a run, or attach to it if it does already; wait for the end.

    Interrupted by Ctrl-C, or with this process gone, the run goes on, and the same call
    attaches to it again. Any exception that `on_progress` raises stops the run.

    Parameters
    ----------
    client : distributed.Client
    asked : Asked
        Its volume on disk.
    on_progress : callable, optional
        Called with the slices that are finished and all, twice a second.
    stopped : callable
        Asked as often whether the run is to be stopped.

    Raises
    ------
    Stopped
        If so.
    KeyboardInterrupt
        With a text that says that the run goes on.
    OutputError
        If the cluster does another run in the same folder.
    OptionError
        If the volume is in memory.
    BiomedParseError
        As the run meets it.
    """
    name = _name(asked.folder)
    job = _find(client, name)
    if job is None:
        job = _submit(client, asked, name)
    _refuse_differences(asked, job["asked"])
    run, progress = job["run"], Variable(name, client=client)
    try:
        while not run.done():
            if stopped():
                raise Stopped
            done, total = _look(progress)
            if total and on_progress:
                on_progress(done, total)
            time.sleep(LOOK_SECONDS)
        if run.status in ("cancelled", "lost"):
            raise WorkerError(_GONE)
        _result(run)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"the cluster at {client.scheduler.address} goes on with the run: run the "
            "same again to attach to it"
        ) from None
    except Exception:
        if client.status == "running":
            _stop(client, name, run)
        raise
    client.unpublish_dataset(name)
    _own_record(asked.folder).unlink(missing_ok=True)


def _own_record(folder: Path) -> Path:
    """Return where this user's choice of a cluster for a folder is kept."""
    name = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()
    return platformdirs.user_state_path("napari-biomedparse") / "jobs" / f"{name}.json"


def _name(folder: Path) -> str:
    return f"{PLUGIN} {folder.absolute()}"


def _find(client: Client, name: str) -> dict[str, Any] | None:
    """Return the job of that name unless it failed, which is to be tried again."""
    if name not in client.list_datasets():
        return None
    job: dict[str, Any] = client.get_dataset(name)
    if job["run"].status in ("pending", "finished"):
        return job
    client.unpublish_dataset(name)
    return None


def _result(run: Future) -> None:
    """Raise what the driver met."""
    try:
        run.result()
    except Stopped:
        raise WorkerError(
            "The run was stopped by another process that watched it. Finished blocks "
            "are kept: run the same again to continue."
        ) from None


def _look(progress: Variable) -> tuple[int, int]:
    """Return the slices that are finished, and all, as the driver says."""
    try:
        done, total = progress.get()
    except OSError as error:
        raise WorkerError(_GONE) from error
    return done, total


def _submit(client: Client, asked: Asked, name: str) -> dict[str, Any]:
    volume = asked.volume.data if isinstance(asked.volume, Volume) else asked.volume
    if isinstance(volume, np.ndarray):
        raise OptionError(
            "The volume is in memory, where the workers of a cluster cannot read it; "
            "give a path, or save it as Zarr first."
        )
    if asked.is_path:
        asked = replace(asked, volume=Path(asked.volume).absolute())
    asked = replace(asked, folder=asked.folder.absolute())
    Event(name, client=client).clear()
    Variable(name, client=client).set([0, 0])
    run = client.submit(_drive, asked, name, pure=False)
    job = {"run": run, "asked": asked.words()}
    client.publish_dataset(job, name=name)
    text = json.dumps({"scheduler": client.scheduler.address})
    with contextlib.suppress(OSError):  # without it the scheduler is to be given again
        own = _own_record(asked.folder)
        own.parent.mkdir(parents=True, exist_ok=True)
        own.write_text(text, "utf-8")
    with writing(asked.folder):
        asked.folder.mkdir(parents=True, exist_ok=True)
        write_durably(asked.folder / JOB, text)
    return job


def _refuse_differences(asked: Asked, running: dict[str, str]) -> None:
    mine = asked.words()
    found = [
        f"{key} was {running.get(key)} and is {mine[key]}"
        for key in mine
        if key != "batch_size" and mine[key] != running.get(key)
    ]
    if found:
        raise OutputError(
            f"{asked.folder} is where a cluster does another run: {'; '.join(found)}. "
            "Choose another folder, or give the same as before to attach to it."
        )


def _stop(client: Client, name: str, run: Future) -> None:
    """Tell a run to stop, and wait a while for it."""
    with contextlib.suppress(OSError):  # the scheduler may be what failed
        Event(name, client=client).set()
        end = time.monotonic() + PATIENCE
        while not run.done() and time.monotonic() < end:
            time.sleep(LOOK_SECONDS / 5)
        client.unpublish_dataset(name)


def _drive(asked: Asked, name: str) -> None:
    """Do a run, on a worker that has others do its blocks."""
    with worker_client() as client:
        progress, stop = Variable(name, client=client), Event(name, client=client)

        def tell(done: int, total: int) -> None:
            progress.set([done, total])

        try:
            do_asked(asked, client, tell, stopped=stop.is_set)
        finally:
            (asked.folder / JOB).unlink(missing_ok=True)
        if name in client.list_datasets():
            client.unpublish_dataset(name)
