"""One run of the model process, as napari's process sees it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from napari_biomedparse.process.messages import Cancel, LookAt, Retune

if TYPE_CHECKING:
    from napari_biomedparse.data.options import SegmentOptions
    from napari_biomedparse.data.volume import Volume
    from napari_biomedparse.errors import BiomedParseError
    from napari_biomedparse.process.messages import Control, Event


class RunHandle:
    """A run of the model process: an iterator over its events, in order.

    Made by `Session.start`. Iterate over it, or `poll` it; `close` cancels the rest.

    Parameters
    ----------
    number : int
        Identifies the run.
    volume : Volume or None
        Three axes; read in separate threads, slab by slab. None if the other side
        opens a file.
    send : callable
        Sends the model process a message of this run.
    brief : bool
        Whether it takes a moment, so that it waits for the run in progress instead of
        replacing it.
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
        self._send = send
        self._events: queue.SimpleQueue[Event | BiomedParseError | None] = (
            queue.SimpleQueue()
        )
        self._over = False

    def __iter__(self) -> Iterator[Event]:
        """Return itself."""
        return self

    def __next__(self) -> Event:
        """Wait for the next event."""
        while (event := self.poll(3600.0)) is None:
            pass
        return event

    def poll(self, timeout: float) -> Event | None:
        """Wait a while for the next event.

        Parameters
        ----------
        timeout : float
            Seconds.

        Returns
        -------
        Event or None
            None if nothing happened in that time.

        Raises
        ------
        StopIteration
            When the run is over.
        BiomedParseError
            The error that ended the run, in either process.
        """
        if self._over:
            raise StopIteration
        try:
            event = self._events.get(timeout=timeout)
        except queue.Empty:
            return None
        if event is None or isinstance(event, BaseException):
            self._over = True
            raise event or StopIteration
        return event

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

    def put(self, event: Event | BiomedParseError | None) -> None:
        """Append an event; None or an error is the last one."""
        self._events.put(event)
