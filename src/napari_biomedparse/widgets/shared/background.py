"""Work in a background thread of which only the latest request counts."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from qtpy.QtCore import QObject, Signal

from napari_biomedparse.errors import BiomedParseError

Work = Callable[[], Any]


class LatestWork(QObject):
    """Runs one function at a time; a newer request replaces one that is waiting."""

    done = Signal(object)
    """Result of the latest request, emitted in the thread of the interface."""
    failed = Signal(str)
    """Message of the error that the latest request raised."""
    _ended = Signal(object)

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        self._next: Work | None = None
        self._working = False
        self._ended.connect(self._on_ended)

    def submit(self, work: Work) -> None:
        """Run a function; results of earlier requests are no longer emitted."""
        self._next = work
        if not self._working:
            self._begin()

    def discard(self) -> None:
        """Discard the current request and the waiting one."""
        self._next = _nothing if self._working else None

    def _begin(self) -> None:
        work, self._next, self._working = self._next, None, True
        threading.Thread(
            target=self._work, args=(work,), name="biomedparse-background", daemon=True
        ).start()

    def _work(self, work: Work) -> None:
        try:
            result = work()
        except BiomedParseError as error:
            result = error
        try:
            self._ended.emit(result)
        except RuntimeError:  # the window is gone
            return

    def _on_ended(self, result: Any) -> None:
        self._working = False
        if self._next is not None:
            self._begin()
        elif isinstance(result, BiomedParseError):
            self.failed.emit(str(result))
        elif result is not None:
            self.done.emit(result)


def _nothing() -> None:
    return None
