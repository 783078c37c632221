"""Small pieces of work beside the GUI's thread, of which only the latest counts."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from qtpy.QtCore import QObject, Signal

from napari_biomedparse.errors import BiomedParseError

Work = Callable[[], Any]


class Beside(QObject):
    """Does one thing at a time; what waits is replaced by what comes after it.

    Signals
    -------
    done : object
        What the latest work returned, told in the thread of the GUI.
    failed : str
        Why it could not be done.
    """

    done = Signal(object)
    failed = Signal(str)
    _ended = Signal(object)

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        self._next: Work | None = None
        self._working = False
        self._ended.connect(self._on_ended)

    def ask(self, work: Work) -> None:
        """Have something done; what was asked before is not told any more."""
        self._next = work
        if not self._working:
            self._begin()

    def drop(self) -> None:
        """Forget what was asked."""
        self._next = _nothing if self._working else None

    def _begin(self) -> None:
        work, self._next, self._working = self._next, None, True
        threading.Thread(
            target=self._work, args=(work,), name="biomedparse-beside", daemon=True
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
