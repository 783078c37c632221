"""Labels that a run writes and a user paints into: neither undoes the other."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

Select = Callable[["npt.NDArray[Any]"], "npt.NDArray[Any]"]
"""Returns a view of a part of an array."""


class WrittenLabels:
    """Labels and, once somebody may paint into them, what runs wrote.

    Parameters
    ----------
    labels : ndarray
        Shown in layers, which paint into it.
    """

    def __init__(self, labels: npt.NDArray[Any]) -> None:
        self.labels = labels
        self._as_written: npt.NDArray[Any] | None = None
        self._lock = threading.Lock()

    def before_painting(self) -> None:
        """Hold what was written up to now, to tell what is painted from now on."""
        with self._lock:
            if self._as_written is None:
                self._as_written = self.labels.copy()

    def write(
        self, select: Select, new: npt.NDArray[Any], *, over_painted: bool = False
    ) -> None:
        """Put new labels where nobody painted; from any thread.

        Parameters
        ----------
        select : callable
            Returns a view of what is written of an array like the labels.
        new : integer ndarray
        over_painted : bool
            Whether what was painted is lost.
        """
        with self._lock:
            shown = select(self.labels)
            if self._as_written is None:
                shown[...] = new
                return
            written = select(self._as_written)
            painted = (shown != written) & (not over_painted)
            written[...] = new
            np.copyto(shown, written, where=~painted)
