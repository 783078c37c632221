"""From a request to a run: what the model process is told, and the layers that fill."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_biomedparse._napari import labels_layer_kwargs, shown_series
from napari_biomedparse._widgets._array_task import ArrayTask, Part, Ranges
from napari_biomedparse._widgets._estimation import EstimateTask, Estimation
from napari_biomedparse._widgets._folder_layers import FolderLayers
from napari_biomedparse._widgets._folder_task import FolderTask
from napari_biomedparse._widgets._live_run import LiveRun

if TYPE_CHECKING:
    import numpy.typing as npt
    from napari import Viewer
    from napari.layers import Labels

    from napari_biomedparse._widgets._eye import Eye
    from napari_biomedparse._widgets._request import Request
    from napari_biomedparse._widgets._run_view import RunView
    from napari_biomedparse.remote import Run, Session


class Runs:
    """Makes the runs that are asked for.

    Parameters
    ----------
    viewer : napari.Viewer
        Where the Labels go.
    session : Session
        The model process.
    view : RunView
        Where progress is shown.
    eye : Eye
        Where the user is looking.
    """

    def __init__(
        self, viewer: Viewer, session: Session, view: RunView, eye: Eye
    ) -> None:
        self._viewer = viewer
        self._session = session
        self._view = view
        self._eye = eye

    def run(self, asked: Request, front: int | None) -> LiveRun:
        """Make a run.

        Parameters
        ----------
        asked : Request
        front : int, optional
            The slice that is in view along the slicing axis.

        Raises
        ------
        BiomedParseError
            If the request cannot be met.
        """
        return (
            self._in_memory(asked, front)
            if asked.folder is None
            else (self._in_folder(asked))
        )

    def rest(self, run: LiveRun) -> LiveRun:
        """Make a run that goes on where another one was stopped."""
        asked, task, layer = run.asked, run.task, run.layer
        if isinstance(task, ArrayTask) and layer is not None:
            rest = task.rest()
            rest.front = task.front
            return self._live(asked, layer, rest)
        if layer is not None and layer in self._viewer.layers:
            self._viewer.layers.remove(layer)  # what is on disk is shown anew
        return self._in_folder(asked)

    def estimation(self, asked: Request) -> Estimation:
        """Make an estimate of what a run takes."""
        volumes = asked.volumes
        task = EstimateTask(
            lambda: self._session.estimate(
                volumes,
                asked.prompts,
                asked.options,
                model=asked.model,
                device=asked.device,
                consensus=asked.consensus,
                to_folder=asked.folder is not None,
            )
        )
        return Estimation(task, self._view)

    def _in_folder(self, asked: Request) -> LiveRun:
        recipe = asked.recipe()
        task = FolderTask(lambda: self._session.run_to_folder(recipe), asked.prompts)
        return self._live(asked, FolderLayers(self._viewer, asked), task)

    def _in_memory(self, asked: Request, front: int | None) -> LiveRun:
        volumes, channel = asked.volumes, asked.channel_of_series
        layer, labels = self._layer(asked)

        def part(at: int) -> Part:
            def begin(done: Ranges, front: int | None) -> Run:
                return self._session.run(
                    volumes[at],
                    asked.prompts,
                    asked.options,
                    model=asked.model,
                    device=asked.device,
                    consensus=asked.consensus,
                    done=done,
                    front=front,
                )

            return Part(begin, labels[at], None if channel is None else at)

        task = ArrayTask([part(at) for at in range(len(volumes))], asked.prompts)
        task.front = front
        return self._live(asked, layer, task)

    def _layer(self, asked: Request) -> tuple[Labels, npt.NDArray[Any]]:
        """Return the layer of a request, and the array [T, Z, Y, X] that it shows."""
        prompts, image = asked.prompts, asked.image
        dtype = np.int32 if prompts.instance else np.min_scalar_type(prompts.ids[-1])
        labels = np.zeros((len(asked.volumes), *asked.volumes[0].grid), dtype)
        keywords = labels_layer_kwargs(
            image,
            prompts,
            name=f"{image.name} segmentation",
            series_at=asked.channel_of_series,
        )
        # Views, which fill with the labels.
        shown = labels[:, 0] if asked.volumes[0].flat else labels
        shown = (
            shown[0] if asked.channel_of_series is None else shown_series(image, shown)
        )
        layer = self._viewer.add_labels(shown, **keywords)
        return layer, labels

    def _live(
        self,
        asked: Request,
        shown: Labels | FolderLayers,
        task: ArrayTask | FolderTask,
    ) -> LiveRun:
        return LiveRun(self._viewer, shown, task, self._view, self._eye, asked)
