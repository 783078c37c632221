"""Fine-tuning in a thread beside the GUI's: layers or a folder in, steps out."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING

from napari_biomedparse.errors import BiomedParseError
from napari_biomedparse.process.messages import Failed, Status
from napari_biomedparse.widgets.shared.task import polled

if TYPE_CHECKING:
    from pathlib import Path

    from napari_biomedparse.process import RunHandle
    from napari_biomedparse.process.messages import Event
    from napari_biomedparse.widgets.training.labelled import Labelled


class Tuning:
    """Fine-tuning in the model process; stopped, it ends with the best weights.

    Parameters
    ----------
    begin : callable
        Starts it; may take a second.
    layers : Labelled, optional
        Written to `data` before.
    data : Path
        The training set.
    """

    def __init__(
        self, begin: Callable[[], RunHandle], layers: Labelled | None, data: Path
    ) -> None:
        self._begin, self._layers, self._data = begin, layers, data
        self._stopped = threading.Event()

    @property
    def stopped(self) -> bool:
        """Whether it was asked to end."""
        return self._stopped.is_set()

    def stop(self) -> None:
        """Ask it to end; from any thread."""
        self._stopped.set()

    def steps(self) -> Iterator[Event | Failed]:
        """Do it to its end and yield what is new."""
        try:
            if self._layers is not None:
                yield Status("Writing the layers as training data…")
                self._layers.add_to(self._data)
            yield from self._events()
        except BiomedParseError as error:
            yield Failed(error)

    def _events(self) -> Iterator[Event]:
        told = False
        with closing(self._begin()) as run:
            for event in polled(run):
                if event is not None:
                    yield event
                if self.stopped and not told:
                    run.cancel()
                    told = True
