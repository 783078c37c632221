"""Runs that a cluster does by itself, which continue after this process has ended.

One task on the cluster, the driver, does what `segment_to_folder` does, with blocks as
further tasks. It is a published dataset of the scheduler, named after the run folder,
which keeps it alive and lets others find it; progress is a `distributed.Variable`, and
a `distributed.Event` tells it to stop. If the driver's worker dies, the scheduler
restarts it on another one, and it resumes the folder.

A client unpickles what its scheduler sends. So the scheduler named in a folder, which
is untrusted, is used only if this user has given the same one for it before.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import platformdirs
from distributed import Client, Event, Future, Variable, worker_client

from napari_biomedparse.errors import Cancelled, OutputError, WorkerError
from napari_biomedparse.io.durable import write_durably, writing
from napari_biomedparse.runs.blocks import never
from napari_biomedparse.runs.cluster import LOOK_SECONDS, PLUGIN, connect
from napari_biomedparse.runs.folder import JOB

if TYPE_CHECKING:
    from napari_biomedparse.runs.blocks import Progress

Work = Callable[[Client, "Progress", Callable[[], bool]], object]
"""Does a run with a client, until the last function returns True."""

_GONE = (
    "The scheduler dropped the run or no longer responds. Finished blocks are kept: "
    "the same call attaches to the run if it is still going, or continues it."
)
PATIENCE = 10.0
"""Seconds to wait for a run that was told to stop, and for a scheduler."""


@contextlib.contextmanager
def job_client(scheduler: str | Client | None, folder: Path) -> Iterator[Client | None]:
    """Provide a client of the cluster that is to do a run, or does it already.

    Without a scheduler it is the one that the folder names, if this user gave the same
    one for that folder, or None if no cluster is working on the folder.
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
    folder: Path,
    words: dict[str, str],
    work: Work,
    on_progress: Progress | None,
    stopped: Callable[[], bool] = never,
) -> None:
    """Have a cluster do a run, or attach to it if it does already; wait for the end.

    After Ctrl-C, or if this process ends, the run continues, and the same call attaches
    to it again. `on_progress` is called, and `stopped` polled, twice a second; once
    that is true, or if `on_progress` raises, the run is stopped. Besides the errors of
    the run there is an `OutputError` if the cluster does another run in the same
    folder; `words` distinguish it.
    """
    name = _name(folder)
    job = _find(client, name) or _submit(client, folder, words, work, name)
    _refuse_differences(folder, words, job["asked"])
    run, progress = job["run"], Variable(name, client=client)
    try:
        while not run.done():
            if stopped():
                raise Cancelled("The run was cancelled; finished blocks are kept.")
            try:
                done, total = progress.get()
            except OSError as error:
                raise WorkerError(_GONE) from error
            if total and on_progress:
                on_progress(done, total)
            time.sleep(LOOK_SECONDS)
        if run.status in ("cancelled", "lost"):
            raise WorkerError(_GONE)
        try:
            run.result()
        except Cancelled:
            raise WorkerError(
                "Another process that followed the run cancelled it. Finished blocks "
                "are kept: run the same again to continue."
            ) from None
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"the cluster at {client.scheduler.address} continues the run: run the "
            "same again to attach to it"
        ) from None
    except Exception:
        if client.status == "running":
            _stop(client, name, run)
        raise
    client.unpublish_dataset(name)
    _own_record(folder).unlink(missing_ok=True)


def _own_record(folder: Path) -> Path:
    """Return where this user's choice of a cluster for a folder is stored."""
    name = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()
    return platformdirs.user_state_path("napari-biomedparse") / "jobs" / f"{name}.json"


def _name(folder: Path) -> str:
    return f"{PLUGIN} {folder.absolute()}"


def _find(client: Client, name: str) -> dict[str, Any] | None:
    """Return the job of that name unless it failed, which may be tried again."""
    if name not in client.list_datasets():
        return None
    job: dict[str, Any] = client.get_dataset(name)
    if job["run"].status in ("pending", "finished"):
        return job
    client.unpublish_dataset(name)
    return None


def _submit(
    client: Client, folder: Path, words: dict[str, str], work: Work, name: str
) -> dict[str, Any]:
    Event(name, client=client).clear()
    Variable(name, client=client).set([0, 0])
    run = client.submit(_drive, work, folder, name, pure=False)
    job = {"run": run, "asked": words}
    client.publish_dataset(job, name=name)
    text = json.dumps({"scheduler": client.scheduler.address})
    with contextlib.suppress(OSError):  # without it the scheduler must be given again
        own = _own_record(folder)
        own.parent.mkdir(parents=True, exist_ok=True)
        own.write_text(text, "utf-8")
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_durably(folder / JOB, text)
    return job


def _refuse_differences(
    folder: Path, words: dict[str, str], running: dict[str, str]
) -> None:
    found = [
        f"{key} was {running.get(key)} and is {word}"
        for key, word in words.items()
        if key != "batch_size" and word != running.get(key)
    ]
    if found:
        raise OutputError(
            f"In {folder} a cluster does another run: {'; '.join(found)}. Choose "
            "another folder, or give the same as before to attach to it."
        )


def _stop(client: Client, name: str, run: Future) -> None:
    """Tell a run to stop, and wait a moment for it."""
    with contextlib.suppress(OSError):  # the scheduler may be what failed
        Event(name, client=client).set()
        end = time.monotonic() + PATIENCE
        while not run.done() and time.monotonic() < end:
            time.sleep(LOOK_SECONDS / 5)
        client.unpublish_dataset(name)


def _drive(work: Work, folder: Path, name: str) -> None:
    """Do a run on a worker, its blocks on others."""
    with worker_client() as client:
        progress, stop = Variable(name, client=client), Event(name, client=client)
        try:
            work(client, lambda *numbers: progress.set(numbers), stop.is_set)
        finally:
            (folder / JOB).unlink(missing_ok=True)
        if name in client.list_datasets():
            client.unpublish_dataset(name)
