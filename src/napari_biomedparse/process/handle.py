"""One run of the model process, seen from this side."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_biomedparse.data.options import SegmentOptions
    from napari_biomedparse.data.results import SegmentedSlices
    from napari_biomedparse.data.volume import Volume
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
    from napari_biomedparse.training.progress import Progress

    Event = (
        Status
        | Planned
        | Previewed
        | SegmentedSlices
        | Voted
        | Objects
        | Written
        | Found
        | Progress
        | Tuned
    )


class Run:
    """One run of the model process: an iterator of events, in order.

    Made by `Session.run`. Iterate it, or `poll` it; `close` cancels what is left.

    Parameters
    ----------
    number : int
        Tells this run's messages from an earlier one's.
    volume : Volume or None
        Three axes; read in threads of their own, a slab at a time. None if the other
        side opens a file.
    brief : bool
        Whether it takes a moment, so that others need not be stopped for it and wait
        for their turn behind it.
    """

    def __init__(
        self, number: int, volume: Volume | None, *, brief: bool = False
    ) -> None:
        self.number = number
        self.volume = volume
        self.brief = brief
        self.stopped = threading.Event()
        self._tell: Callable[[str, dict[str, Any]], None] | None = None
        self._events: queue.SimpleQueue[Event | BaseException | None] = (
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
            None if nothing happened in the time.

        Raises
        ------
        StopIteration
            When the run is over.
        BiomedParseError
            What went wrong, in this process or in the other.
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
        """Cancel what is left of the run and hear no more; returns at once."""
        self._over = True
        self.cancel()

    def cancel(self) -> None:
        """Ask the run to end; what it still tells is heard."""
        self._say("cancel")

    def look_at(self, at: int) -> None:
        """Have the slices next to one come first; returns at once."""
        self._say("front", at=at)

    def retune(self, options: SegmentOptions) -> None:
        """Have other thresholds applied to what is done and what comes."""
        self._say("retune", options=asdict(options))

    def attach(self, tell: Callable[[str, dict[str, Any]], None]) -> None:
        """Learn how to tell the process what is wanted in the meantime."""
        self._tell = tell

    def _say(self, kind: str, **fields: Any) -> None:
        if not self.stopped.is_set() and self._tell is not None:
            self._tell(kind, fields)

    def put(self, event: Event | BaseException | None) -> None:
        """Append an event; None or an exception is the last one."""
        self._events.put(event)
