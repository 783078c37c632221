"""The download of the published weights, in a thread."""

from __future__ import annotations

import threading

from qtpy.QtCore import QObject, Signal

from napari_biomedparse.errors import BiomedParseError
from napari_biomedparse.networks.catalogue import PUBLISHED
from napari_biomedparse.networks.hub import fetch


class _Stopped(Exception):
    """Ends a download from within."""


class Download(QObject):
    """One attempt; after `cancel` nothing is told any more.

    Signals
    -------
    progressed : object, object
        Bytes done and in total.
    finished : str
        Empty, or what went wrong and what to do.
    """

    progressed = Signal(object, object)  # more bytes than a C int counts
    finished = Signal(str)

    def __init__(self, token: str | None) -> None:
        super().__init__()
        self._token = token
        self._cancelled = threading.Event()
        self._thread = threading.Thread(
            target=self._work, name="biomedparse-download", daemon=True
        )

    def start(self) -> None:
        """Begin; what a former attempt fetched is not fetched again."""
        self._thread.start()

    def cancel(self) -> None:
        """End it at the next piece that arrives."""
        self._cancelled.set()

    def wait(self, seconds: float) -> bool:
        """Return whether the thread has ended within a time."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _work(self) -> None:
        problem = ""
        try:
            fetch(
                PUBLISHED,
                token=self._token,
                on_progress=self._on_progress,
                confirm=lambda _: True,  # the panel has shown the licence
            )
        except BiomedParseError as error:
            problem = str(error)
        if not self._cancelled.is_set():
            self.finished.emit(problem)

    def _on_progress(self, done: int, total: int) -> None:
        if self._cancelled.is_set():
            raise _Stopped
        self.progressed.emit(done, total or PUBLISHED.size)
