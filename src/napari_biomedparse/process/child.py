"""The model process, which is kept from run to run, and replaced when it is lost."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import Pipe
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

import numpy as np

from napari_biomedparse.data.volume import Volume, as_volume
from napari_biomedparse.errors import (
    BiomedParseError,
    FormatError,
    WorkerError,
    shortage,
)
from napari_biomedparse.io.durable import scratch_folder
from napari_biomedparse.process.channel import Channel
from napari_biomedparse.process.messages import (
    Cancel,
    Done,
    Failed,
    LookAt,
    PreviewRequest,
    Read,
    Request,
    Retune,
    SegmentRequest,
    Slab,
    VolumeRequest,
    Voxels,
)

if TYPE_CHECKING:
    from napari_biomedparse.data.options import SegmentOptions
    from napari_biomedparse.data.prompts import PromptSet
    from napari_biomedparse.process.messages import Control, Event, Reply

logger = logging.getLogger(__name__)

_FOLDER = Path(__file__).parent
COMMAND = (
    sys.executable,
    "-P",  # does not import from the current folder
    str(_FOLDER / "bootstrap.py"),
    str(_FOLDER / "worker.py"),
)
_LAST_LINES = 15
_READERS = 4
SENT_BYTES = 2**22
"""Voxels of an array in memory that are sent at once: each message waits for Python's
lock, which the window holds while it draws."""
POLL_SECONDS = 0.1
"""How often a run that is polled checks whether it was cancelled."""
PATIENCE = 0.8
"""Seconds a cancelled run may take to stop before its process is replaced."""
_KERNEL_COUNTERS = Path("/proc/vmstat")
_NO_MEMORY = (0xC0000017, 0xC000012D)
"""Windows' codes of processes that ended for want of memory."""


class RunHandle:
    """A run of the model process; iterating yields its events, in order.

    `close` cancels the rest. The volume is read in separate threads, slab by slab;
    there is none if the other side opens a file. A brief run waits for the one in
    progress instead of replacing it. The last of `events` is None or an error.
    """

    def __init__(
        self,
        number: int,
        volume: Volume | None,
        send: Callable[[Control], None],
        *,
        brief: bool = False,
    ) -> None:
        self.number = number
        self.volume = volume
        self.brief = brief
        self.stopped = threading.Event()
        self.events: queue.SimpleQueue[Event | BiomedParseError | None]
        self.events = queue.SimpleQueue()
        self._send = send
        self._over = False

    def __iter__(self) -> Iterator[Event]:
        """Yield events to the end; the error that ended the run is raised."""
        return (event for event in self.polled(3600.0) if event is not None)

    def polled(self, seconds: float = POLL_SECONDS) -> Iterator[Event | None]:
        """Yield events to the end, and None whenever none came for some seconds.

        The error that ended the run, in either process, is raised.
        """
        while not self._over:
            try:
                event = self.events.get(timeout=seconds)
            except queue.Empty:
                yield None
                continue
            self._over = event is None or isinstance(event, BiomedParseError)
            if isinstance(event, BiomedParseError):
                raise event
            if event is not None:
                yield event

    def close(self) -> None:
        """Cancel the rest of the run and ignore its events; returns at once."""
        self._over = True
        self.cancel()

    def cancel(self) -> None:
        """Ask the run to end; its last events still arrive."""
        self._tell(Cancel())

    def look_at(self, index: int) -> None:
        """Have the slices nearest to one processed first; returns at once."""
        self._tell(LookAt(index))

    def retune(self, options: SegmentOptions) -> None:
        """Apply other thresholds to finished slices and to those to come."""
        self._tell(Retune(options))

    def _tell(self, message: Control) -> None:
        if not self.stopped.is_set():
            self._send(message)


class Process:
    """The model process and the threads that communicate with it.

    Two arguments are appended to the command that starts it: the handle of its end of
    the channel, and the folders of `package_folders` as JSON.
    """

    def __init__(self, command: Sequence[str]) -> None:
        # Its temporary files are removed here, as it may be killed at any time.
        folder, remove = scratch_folder()
        self._forget_files = weakref.finalize(self, remove)
        place = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(folder))
        environment = {**os.environ, **place}
        environment.pop("PYTHONPATH", None)
        self._kills = _out_of_memory_kills()
        ours, theirs = Pipe()
        try:
            self._popen = subprocess.Popen(
                [*command, str(theirs.fileno()), json.dumps(package_folders())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=environment,
                **_inheriting(theirs.fileno()),
            )
        except OSError as error:
            ours.close()
            self._forget_files()
            raise WorkerError(
                f"The model process could not be started: {error}. Check that "
                f"{command[0]} is a working Python."
            ) from error
        finally:
            theirs.close()
        self.pid = self._popen.pid
        self._channel = Channel(ours)
        self._runs: dict[int, RunHandle] = {}
        self._stopping = False
        self._last_lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._readers = ThreadPoolExecutor(_READERS, "biomedparse-read")
        self._reading_stderr = _start(self._read_stderr, "stderr")
        self._listening = _start(self._listen, "messages")

    def start(self, number: int, request: Request, volume: Volume | None) -> RunHandle:
        """Begin a run; its events go to the handle."""
        send, brief = partial(self._send, number), isinstance(request, PreviewRequest)
        run = RunHandle(number, volume, send, brief=brief)
        self._runs[number] = run
        self._send(number, request)
        return run

    def becomes_idle(self, patience: float) -> bool:
        """Cancel what is in progress; return whether the process can take a run.

        Brief runs need not have ended: the new one waits for its turn behind them.
        """
        unfinished = list(self._runs.values())
        for run in unfinished:
            run.close()
        deadline = time.monotonic() + patience
        for run in unfinished:
            if not run.brief:
                run.stopped.wait(max(0.0, deadline - time.monotonic()))
        return self.is_alive and all(
            run.brief or run.stopped.is_set() for run in unfinished
        )

    @property
    def is_alive(self) -> bool:
        """Whether it accepts messages."""
        return self._popen.poll() is None and self._listening.is_alive()

    def stop(self) -> None:
        """End the process now, and the run in progress without an error."""
        self._stopping = True
        self._popen.kill()
        self._listening.join()  # which ends the readers: it may still be told to read

    def _send(self, number: int, message: Request | Control) -> None:
        # A dead process is noticed, and reported once, where its messages end.
        with contextlib.suppress(OSError):
            self._channel.send(number, message)

    def _listen(self) -> None:
        try:
            while (received := self._channel.receive()) is not None:
                number, message = received
                if (run := self._runs.get(number)) is not None:
                    self._handle(run, cast("Reply", message))
        except (OSError, WorkerError) as error:
            logger.warning("The channel of the model process broke: %s", error)
            self._popen.kill()
        self._popen.wait()
        self._forget_files()
        self._reading_stderr.join()
        for run in list(self._runs.values()):
            self._end(run, None if self._stopping else self._exit_error())
        self._readers.shutdown(wait=False, cancel_futures=True)
        self._channel.close()
        cast(IO[bytes], self._popen.stdout).close()

    def _handle(self, run: RunHandle, message: Reply) -> None:
        match message:
            case Read():
                self._readers.submit(self._answer, run, message)
            case Done():
                self._end(run, None)
            case Failed(error):
                self._end(run, error)
            case event:
                run.events.put(event)

    def _end(self, run: RunHandle, error: BiomedParseError | None) -> None:
        """Report the end of a run."""
        run.events.put(error)
        run.stopped.set()
        del self._runs[run.number]

    def _answer(self, run: RunHandle, read: Read) -> None:
        """Read a slab of voxels and send it; called in a thread of its own."""
        assert run.volume is not None  # or nobody asks for its voxels
        voxels = None
        try:
            index = tuple(slice(start, stop) for start, stop in read.ranges)
            voxels = np.asarray(run.volume.data[index])
        except Exception as error:  # whatever a file or a task graph may raise
            logger.debug("Reading failed", exc_info=True)
            run.events.put(_reading_error(run.volume, error))
        self._send(run.number, Slab(read.number, voxels))

    def _read_stderr(self) -> None:
        """Keep the last lines that the process wrote to stdout and stderr."""
        for line in cast(IO[bytes], self._popen.stdout):
            text = line.decode(errors="replace").rstrip()
            logger.debug("model process: %s", text)
            self._last_lines.append(text)

    def _exit_error(self) -> WorkerError:
        code, lines = self._popen.returncode, "\n".join(self._last_lines)
        why = f"exit code {code}"
        if -code in list(signal.Signals):
            why = f"killed by {signal.Signals(-code).name}, exit code {code}"
        advice = ""
        if code in _NO_MEMORY or (code == -9 and _out_of_memory_kills() > self._kills):
            why = f"memory ran out, exit code {code}"
            advice = " Close other programs or choose a smaller batch size."
        return WorkerError(
            f"The model process ended unexpectedly ({why}).{advice} Finished slices "
            "are kept; press Run to start a new process."
            + (f" Its last lines were:\n{lines}" if lines else "")
        )


class Session:
    """Runs on one model process, which keeps its model from run to run.

    The process starts with the first run. If it dies, the run in progress fails with
    a `WorkerError`, and the next run starts a new one. It never outlives this one.

    `cache_bytes` is the memory that the process may use for features of recently seen
    slices; by default it is the engine's.
    """

    def __init__(
        self, command: Sequence[str] = COMMAND, *, cache_bytes: int | None = None
    ) -> None:
        self._command = tuple(command)
        self._cache_bytes = cache_bytes
        self._process: Process | None = None
        self._runs = 0
        self._volumes = 0
        self._last: tuple[object, Any] = None, None
        self._starting = threading.Lock()

    def run(
        self, volume: Volume, prompts: PromptSet, options: SegmentOptions, **of: Any
    ) -> RunHandle:
        """Segment a volume with a `model` on a `device`; see `start`."""
        request = SegmentRequest(volume=volume, prompts=prompts, options=options, **of)
        return self.start(request)

    def start(self, request: Request) -> RunHandle:
        """Have the model process do what is requested, and return its events.

        A run that is still in progress is cancelled, unless this is a `PreviewRequest`.

        Raises
        ------
        VolumeError
            If the volume cannot be segmented.
        WorkerError
            If no process can be started.
        """
        volume = None
        if isinstance(request, VolumeRequest):
            volume, options = as_volume(request.volume), request.options
            if volume.flat and options.mode == "auto":  # which is not sent
                options = replace(options, mode="2d")
            request = replace(
                request,
                volume=self._describe(volume),
                options=options,
                cache_bytes=self._cache_bytes,
            )
        brief = isinstance(request, PreviewRequest)
        with self._starting:
            self._runs += 1
            if (process := self._process) is not None and not (
                process.is_alive if brief else process.becomes_idle(PATIENCE)
            ):
                self._stop_process()
            if self._process is None:
                self._process = Process(self._command)
            return self._process.start(self._runs, request, volume)

    def _describe(self, volume: Volume) -> Volume:
        """Return what is sent of a volume: all but the voxels and its source.

        The same voxels, also another view of them, have the same number.
        """
        data = volume.data
        if (identity := _identity(data)) != self._last[0]:
            self._volumes += 1
            self._last = identity, data  # keeps the memory from being used again
        chunks = getattr(data, "chunksize", getattr(data, "chunks", None))
        if isinstance(data, np.ndarray):  # to be asked for several slices at a time
            planes = [data.nbytes // size for size in data.shape]
            chunks = tuple(max(1, SENT_BYTES // plane) for plane in planes)
        voxels: Any = Voxels(self._volumes, volume.shape, volume.dtype.str, chunks)
        return replace(volume, data=voxels, source=None, levels=(), flat=False)

    def close(self) -> None:
        """End the process and whatever it is doing."""
        with self._starting:
            self._stop_process()
            self._last = None, None

    @property
    def pid(self) -> int | None:
        """Number of the process, or None while there is none."""
        return None if self._process is None else self._process.pid

    def _stop_process(self) -> None:
        if self._process is not None:
            self._process.stop()
            self._process = None


def package_folders() -> list[str]:
    """Return the folders of `sys.path` that packages are installed in, in order.

    These are the folder that this package lies in, and all with metadata of installed
    packages. The current folder and that of the main script are left out, as a user's
    files there may have the names of modules.
    """
    ours = _FOLDER.resolve().parents[1]
    users = set()
    if script := getattr(sys.modules["__main__"], "__file__", None):
        users.add(Path(script).resolve().parent)
    with contextlib.suppress(OSError):  # it may have been removed
        users.add(Path.cwd().resolve())
    found = []
    for entry in sys.path:
        folder = Path(entry).resolve()
        installed = any(folder.glob("*.dist-info")) or any(folder.glob("*.egg-info"))
        if folder == ours or (installed and folder not in users):
            found.append(os.path.abspath(entry))
    return found


def _inheriting(handle: int) -> dict[str, Any]:
    """Return how a process is started that inherits a handle, but not Ctrl-C."""
    if sys.platform == "win32":
        os.set_handle_inheritable(handle, True)
        startup = subprocess.STARTUPINFO(lpAttributeList={"handle_list": [handle]})
        flags = subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW
        return {"startupinfo": startup, "creationflags": flags}
    return {"pass_fds": [handle], "start_new_session": True}


def _out_of_memory_kills() -> int:
    """Count the processes that Linux has killed for want of memory."""
    try:
        lines = _KERNEL_COUNTERS.read_text().splitlines()
    except OSError:  # other systems do not tell
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))


def _start(work: Any, name: str) -> threading.Thread:
    thread = threading.Thread(target=work, name=f"biomedparse-{name}", daemon=True)
    thread.start()
    return thread


def _reading_error(volume: Volume, error: Exception) -> BiomedParseError:
    if isinstance(error, BiomedParseError):
        return error
    return shortage(error) or FormatError(
        f"{volume.source or volume.name} cannot be read ({type(error).__name__}: "
        f"{error}). The file may be damaged or have moved; check it."
    )


def _identity(data: Any) -> object:
    """Return what two views of the same voxels have in common."""
    if isinstance(data, np.ndarray):
        about = data.__array_interface__
        return about["data"], data.shape, data.strides, data.dtype
    return getattr(data, "name", None) or id(data)  # a dask array's name identifies it
