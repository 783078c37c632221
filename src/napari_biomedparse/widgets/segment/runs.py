"""From a request to a run: its task in the model process and its layers."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.utils.colormaps import label_colormap

from napari_biomedparse.data.prompts import INSTANCE_KEY
from napari_biomedparse.errors import OptionError, VolumeError
from napari_biomedparse.networks.weights import untaught
from napari_biomedparse.process.messages import (
    EstimateRequest,
    FolderRequest,
    SegmentRequest,
    TeachRequest,
)
from napari_biomedparse.viewer.axes import shown_series
from napari_biomedparse.viewer.layers import (
    METADATA_KEY,
    REVIEWED_KEY,
    labels_layer_kwargs,
    reviewed,
)
from napari_biomedparse.widgets.segment.estimation import Estimation
from napari_biomedparse.widgets.segment.folder_layers import add_labels_of_folder
from napari_biomedparse.widgets.segment.live_run import LiveRun
from napari_biomedparse.widgets.segment.preview import refill
from napari_biomedparse.widgets.segment.tasks import (
    AgainTask,
    ArrayPart,
    ArrayTask,
    FolderTask,
)
from napari_biomedparse.widgets.segment.teaching import Teaching
from napari_biomedparse.widgets.segment.written_labels import Window, WrittenLabels
from napari_biomedparse.widgets.shared.task import SegmentTask, Task

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt
    from napari import Viewer
    from napari.layers import Image, Labels, Layer

    from napari_biomedparse.data.results import Span
    from napari_biomedparse.process import RunHandle, Session
    from napari_biomedparse.widgets.segment.request import Request
    from napari_biomedparse.widgets.segment.run_view import RunView
    from napari_biomedparse.widgets.shared.position import Eye


class Runs:
    """Makes runs from requests.

    `spare` returns a Labels layer of the viewer that a run may fill, or None.
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

    def run(self, request: Request, front: int | None) -> LiveRun:
        """Make a run that begins at `front`; BiomedParseError if it is not possible."""
        if request.folder is not None:
            return self._in_folder(request)
        return self._in_memory(request, front)

    def rest(self, run: LiveRun) -> LiveRun:
        """Make a run that continues one that was stopped."""
        request, task, layers = run.request, run.task, run.layers
        if isinstance(task, ArrayTask):
            written = self._written[layers[0]]
            if not written.open(_label_dtype(request)):
                raise VolumeError(
                    "The labels of this run were replaced by others of another shape. "
                    "Press Run for a new layer."
                )
            parts = self._parts(request, written, before=task)
            rest = ArrayTask(parts, request.prompts, before=task, begin=written.begin)
            return self._live(request, lambda: layers, rest)
        for layer in layers:
            self._viewer.layers.remove(layer)  # what is on disk is added again
        return self._in_folder(request)

    def again(self, run: LiveRun, request: Request) -> LiveRun | None:
        """Make a run that applies other thresholds to the slices of another run.

        None if that needs a run from the start.
        """
        task, layers = run.task, run.layers
        if not isinstance(task, ArrayTask) or not run.is_shown or not task.can_redo:
            return None
        written = self._written[layers[0]]
        if not written.open(_label_dtype(request)):
            return None
        instance = int(request.prompts.instance)
        if layers[0].metadata.get(METADATA_KEY, {}).get(INSTANCE_KEY) != instance:
            _set_appearance(layers, request)
        parts = self._parts(request, written, before=task, again=True)
        again = AgainTask(parts, request.prompts, task, written.begin)
        live = self._live(request, lambda: layers, again)
        live.warned = run.warned  # thresholds may be dragged
        return live

    def estimation(self, request: Request) -> Estimation:
        """Make an estimate of a run."""
        message = EstimateRequest(
            volume=request.volumes[0],
            prompts=request.prompts,
            options=request.options,
            model=request.model,
            device=request.device,
            consensus=request.consensus,
            to_folder=request.folder is not None,
            times=len(request.volumes),
        )
        return Estimation(Task(lambda: self._session.start(message)), self._view)

    def can_teach(self, run: LiveRun) -> bool:
        """Return whether corrections of a run's labels can teach."""
        request, task = run.request, run.task
        several = request.series or request.separate or request.consensus
        return isinstance(task, ArrayTask) and not (several or request.kind)

    def teaching(self, run: LiveRun, output: Path) -> Teaching:
        """Make a lesson from what a person accepted or painted in a run's labels.

        An OptionError is raised if there is nothing, or the labels are of another kind.
        """
        request, task = run.request, run.task
        if (
            not (isinstance(task, ArrayTask) and self.can_teach(run))
            or task.plan is None
        ):
            raise OptionError(
                "Corrections teach where labels are those of one volume in one layer, "
                "not of a time series, a consensus, a run folder, or a layer for each "
                "prompt. Run the volume that way, or use napari-biomedparse teach."
            )
        window = (slice(0, 1), *request.where)
        known = self._written[run.layers[0]].corrected(
            window, task.plan.axis, request.prompts.ids
        )
        if not known:
            raise OptionError("Nothing is corrected: accept or paint a slice first.")
        message = TeachRequest(
            volume=request.volumes[0],
            prompts=request.prompts,
            options=request.options,
            model=untaught(request.model),
            device=request.device,
            corrected=tuple(known),
            labels=np.stack(list(known.values())),
            output=output,
            earlier=task.number_of(0),
        )
        return Teaching(Task(lambda: self._session.start(message)), self._view)

    def _in_folder(self, request: Request) -> LiveRun:
        message = FolderRequest(request.recipe())
        task = FolderTask(lambda: self._session.start(message), request.prompts)

        def show() -> tuple[Labels, ...]:
            return (add_labels_of_folder(self._viewer, request),)

        return self._live(request, show, task)

    def _in_memory(self, request: Request, front: int | None) -> LiveRun:
        count = (len(request.prompts),) if request.separate else ()
        shape = (len(request.volumes), *count, *request.volumes[0].grid)
        layers = self._latest.get(request.image, ()) if request.overwrite else ()
        dtype = _label_dtype(request)
        kept = (
            bool(layers)
            and all(layer in self._viewer.layers for layer in layers)
            and self._written[layers[0]].labels.shape == shape
            and self._written[layers[0]].open(dtype)
        )
        if kept:
            written = self._written[layers[0]]
            _set_appearance(layers, request)
        else:
            written = WrittenLabels(np.zeros(shape, dtype))

        def show() -> tuple[Labels, ...]:
            if kept:
                return layers
            for layer in self._latest.get(request.image, ()):
                layer.visible = False  # what lies below would shine through
            shown = tuple(self._add(request, written.labels))
            self._latest[request.image] = shown
            self._written.update(dict.fromkeys(shown, written))
            written.follow(shown)
            return shown

        clear = partial(written.begin, _cleared(request)) if kept else None
        parts = self._parts(request, written)
        task = ArrayTask(parts, request.prompts, begin=clear)
        task.front = front
        return self._live(request, show, task)

    def _add(self, request: Request, labels: npt.NDArray[Any]) -> Iterator[Labels]:
        """Add the layers of labels: one, or one per prompt."""
        layers, spare = self._viewer.layers, self._spare()
        others = [layer for layer in layers if layer is not spare]
        for shown, keywords in _shown(request, labels, others):
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

    def _parts(
        self,
        request: Request,
        written: WrittenLabels,
        *,
        before: ArrayTask | None = None,
        again: bool = False,
    ) -> list[ArrayPart]:
        """Return the runs, one per volume, that fill labels [T, (P,) Z, Y, X]."""
        volumes = request.volumes

        def part(at: int) -> ArrayPart:
            def begin(done: tuple[Span, ...], front: int | None) -> RunHandle:
                return self._session.start(
                    SegmentRequest(
                        volume=volumes[at],
                        prompts=request.prompts,
                        options=request.options,
                        model=request.model,
                        device=request.device,
                        consensus=request.consensus,
                        done=done,
                        front=front,
                        earlier=None if before is None else before.number_of(at),
                        again=again,
                        beside=len(volumes),
                        kind=request.kind,
                    )
                )

            others = (slice(None),) * (written.labels.ndim - 4)
            window = (slice(at, at + 1), *others, *request.where)
            return ArrayPart(begin, written, window, at if request.series else None)

        return [part(at) for at in range(len(volumes))]

    def _live(
        self,
        request: Request,
        shown: Callable[[], Sequence[Labels]],
        task: SegmentTask,
    ) -> LiveRun:
        return LiveRun(self._viewer, shown, task, self._view, self._eye, request)


def _set_appearance(layers: Sequence[Labels], request: Request) -> None:
    """Give layers the colours and names of a request, and keep what is accepted."""
    for layer, keywords in zip(layers, _keywords(request), strict=True):
        layer.colormap = keywords.get("colormap", label_colormap())
        layer.features = keywords.get("features", {})
        marks = {REVIEWED_KEY: found} if (found := reviewed(layer)) else {}
        known = {**keywords["metadata"][METADATA_KEY], **marks}
        layer.metadata = {**layer.metadata, METADATA_KEY: known}


def _cleared(request: Request) -> Window | None:
    """Return what a run over labels clears; objects are separated in all slices."""
    others = (slice(None),) * (2 if request.separate else 1)
    if request.prompts.instance:
        return (*others, *(slice(None),) * 3)
    return (*others, *request.where) if request.options.slices is None else None


def _label_dtype(request: Request) -> np.dtype[Any]:
    """Return the smallest type for label ids, or one for any number of objects."""
    if request.prompts.instance:
        return np.dtype(np.int32)
    return np.min_scalar_type(request.prompts.ids[-1])


def _shown(
    request: Request, labels: npt.NDArray[Any], layers: Iterable[Layer]
) -> Iterator[tuple[npt.NDArray[Any], dict[str, Any]]]:
    """Yield each layer's view of labels [T, (P,) Z, Y, X], and its keywords."""
    for at, keywords in enumerate(_keywords(request, layers)):
        # Views, which fill with the labels.
        shown = labels[:, at] if request.separate else labels
        shown = shown[:, 0] if request.volumes[0].flat else shown
        yield (
            shown_series(request.image, shown) if request.series else shown[0],
            keywords,
        )


def _keywords(
    request: Request, layers: Iterable[Layer] = ()
) -> Iterator[dict[str, Any]]:
    """Yield the keywords of each layer, beside others."""
    image, prompts = request.image, request.prompts
    for subject in prompts.texts if request.separate else [request.subject]:
        yield labels_layer_kwargs(
            image,
            prompts,
            name=request.title(subject, layers),
            series_at=request.channel_of_series,
        )
