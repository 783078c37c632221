"""From a request to a run: what the model process is told, and the layers that fill."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.utils.colormaps import label_colormap

from napari_biomedparse.process.messages import (
    EstimateRequest,
    FolderRequest,
    SegmentRequest,
)
from napari_biomedparse.viewer.axes import shown_series
from napari_biomedparse.viewer.layers import labels_layer_kwargs
from napari_biomedparse.widgets.segment.estimation import EstimateTask, Estimation
from napari_biomedparse.widgets.segment.folder_layers import FolderLayers
from napari_biomedparse.widgets.segment.live_run import LiveRun
from napari_biomedparse.widgets.segment.preview_layers import refill
from napari_biomedparse.widgets.segment.tasks import (
    AgainTask,
    ArrayPart,
    ArrayTask,
    FolderTask,
)
from napari_biomedparse.widgets.segment.written_labels import WrittenLabels

if TYPE_CHECKING:
    import numpy.typing as npt
    from napari import Viewer
    from napari.layers import Image, Labels
    from napari.utils.events import Event

    from napari_biomedparse.process import RunHandle, Session
    from napari_biomedparse.process.messages import Span
    from napari_biomedparse.widgets.segment.request import Request
    from napari_biomedparse.widgets.segment.run_view import RunView
    from napari_biomedparse.widgets.shared.eye import Eye

PAINTING = ("paint", "erase", "fill", "polygon")
"""Modes of a Labels layer in which it can be changed."""


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
    spare : callable
        Returns a Labels layer of the viewer that a run may fill, or None.
    """

    def __init__(
        self,
        viewer: Viewer,
        session: Session,
        view: RunView,
        eye: Eye,
        spare: Callable[[], Labels | None],
    ) -> None:
        self._viewer = viewer
        self._session = session
        self._view = view
        self._eye = eye
        self._spare = spare
        self._written: weakref.WeakKeyDictionary[Labels, WrittenLabels] = (
            weakref.WeakKeyDictionary()
        )
        self._latest: weakref.WeakKeyDictionary[Image, tuple[Labels, ...]] = (
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
        asked, task, layers = run.asked, run.task, run.layers
        if isinstance(task, ArrayTask):
            parts = self._parts(asked, self._written[layers[0]], before=task)
            rest = ArrayTask(parts, asked.prompts, before=task)
            rest.front = task.front
            return self._live(asked, lambda: layers, rest)
        for layer in layers:
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
        task, layers = run.task, run.layers
        if not isinstance(task, ArrayTask) or not run.is_shown or not task.can_redo:
            return None
        written = self._dress(layers, asked)
        parts = self._parts(asked, written, before=task, again=True)
        again = AgainTask(parts, asked.prompts, task)
        again.front = task.front
        return self._live(asked, lambda: layers, again)

    def estimation(self, asked: Request) -> Estimation:
        """Make an estimate of what a run takes."""
        volumes = asked.volumes
        task = EstimateTask(
            lambda: self._session.start(
                EstimateRequest(
                    volume=volumes[0],
                    prompts=asked.prompts,
                    options=asked.options,
                    model=asked.model,
                    device=asked.device,
                    consensus=asked.consensus,
                    to_folder=asked.folder is not None,
                    times=len(volumes),
                )
            )
        )
        return Estimation(task, self._view)

    def _in_folder(self, asked: Request) -> LiveRun:
        request = FolderRequest(asked.recipe())
        task = FolderTask(lambda: self._session.start(request), asked.prompts)
        return self._live(asked, FolderLayers(self._viewer, asked), task)

    def _in_memory(self, asked: Request, front: int | None) -> LiveRun:
        count = (len(asked.prompts),) if asked.separate else ()
        shape = (len(asked.volumes), *count, *asked.volumes[0].grid)
        layers = self._latest.get(asked.image, ()) if asked.overwrite else ()
        kept = (
            bool(layers)
            and all(layer in self._viewer.layers for layer in layers)
            and self._written[layers[0]].labels.shape == shape
        )
        labels = (
            self._cleared(layers, asked)
            if kept
            else np.zeros(shape, _label_dtype(asked))
        )

        written = WrittenLabels(labels)

        def show() -> tuple[Labels, ...]:
            shown = layers if kept else tuple(self._add(asked, labels))
            self._latest[asked.image] = shown
            self._follow(shown, written)
            return shown

        task = ArrayTask(self._parts(asked, written), asked.prompts)
        task.front = front
        return self._live(asked, show, task)

    def _add(self, asked: Request, labels: npt.NDArray[Any]) -> Iterator[Labels]:
        """Add the layers of labels, one or one a prompt."""
        layers, spare = self._viewer.layers, self._spare()
        for shown, keywords in _shown(asked, labels):
            if spare is not None and spare.ndim == shown.ndim:
                refill(spare, shown, {"colormap": label_colormap(), **keywords})
                if not spare.visible:
                    spare.visible = True
                layers.move(layers.index(spare), len(layers))
                layers.selection.active = spare
                yield spare
            else:
                if spare is not None:
                    layers.remove(spare)
                yield self._viewer.add_labels(shown, **keywords)
            spare = None

    def _cleared(self, layers: Sequence[Labels], asked: Request) -> npt.NDArray[Any]:
        """Empty what a run fills of layers, and keep the rest if it can be kept."""
        dtype, old = _label_dtype(asked), self._written[layers[0]].labels
        objects = np.dtype(np.int32) in (dtype, old.dtype)  # which numbers anew
        labels = np.zeros(old.shape, dtype) if objects else old.astype(dtype)
        if asked.options.slices is None:
            cleared: Any = (..., *asked.where)
            labels[cleared] = 0
        _put(layers, asked, labels)
        return labels

    def _parts(
        self,
        asked: Request,
        written: WrittenLabels,
        *,
        before: ArrayTask | None = None,
        again: bool = False,
    ) -> list[ArrayPart]:
        """Return runs, one a volume of the request, to fill [T, (P,) Z, Y, X]."""
        volumes = asked.volumes

        def part(at: int) -> ArrayPart:
            def begin(done: tuple[Span, ...], front: int | None) -> RunHandle:
                return self._session.start(
                    SegmentRequest(
                        volume=volumes[at],
                        prompts=asked.prompts,
                        options=asked.options,
                        model=asked.model,
                        device=asked.device,
                        consensus=asked.consensus,
                        done=done,
                        front=front,
                        earlier=None if before is None else before.number_of(at),
                        again=again,
                        beside=len(volumes),
                    )
                )

            def select(labels: npt.NDArray[Any]) -> npt.NDArray[Any]:
                part: npt.NDArray[Any] = labels[at][(..., *asked.where)]
                return part

            return ArrayPart(begin, written, select, at if asked.series else None)

        return [part(at) for at in range(len(volumes))]

    def _dress(self, layers: Sequence[Labels], asked: Request) -> WrittenLabels:
        """Make layers fit for what is to be shown in them; return their labels."""
        written, dtype = self._written[layers[0]], _label_dtype(asked)
        if dtype != written.labels.dtype:
            written = WrittenLabels(written.labels.astype(dtype))
            _put(layers, asked, written.labels)
            self._follow(layers, written)
        return written

    def _follow(self, layers: Sequence[Labels], written: WrittenLabels) -> None:
        """Notice when somebody is about to paint into layers of labels."""
        for layer in layers:
            self._written[layer] = written
            layer.events.mode.connect(self._on_mode)
            self._hold(layer)

    def _on_mode(self, event: Event) -> None:
        self._hold(event.source)

    def _hold(self, layer: Labels) -> None:
        """Hold what the run wrote, once a tool is chosen that paints."""
        if layer.mode in PAINTING:
            self._written[layer].before_painting()

    def _live(
        self,
        asked: Request,
        shown: Callable[[], Sequence[Labels]] | FolderLayers,
        task: ArrayTask | FolderTask,
    ) -> LiveRun:
        return LiveRun(self._viewer, shown, task, self._view, self._eye, asked)


def _put(layers: Sequence[Labels], asked: Request, labels: npt.NDArray[Any]) -> None:
    """Have layers show other labels."""
    for layer, (shown, keywords) in zip(layers, _shown(asked, labels), strict=True):
        layer.data = shown
        layer.colormap = keywords.get("colormap", label_colormap())
        layer.features = keywords.get("features", {})
        layer.metadata = {**layer.metadata, **keywords["metadata"]}


def _label_dtype(asked: Request) -> np.dtype[Any]:
    """Return the smallest type for label ids, or one for any number of objects."""
    if asked.prompts.instance:
        return np.dtype(np.int32)
    return np.min_scalar_type(asked.prompts.ids[-1])


def _shown(
    asked: Request, labels: npt.NDArray[Any]
) -> Iterator[tuple[npt.NDArray[Any], dict[str, Any]]]:
    """Yield what each layer shows of labels [T, (P,) Z, Y, X], and its keywords."""
    image, prompts = asked.image, asked.prompts
    names = prompts.texts if asked.separate else ("segmentation",)
    for at, name in enumerate(names):
        # Views, which fill with the labels.
        shown = labels[:, at] if asked.separate else labels
        shown = shown[:, 0] if asked.volumes[0].flat else shown
        keywords = labels_layer_kwargs(
            image,
            prompts,
            name=f"{image.name} {name}",
            series_at=asked.channel_of_series,
        )
        yield shown_series(image, shown) if asked.series else shown[0], keywords
