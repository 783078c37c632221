"""A model process that is kept from run to run, and replaced when it is lost."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_biomedparse.data.volume import Volume, as_volume
from napari_biomedparse.process.child import Process
from napari_biomedparse.process.described import Volumes, describe_task
from napari_biomedparse.process.handle import Run

if TYPE_CHECKING:
    from napari_biomedparse.data.options import SegmentOptions
    from napari_biomedparse.data.prompts import PromptSet
    from napari_biomedparse.runs.recipe import Recipe
    from napari_biomedparse.training.options import FinetuneOptions

COMMAND = (sys.executable, "-m", "napari_biomedparse.process.worker")
PATIENCE = 0.8
"""Seconds a cancelled run may take to stop before its process is replaced."""


class Session:
    """Runs on one model process, which keeps its model from run to run.

    The process starts with the first run. If it dies, the run in progress fails with
    a `WorkerError`, and the next run starts a fresh one. It never outlives this one.

    Parameters
    ----------
    command : sequence of str
        What starts the process.
    cache_bytes : int, optional
        What the process may keep of recently seen slices; an engine's own default if
        not given.
    """

    def __init__(
        self, command: Sequence[str] = COMMAND, *, cache_bytes: int | None = None
    ) -> None:
        self._command = tuple(command)
        self._cache = {} if cache_bytes is None else {"cache_bytes": cache_bytes}
        self._process: Process | None = None
        self._runs = 0
        self._volumes = Volumes()
        self._starting = threading.Lock()

    def run(
        self,
        volume: Volume,
        prompts: PromptSet,
        options: SegmentOptions,
        *,
        model: str = "v2",
        device: str = "auto",
        consensus: bool = False,
        done: Sequence[tuple[int, int]] = (),
        front: int | None = None,
        earlier: int | None = None,
        again: bool = False,
        beside: int = 1,
    ) -> Run:
        """Segment a volume in the model process.

        Parameters
        ----------
        volume : Volume
            Three axes; numpy, dask or zarr.
        prompts : PromptSet
            What to find.
        options : SegmentOptions
            How.
        model : str
            Name, file or folder, as `load_model` takes it.
        device : str
            "auto", "cpu", "cuda", "cuda:1", "mps", ...
        consensus : bool
            Whether to run along all axes and vote; see `segment_consensus`.
        done : sequence of (int, int)
            Starts and stops of slices that an earlier run did; which of them are not
            done again, `Planned` says.
        front : int, optional
            The slice that is wanted first, then those next to it. `Run.look_at` moves
            it.
        earlier : int, optional
            Number of the run that did them, whose scores may still be there.
        again : bool
            Whether those that are done are all that is wanted, with other thresholds.
        beside : int
            How many runs keep their scores beside each other, as those of a time series
            do, and share the room.

        Returns
        -------
        Run
            Its events, as they come. An earlier run that is still going is cancelled.

        Raises
        ------
        VolumeError
            If the volume cannot be segmented.
        WorkerError
            If no process can be started.
        """
        volume = as_volume(volume)
        more = {
            "model": model,
            "device": device,
            "consensus": consensus,
            "done": list(done),
            "front": front,
            "earlier": earlier,
            "again": again,
            "beside": beside,
        }
        return self._start(
            volume,
            self._volumes.describe(volume) | describe_task(prompts, options) | more,
        )

    def preview(
        self,
        volume: Volume,
        prompts: PromptSet,
        options: SegmentOptions,
        at: int,
        *,
        model: str,
        device: str,
        probabilities: bool = False,
    ) -> Run:
        """Segment one slice, soon, without stopping a run in progress.

        Parameters
        ----------
        volume, prompts, options, model, device
            As for `run`.
        at : int
            Which slice along the slicing axis.
        probabilities : bool
            Whether they are wanted beside the labels.

        Returns
        -------
        Run
            Its last event is `Previewed`.

        Raises
        ------
        VolumeError, WorkerError
            As for `run`.
        """
        volume = as_volume(volume)
        more = {
            "model": model,
            "device": device,
            "preview": {"at": at, "probabilities": probabilities},
        }
        asked = self._volumes.describe(volume) | describe_task(prompts, options) | more
        return self._start(volume, asked, brief=True)

    def estimate(
        self,
        volumes: Sequence[Volume],
        prompts: PromptSet,
        options: SegmentOptions,
        *,
        model: str,
        device: str,
        consensus: bool,
        to_folder: bool,
    ) -> Run:
        """Try a few slices and tell what a run will take on this machine.

        Parameters
        ----------
        volumes : sequence of Volume
            One, or all time points of a series; the first is tried.
        prompts, options, model, device, consensus
            As for `run`.
        to_folder : bool
            Whether labels go to a run's folder as they come.

        Returns
        -------
        Run
            The estimate is its last `Status`.

        Raises
        ------
        VolumeError, WorkerError
            As for `run`.
        """
        volume = as_volume(volumes[0])
        more = {
            "model": model,
            "device": device,
            "consensus": consensus,
            "estimate": {"to_folder": to_folder, "times": len(volumes)},
        }
        return self._start(
            volume,
            self._volumes.describe(volume) | describe_task(prompts, options) | more,
        )

    def run_to_folder(self, recipe: Recipe) -> Run:
        """Have the model process read a file and write a run's folder.

        Parameters
        ----------
        recipe : Recipe
            With a folder.

        Returns
        -------
        Run
            As `run` returns it, but for the labels.

        Raises
        ------
        WorkerError
            If no process can be started.
        """
        plain = {
            "source": str(recipe.source),
            "folder": str(recipe.folder),
            **{
                name: getattr(recipe, name)
                for name in (
                    "model",
                    "device",
                    "channel",
                    "time",
                    "consensus",
                    "scheduler",
                )
            },
        }
        return self._start(None, describe_task(recipe.prompts, recipe.options) | plain)

    def finetune(
        self,
        data: Path,
        output: Path,
        checkpoint: str,
        options: FinetuneOptions,
        *,
        device: str = "auto",
    ) -> Run:
        """Have the process fine-tune a network; cancelled, the best weights are kept.

        Parameters
        ----------
        data, output : Path
        checkpoint : str
        options : FinetuneOptions
        device : str
            As for `napari_biomedparse.finetune`.

        Returns
        -------
        Run
            Its events are `Status`, `Progress` and at last `Tuned`.

        Raises
        ------
        WorkerError
            If no process can be started.
        """
        asked = {
            "data": str(data),
            "output": str(output),
            "checkpoint": checkpoint,
            "options": asdict(options),
            "device": device,
        }
        return self._start(None, {"training": asked})

    def _start(
        self,
        volume: Volume | None,
        description: dict[str, Any],
        *,
        brief: bool = False,
    ) -> Run:
        with self._starting:
            self._runs += 1
            run = Run(self._runs, volume, brief=brief)
            process = self._living_process() if brief else self._idle_process()
            process.start(run, description | self._cache)
        return run

    def close(self) -> None:
        """End the process and whatever it is doing."""
        with self._starting:
            if self._process is not None:
                self._process.stop()
                self._process = None
            self._volumes.forget()

    @property
    def pid(self) -> int | None:
        """Number of the process, or None while there is none."""
        return None if self._process is None else self._process.pid

    def _idle_process(self) -> Process:
        """Return a process that does nothing, or nothing but brief tasks."""
        if self._process is not None and not self._process.becomes_idle(PATIENCE):
            self._process.stop()
            self._process = None
        return self._living_process()

    def _living_process(self) -> Process:
        """Return a process that may be busy."""
        if self._process is not None and not self._process.is_alive:
            self._process.stop()
            self._process = None
        if self._process is None:
            self._process = Process(self._command)
        return self._process
