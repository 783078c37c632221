"""The worker's side of the conversation: take runs, ask for voxels, answer.

Nothing of torch here: what a run does is given as a function.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import operator
import queue
import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_biomedparse.data.options import SegmentOptions
from napari_biomedparse.data.prompts import Prompt, PromptSet
from napari_biomedparse.data.volume import Volume
from napari_biomedparse.errors import BiomedParseError

if TYPE_CHECKING:
    from napari_biomedparse.process.wire import Connection, Message

logger = logging.getLogger(__name__)

Work = Callable[["Job"], Generator[None, None, None]]
"""Does a run, saying what it has by the job's ``say``; yields where it may stop."""


class Cancelled(Exception):
    """The other side does not want the rest of the run."""


class RemoteArray:
    """An array whose voxels are with the other side; indexing it fetches them.

    Parameters
    ----------
    shape : tuple of int
        Size along each axis.
    dtype : dtype
        Type of one voxel.
    chunks : tuple of int, optional
        Shape of what is cheap to read at once.
    read : callable
        Takes a (start, stop) per axis and returns the voxels.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        chunks: tuple[int, ...] | None,
        read: Callable[[list[tuple[int, int]]], npt.NDArray[Any]],
    ) -> None:
        self.shape = shape
        self.dtype = dtype
        self.ndim = len(shape)
        if chunks is not None:
            self.chunks = chunks
        self._read = read

    def __getitem__(self, index: Any) -> npt.NDArray[Any]:
        """Fetch the voxels at integers and slices (with any step)."""
        given = index if isinstance(index, tuple) else (index,)
        if Ellipsis in given:
            at = given.index(Ellipsis)
            missing = self.ndim - len(given) + 1
            given = (*given[:at], *(slice(None),) * missing, *given[at + 1 :])
        given = (*given, *(slice(None),) * (self.ndim - len(given)))
        ranges, rest = zip(*map(_split, given, self.shape), strict=True)
        if any(start == stop for start, stop in ranges):
            slab = np.empty([stop - start for start, stop in ranges], self.dtype)
        else:
            slab = self._read(list(ranges))
        selected: npt.NDArray[Any] = slab[rest]
        return selected


def _split(index: Any, size: int) -> tuple[tuple[int, int], Any]:
    """Return the range of one axis to read, and the index into what was read."""
    if not isinstance(index, slice):
        at = operator.index(index)
        at = at + size if at < 0 else at
        if not 0 <= at < size:
            raise IndexError(f"position {index} is outside an axis of size {size}")
        return (at, at + 1), 0
    wanted = range(size)[index]
    if not wanted:
        return (0, 0), slice(None)
    low, high = min(wanted[0], wanted[-1]), max(wanted[0], wanted[-1])
    return (low, high + 1), slice(None, None, wanted.step)


class Job:
    """One run as the worker sees it: what was asked, and how to answer.

    Parameters
    ----------
    connection : Connection
        To the other side.
    fields : dict
        What the other side said.
    """

    def __init__(self, connection: Connection, fields: dict[str, Any]) -> None:
        self.fields = fields
        self.number: int = fields["run"]
        self.cancelled = False
        self.front: int | None = fields.get("front")
        """The slice in view, which is wanted first."""
        self._retuned: SegmentOptions | None = None
        self._connection = connection
        self._requests = itertools.count()
        self._asked: dict[int, Future[npt.NDArray[Any]]] = {}

    def say(self, kind: str, **message: Any) -> None:
        """Send a message of this run."""
        self._connection.send(kind, run=self.number, **message)

    def volume(self) -> Volume | None:
        """Return the volume to segment, with its voxels left on the other side.

        None if this side is to open a file.
        """
        said = self.fields.get("volume")
        if said is None:
            return None
        shape, dtype = tuple(said["shape"]), np.dtype(said["dtype"])
        chunks = said["chunks"] and tuple(said["chunks"])
        return Volume(
            data=RemoteArray(shape, dtype, chunks, self._read),
            axes=tuple(said["axes"]),
            spacing=tuple(said["spacing"]),
            units=tuple(said["units"]),
            origin=tuple(said["origin"]),
            name=said["name"],
        )

    def prompts(self) -> PromptSet:
        """Return what to find."""
        prompts = tuple(Prompt(i, text) for i, text in self.fields["prompts"])
        return PromptSet(
            prompts,
            instance=self.fields["instance"],
            order=tuple(self.fields["order"]),
        )

    def options(self) -> SegmentOptions:
        """Return how to do it."""
        return SegmentOptions(**self.fields["options"])

    def take_retuned(self) -> SegmentOptions | None:
        """Return options with other thresholds, once, if they came meanwhile."""
        options, self._retuned = self._retuned, None
        return options

    def retune(self, options: dict[str, Any]) -> None:
        """Take note of other thresholds."""
        self._retuned = SegmentOptions(**options)

    def cancel(self) -> None:
        """Make the run stop where it next looks, waiting for voxels included."""
        self.cancelled = True
        for waiting in list(self._asked.values()):
            waiting.cancel()

    def answer(self, message: Message) -> None:
        """Hand over voxels to the thread that asked for them."""
        waiting = self._asked.pop(message.fields["request"], None)
        if waiting is None or not waiting.set_running_or_notify_cancel():
            return
        if message.fields.get("failed"):  # the other side knows and ends the run
            self.cancelled = True
            waiting.set_exception(Cancelled())
        else:
            waiting.set_result(message.arrays[0])

    def _read(self, ranges: list[tuple[int, int]]) -> npt.NDArray[Any]:
        request, waiting = next(self._requests), Future[npt.NDArray[Any]]()
        self._asked[request] = waiting
        if self.cancelled:
            raise Cancelled
        self.say("read", request=request, ranges=ranges)
        return waiting.result()


def serve(connection: Connection, work: Work, *, on_end: Callable[[], None]) -> None:
    """Do the runs that are asked for, one after the other.

    Parameters
    ----------
    connection : Connection
        To the side that asks.
    work : callable
        Does one run.
    on_end : callable
        Called from another thread as soon as the other side is gone.
    """
    jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
    known: dict[int, Job] = {}

    def listen() -> None:
        with contextlib.suppress(OSError):
            while (message := connection.receive()) is not None:
                number = message.fields["run"]
                if message.kind == "run":
                    known[number] = Job(connection, message.fields)
                    jobs.put(known[number])
                elif number in known and message.kind == "cancel":
                    known[number].cancel()
                elif number in known and message.kind == "front":
                    known[number].front = message.fields["at"]
                elif number in known and message.kind == "retune":
                    known[number].retune(message.fields["options"])
                elif number in known and message.kind == "slab":
                    known[number].answer(message)
        for job in list(known.values()):
            job.cancel()
        jobs.put(None)
        on_end()

    threading.Thread(target=listen, daemon=True).start()
    while (job := jobs.get()) is not None:
        _do(job, work)
        del known[job.number]


def _do(job: Job, work: Work) -> None:
    """Do one run and say how it ended."""
    if job.cancelled:
        job.say("done")
        return
    try:
        with contextlib.closing(work(job)) as steps:
            for _ in steps:
                if job.cancelled:
                    break
        job.say("done")
    except BiomedParseError as error:
        job.say("error", type=type(error).__name__, message=str(error))
    except Exception as error:  # the other side reports what nobody foresaw
        if job.cancelled:
            job.say("done")
            return
        logger.exception("A run failed")
        job.say(
            "error",
            type="WorkerError",
            message=f"The network failed: {type(error).__name__}: {error}. This is "
            "most likely a fault of napari-biomedparse; please report it.",
        )
