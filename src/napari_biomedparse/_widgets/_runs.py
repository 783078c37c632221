"""From a request to a run: what the model process is told, and the layers that fill."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.utils.colormaps import label_colormap

from napari_biomedparse._napari import labels_layer_kwargs, shown_series
from napari_biomedparse._widgets._array_task import AgainTask, ArrayTask, Part, Ranges
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
        self._arrays: weakref.WeakKeyDictionary[Labels, npt.NDArray[Any]] = (
            weakref.WeakKeyDictionary()
        )

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
            parts = self._parts(asked, self._arrays[layer])
            rest = ArrayTask(parts, asked.prompts, before=task)
            rest.front = task.front
            return self._live(asked, layer, rest)
        if layer is not None and layer in self._viewer.layers:
            self._viewer.layers.remove(layer)  # what is on disk is shown anew
        return self._in_folder(asked)

    def again(self, run: LiveRun, asked: Request) -> LiveRun | None:
        """Make a run that applies other thresholds to what another run has done.

        Parameters
        ----------
        run : LiveRun
        asked : Request
            The run's request, with other thresholds.

        Returns
        -------
        LiveRun or None
            None if only a run from the start can apply them.
        """
        task, layer = run.task, run.layer
        if not isinstance(task, ArrayTask) or layer is None or not task.can_redo:
            return None
        number = task.number
        labels = self._dress(layer, asked, self._arrays[layer])
        (part,) = self._parts(asked, labels, again=number)
        again = AgainTask(part, asked.prompts, task)
        again.front = task.front
        return self._live(asked, layer, again)

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
        labels = np.zeros(
            (len(asked.volumes), *asked.volumes[0].grid), _label_dtype(asked)
        )
        shown, keywords = _shown(asked, labels)
        layer = self._viewer.add_labels(shown, **keywords)
        self._arrays[layer] = labels
        task = ArrayTask(self._parts(asked, labels), asked.prompts)
        task.front = front
        return self._live(asked, layer, task)

    def _parts(
        self, asked: Request, labels: npt.NDArray[Any], *, again: int | None = None
    ) -> list[Part]:
        """Return a run for each volume of a request, to fill labels [T, Z, Y, X]."""
        volumes = asked.volumes

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
                    again=again,
                )

            return Part(begin, labels[at], at if asked.series else None)

        return [part(at) for at in range(len(volumes))]

    def _dress(
        self, layer: Labels, asked: Request, labels: npt.NDArray[Any]
    ) -> npt.NDArray[Any]:
        """Make a layer fit for what is to be shown in it; return its array."""
        dtype = _label_dtype(asked)
        if dtype != labels.dtype:
            labels = self._arrays[layer] = labels.astype(dtype)
            shown, keywords = _shown(asked, labels)
            layer.data = shown
            layer.colormap = keywords.get("colormap", label_colormap())
            layer.features = keywords.get("features", {})
        return labels

    def _live(
        self,
        asked: Request,
        shown: Labels | FolderLayers,
        task: ArrayTask | FolderTask,
    ) -> LiveRun:
        return LiveRun(self._viewer, shown, task, self._view, self._eye, asked)


def _label_dtype(asked: Request) -> np.dtype[Any]:
    """Return the smallest type for label ids, or one for any number of objects."""
    if asked.prompts.instance:
        return np.dtype(np.int32)
    return np.min_scalar_type(asked.prompts.ids[-1])


def _shown(
    asked: Request, labels: npt.NDArray[Any]
) -> tuple[npt.NDArray[Any], dict[str, Any]]:
    """Return what a layer shows of labels [T, Z, Y, X], a view, and its keywords."""
    keywords = labels_layer_kwargs(
        asked.image,
        asked.prompts,
        name=f"{asked.image.name} segmentation",
        series_at=asked.channel_of_series,
    )
    shown = labels[:, 0] if asked.volumes[0].flat else labels
    shown = shown_series(asked.image, shown) if asked.series else shown[0]
    return shown, keywords
