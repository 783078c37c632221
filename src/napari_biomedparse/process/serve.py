"""The model process's side of a run: receive requests, fetch voxels, reply.

Nothing here imports torch: what a run does is passed as a function.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import queue
import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt
from dask.array.slicing import normalize_index

from napari_biomedparse.errors import BiomedParseError, Cancelled, WorkerError, shortage
from napari_biomedparse.process.messages import (
    Cancel,
    Control,
    Done,
    Failed,
    LookAt,
    Read,
    Request,
    Retune,
    SegmentRequest,
    Slab,
    VolumeRequest,
    Voxels,
    Warned,
)

if TYPE_CHECKING:
    from napari_biomedparse.data.options import SegmentOptions
    from napari_biomedparse.data.results import Span
    from napari_biomedparse.process.channel import Channel
    from napari_biomedparse.process.messages import Reply

logger = logging.getLogger(__name__)

Work = Callable[["WorkerRun"], Generator[None, None, None]]
"""Does a run and sends what it has; yields where it may stop."""


class WorkerRun:
    """One run, as the model process sees it; a volume's voxels are read when needed."""

    def __init__(self, channel: Channel, number: int, request: Request) -> None:
        if isinstance(request, VolumeRequest):
            voxels = cast(Voxels, request.volume.data)
            volume = replace(request.volume, data=RemoteArray(voxels, self._read))
            request = replace(request, volume=volume)
        self.number = number
        self.request = request
        self.cancelled = False
        self.front: int | None = None
        """The slice in view, which is processed first."""
        if isinstance(request, SegmentRequest):
            self.front = request.front
        self._retuned: SegmentOptions | None = None
        self._channel = channel
        self._numbers = itertools.count()
        self._waiting: dict[int, Future[npt.NDArray[Any]]] = {}

    def send(self, message: Reply) -> None:
        """Send a message of this run."""
        self._channel.send(self.number, message)

    def receive(self, message: Control) -> None:
        """Take note of a message; called in a thread of its own."""
        match message:
            case Cancel():
                self.cancel()
            case LookAt(index):
                self.front = index
            case Retune(options):
                self._retuned = options
            case Slab(read, voxels):
                self._answer(read, voxels)

    def take_retuned(self) -> SegmentOptions | None:
        """Return options with other thresholds, once, if they have arrived."""
        options, self._retuned = self._retuned, None
        return options

    def cancel(self) -> None:
        """Make the run stop where it next checks, also while it waits for voxels."""
        self.cancelled = True
        for waiting in list(self._waiting.values()):
            waiting.cancel()

    def _answer(self, read: int, voxels: npt.NDArray[Any] | None) -> None:
        """Hand over voxels to the thread that waits for them."""
        waiting = self._waiting.pop(read, None)
        if waiting is None or not waiting.set_running_or_notify_cancel():
            return
        if voxels is None:  # the other side has the error, and ends the run
            self.cancelled = True
            waiting.set_exception(Cancelled("The voxels could not be read."))
        else:
            waiting.set_result(voxels)

    def _read(self, ranges: tuple[Span, ...]) -> npt.NDArray[Any]:
        number, waiting = next(self._numbers), Future[npt.NDArray[Any]]()
        self._waiting[number] = waiting
        if self.cancelled:
            raise Cancelled("The run was cancelled.")
        self.send(Read(number, ranges))
        return waiting.result()


def serve(channel: Channel, work: Work, *, on_end: Callable[[], None]) -> None:
    """Do the runs that are requested, one after the other.

    `on_end` is called from another thread as soon as the other side is gone.
    """
    waiting: queue.SimpleQueue[WorkerRun | None] = queue.SimpleQueue()
    runs: dict[int, WorkerRun] = {}

    def listen() -> None:
        with contextlib.suppress(OSError, WorkerError):
            while (received := channel.receive()) is not None:
                number, message = received
                if isinstance(message, Control):
                    if number in runs:
                        runs[number].receive(message)
                else:
                    runs[number] = WorkerRun(channel, number, cast(Request, message))
                    waiting.put(runs[number])
        for run in list(runs.values()):
            run.cancel()
        waiting.put(None)
        on_end()

    threading.Thread(target=listen, daemon=True).start()
    while (run := waiting.get()) is not None:
        run.send(_outcome(run, work))
        del runs[run.number]


class _Warnings(logging.Handler):
    """Sends what the package warns of, each text once a run."""

    def __init__(self, run: WorkerRun) -> None:
        super().__init__(logging.WARNING)
        self._run, self._sent = run, set[str]()

    def emit(self, record: logging.LogRecord) -> None:
        """Send a warning; errors end the run, and are sent then."""
        text = self.format(record)
        if record.levelno == logging.WARNING and text not in self._sent:
            self._sent.add(text)
            self._run.send(Warned(text))


def _outcome(run: WorkerRun, work: Work) -> Done | Failed:
    """Do one run and return how it ended."""
    if run.cancelled:
        return Done()
    warnings = _Warnings(run)
    package = logging.getLogger(__name__.partition(".")[0])
    package.addHandler(warnings)
    try:
        with contextlib.closing(work(run)) as steps:
            for _ in steps:
                if run.cancelled:
                    break
    except Cancelled:
        pass
    except BiomedParseError as error:
        return Failed(error)
    except Exception as error:  # the other side reports what nobody foresaw
        if not run.cancelled:
            logger.exception("A run failed")
            return Failed(
                shortage(error)
                or WorkerError(
                    f"The network failed: {type(error).__name__}: {error}. This is "
                    "most likely a bug in napari-biomedparse; please report it."
                )
            )
    finally:
        package.removeHandler(warnings)
    return Done()


class RemoteArray:
    """An array whose voxels are in the other process; indexing it fetches them.

    `read` takes a (start, stop) for each axis and returns the voxels.
    """

    def __init__(
        self, voxels: Voxels, read: Callable[[tuple[Span, ...]], npt.NDArray[Any]]
    ) -> None:
        self.number = voxels.number
        self.shape = voxels.shape
        self.dtype = np.dtype(voxels.dtype)
        self.ndim = len(self.shape)
        self.chunks = voxels.chunks
        self._read = read

    def __getitem__(self, index: Any) -> npt.NDArray[Any]:
        """Fetch the voxels at integers and slices (with any step)."""
        given = normalize_index(index, self.shape)  # type: ignore[no-untyped-call]
        ranges, rest = zip(*map(_split, given, self.shape), strict=True)
        if any(start == stop for start, stop in ranges):
            slab = np.empty([stop - start for start, stop in ranges], self.dtype)
        else:
            slab = self._read(ranges)
        selected: npt.NDArray[Any] = slab[rest]
        return selected


def _split(index: Any, size: int) -> tuple[Span, Any]:
    """Return the range of one axis to read, and the index into what was read."""
    if not isinstance(index, slice):
        return (index, index + 1), 0
    wanted = range(size)[index]
    if not wanted:
        return (0, 0), slice(None)
    low, high = min(wanted[0], wanted[-1]), max(wanted[0], wanted[-1])
    return (low, high + 1), slice(None, None, wanted.step)
