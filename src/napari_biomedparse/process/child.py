"""The other process and the threads that talk to it."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import subprocess
import tempfile
import threading
import time
import weakref
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import IO, TYPE_CHECKING, Any, cast

import numpy as np

from napari_biomedparse import errors
from napari_biomedparse.errors import BiomedParseError, FormatError, WorkerError
from napari_biomedparse.process.messages import (
    Found,
    Objects,
    Planned,
    Previewed,
    Status,
    Tuned,
    Voted,
    Written,
)
from napari_biomedparse.process.wire import Connection, Message
from napari_biomedparse.training.progress import Progress

if TYPE_CHECKING:
    from napari_biomedparse.data.results import SegmentedSlices
    from napari_biomedparse.data.volume import Volume
    from napari_biomedparse.process.handle import Run

logger = logging.getLogger(__name__)

_LAST_WORDS = 15
_READERS = 4


class Process:
    """The other process and the threads that talk to it."""

    def __init__(self, command: Sequence[str]) -> None:
        # Its temporary files are removed here, as it may be killed at any time.
        folder = tempfile.mkdtemp(prefix="napari-biomedparse-")
        self._forget_files = weakref.finalize(
            self, shutil.rmtree, folder, ignore_errors=True
        )
        places = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), folder)
        try:
            self._popen = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**os.environ, **places},
                # Ctrl-C in a terminal is for napari, which then ends the process.
                start_new_session=True,
            )
        except OSError as error:
            self._forget_files()
            raise WorkerError(
                f"The process that runs the network could not be started: {error}. "
                f"Check that {command[0]} is a working Python."
            ) from error
        self.pid = self._popen.pid
        self._connection = Connection(
            cast(Any, self._popen.stdout), cast(Any, self._popen.stdin)
        )
        self._runs: dict[int, Run] = {}
        self._stopping = False
        self._last_words: deque[str] = deque(maxlen=_LAST_WORDS)
        self._readers = ThreadPoolExecutor(_READERS, "biomedparse-read")
        self._overhearing = _start(self._overhear, "stderr")
        self._listening = _start(self._listen, "messages")

    def start(self, run: Run, description: dict[str, Any]) -> None:
        """Say what to do; events go to `run`."""
        run.attach(lambda kind, fields: self._say(kind, run=run.number, **fields))
        self._runs[run.number] = run
        self._say("run", run=run.number, **description)

    def becomes_idle(self, patience: float) -> bool:
        """Cancel what is in progress; return whether the process can take a run.

        Brief tasks need not have ended: the run waits for its turn behind them.
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
        """Whether it takes what it is told."""
        return self._popen.poll() is None and self._listening.is_alive()

    def stop(self) -> None:
        """End the process now, and the run in progress without an error."""
        self._stopping = True
        self._popen.kill()
        self._readers.shutdown(wait=False, cancel_futures=True)
        self._listening.join()

    def _say(self, kind: str, **message: Any) -> None:
        # A dead process is noticed, and reported once, where its messages end.
        with contextlib.suppress(OSError, ValueError):
            self._connection.send(kind, **message)

    def _listen(self) -> None:
        try:
            while (message := self._connection.receive()) is not None:
                run = self._runs.get(message.fields["run"])
                if run is not None:
                    self._handle(run, message)
        except (OSError, ValueError, WorkerError) as error:
            logger.warning("The stream from the model process broke: %s", error)
            self._popen.kill()
        self._popen.wait()
        self._forget_files()
        self._overhearing.join()
        for run in list(self._runs.values()):
            self._end(run, None if self._stopping else self._obituary())
        self._readers.shutdown(wait=False, cancel_futures=True)
        for pipe in (self._popen.stdin, self._popen.stdout, self._popen.stderr):
            with contextlib.suppress(OSError):
                cast(IO[bytes], pipe).close()

    def _handle(self, run: Run, message: Message) -> None:
        fields = message.fields
        if message.kind == "read":
            self._readers.submit(self._answer, run, fields["request"], fields["ranges"])
        elif message.kind == "status":
            run.put(Status(fields["text"]))
        elif message.kind == "planned":
            run.put(_planned(fields))
        elif message.kind == "slices":
            run.put(_slices(message))
        elif message.kind == "preview":
            run.put(_previewed(message))
        elif message.kind == "voted":
            run.put(Voted(_slices(message)))
        elif message.kind == "written":
            run.put(Written(fields["done"], fields["total"]))
        elif message.kind == "found":
            run.put(Found(*message.arrays))
        elif message.kind == "trained":
            run.put(Progress(**fields["progress"]))
        elif message.kind == "tuned":
            run.put(Tuned(**fields["result"]))
        elif message.kind == "objects":
            run.put(Objects(fields["start"], *message.arrays))
        elif message.kind in ("done", "error"):
            self._end(run, _error(fields) if message.kind == "error" else None)

    def _end(self, run: Run, error: BiomedParseError | None) -> None:
        """Tell a run that nothing comes any more."""
        run.put(error)
        run.stopped.set()
        del self._runs[run.number]

    def _answer(self, run: Run, request: int, ranges: list[list[int]]) -> None:
        """Read a slab of voxels and send it; runs in a thread of its own."""
        about = {"run": run.number, "request": request}
        assert run.volume is not None  # or nobody asks for its voxels
        try:
            index = tuple(slice(start, stop) for start, stop in ranges)
            slab = np.asarray(run.volume.data[index])
        except Exception as error:  # whatever a file or a task graph may raise
            logger.debug("Reading failed", exc_info=True)
            run.put(_reading_error(run.volume, error))
            self._say("slab", failed=True, **about)
        else:
            self._say("slab", arrays=(slab,), **about)

    def _overhear(self) -> None:
        """Keep the last lines the process wrote to stderr."""
        for line in cast(IO[bytes], self._popen.stderr):
            text = line.decode(errors="replace").rstrip()
            logger.debug("model process: %s", text)
            self._last_words.append(text)

    def _obituary(self) -> WorkerError:
        code = self._popen.returncode
        out_of_memory = (
            " It was killed, which most often means that memory ran out: close other "
            "programs or choose a smaller batch size."
            if code in (-9, 137)
            else ""
        )
        said = "\n".join(self._last_words)
        return WorkerError(
            f"The process that runs the network ended unexpectedly (exit code {code})."
            f"{out_of_memory} Slices done so far are kept; Run starts a fresh process."
            + (f" Its last lines were:\n{said}" if said else "")
        )


def _start(work: Any, name: str) -> threading.Thread:
    thread = threading.Thread(target=work, name=f"biomedparse-{name}", daemon=True)
    thread.start()
    return thread


def _planned(fields: dict[str, Any]) -> Planned:
    return Planned(
        axis=fields["axis"],
        start=fields["start"],
        stop=fields["stop"],
        intensity=fields["intensity"],
        truncated=tuple(fields["truncated"]),
        parameters=fields["parameters"],
        total=fields["total"],
        provenance=fields["provenance"],
        folder=fields.get("folder"),
        kept=tuple((start, stop) for start, stop in fields.get("kept", ())),
    )


def _slices(message: Message) -> SegmentedSlices:
    from napari_biomedparse.data.results import SegmentedSlices

    labels, existence = message.arrays[:2]
    return SegmentedSlices(
        start=message.fields["start"],
        stop=message.fields["stop"],
        axis=message.fields["axis"],
        labels=labels,
        existence=existence,
    )


def _previewed(message: Message) -> Previewed:
    *_, probabilities = message.arrays
    wanted = len(message.arrays) == 3
    return Previewed(_slices(message), probabilities if wanted else None)


def _error(fields: dict[str, Any]) -> BiomedParseError:
    """Return the same kind of error as the worker met."""
    kind = getattr(errors, fields["type"], WorkerError)
    return cast(BiomedParseError, kind(fields["message"]))


def _reading_error(volume: Volume, error: Exception) -> BiomedParseError:
    if isinstance(error, BiomedParseError):
        return error
    return FormatError(
        f"{volume.source or volume.name} cannot be read ({type(error).__name__}: "
        f"{error}). The file may be damaged or have moved; check it."
    )
