"""A model process that is kept from run to run, and replaced when it is lost."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from napari_biomedparse.data.volume import Volume, as_volume
from napari_biomedparse.process.child import COMMAND, Process, RunHandle
from napari_biomedparse.process.messages import (
    PreviewRequest,
    Request,
    SegmentRequest,
    VolumeRequest,
    Voxels,
)

if TYPE_CHECKING:
    from napari_biomedparse.data.options import SegmentOptions
    from napari_biomedparse.data.prompts import PromptSet

PATIENCE = 0.8
"""Seconds a cancelled run may take to stop before its process is replaced."""


class Session:
    """Runs on one model process, which keeps its model from run to run.

    The process starts with the first run. If it dies, the run in progress fails with
    a `WorkerError`, and the next run starts a new one. It never outlives this one.

    Parameters
    ----------
    command : sequence of str
        What starts the process; see `Process`.
    cache_bytes : int, optional
        Memory that the process may use for features of recently seen slices; an
        engine's own default if not given.
    """

    def __init__(
        self, command: Sequence[str] = COMMAND, *, cache_bytes: int | None = None
    ) -> None:
        self._command = tuple(command)
        self._cache_bytes = cache_bytes
        self._process: Process | None = None
        self._runs = 0
        self._volumes = _VolumeNumbers()
        self._starting = threading.Lock()

    def run(
        self,
        volume: Volume,
        prompts: PromptSet,
        options: SegmentOptions,
        *,
        model: str = "v2",
        device: str = "auto",
    ) -> RunHandle:
        """Segment a volume; short for `start` with a `SegmentRequest`."""
        return self.start(SegmentRequest(volume, prompts, options, model, device))

    def start(self, request: Request) -> RunHandle:
        """Have the model process do what is requested.

        Parameters
        ----------
        request : Request
            A run that is still in progress is cancelled, unless this is a
            `PreviewRequest`.

        Returns
        -------
        RunHandle
            Its events, as they arrive.

        Raises
        ------
        VolumeError
            If the volume cannot be segmented.
        WorkerError
            If no process can be started.
        """
        volume = None
        if isinstance(request, VolumeRequest):
            volume = as_volume(request.volume)
            request = replace(
                request,
                volume=self._volumes.describe(volume),
                cache_bytes=self._cache_bytes,
            )
        with self._starting:
            self._runs += 1
            brief = isinstance(request, PreviewRequest)
            process = self._living_process() if brief else self._idle_process()
            return process.start(self._runs, request, volume)

    def close(self) -> None:
        """End the process and whatever it is doing."""
        with self._starting:
            self._stop_process()
            self._volumes.forget()

    @property
    def pid(self) -> int | None:
        """Number of the process, or None while there is none."""
        return None if self._process is None else self._process.pid

    def _idle_process(self) -> Process:
        """Return a process that does nothing, or nothing but brief runs."""
        if self._process is not None and not self._process.becomes_idle(PATIENCE):
            self._stop_process()
        return self._living_process()

    def _living_process(self) -> Process:
        """Return a process that may be busy."""
        if self._process is not None and not self._process.is_alive:
            self._stop_process()
        if self._process is None:
            self._process = Process(self._command)
        return self._process

    def _stop_process(self) -> None:
        if self._process is not None:
            self._process.stop()
            self._process = None


class _VolumeNumbers:
    """Numbers volumes by their voxels, so that the model process recognizes them."""

    def __init__(self) -> None:
        self._count = 0
        self._last: tuple[object, Any] | None = None

    def describe(self, volume: Volume) -> Volume:
        """Return what is sent of a volume: all but the voxels and its source."""
        data = volume.data
        chunks = getattr(data, "chunksize", getattr(data, "chunks", None))
        number = self._number_of(data)
        voxels = Voxels(number, volume.shape, volume.dtype.str, chunks)
        return Volume(
            cast(Any, voxels),
            volume.axes,
            volume.spacing,
            volume.units,
            volume.origin,
            volume.name,
        )

    def _number_of(self, data: Any) -> int:
        """Return the same number for the same voxels, also for another view of them."""
        identity = _identity(data)
        if self._last is None or self._last[0] != identity:
            self._count += 1
            self._last = identity, data  # keeps the memory from being used again
        return self._count

    def forget(self) -> None:
        """Release the last volume."""
        self._last = None


def _identity(data: Any) -> object:
    """Return what two views of the same voxels have in common."""
    if isinstance(data, np.ndarray):
        about = data.__array_interface__
        return about["data"], data.shape, data.strides, data.dtype
    return getattr(data, "name", None) or id(data)  # a dask array's name identifies it
