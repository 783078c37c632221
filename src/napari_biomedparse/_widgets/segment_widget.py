"""The dock widget: an Image layer and text prompts in, a Labels layer out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from napari.utils.notifications import show_error
from qtpy.QtWidgets import QApplication, QVBoxLayout, QWidget

from napari_biomedparse._napari import (
    labels_layer_kwargs,
    shown_series,
)
from napari_biomedparse._widgets._estimation import EstimateTask, Estimation
from napari_biomedparse._widgets._fold import Scrolled, fold
from napari_biomedparse._widgets._folder_layers import FolderLayers
from napari_biomedparse._widgets._live_run import LiveRun
from napari_biomedparse._widgets._model_choice import consent_to_download
from napari_biomedparse._widgets._run_view import PYTHON, RunView
from napari_biomedparse._widgets._segment_form import SegmentForm
from napari_biomedparse._widgets._worker import ArrayTask, FolderTask, Part, Task
from napari_biomedparse.errors import BiomedParseError
from napari_biomedparse.remote import Session
from napari_biomedparse.snippets import as_command, as_python

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari import Viewer
    from napari.layers import Labels

    from napari_biomedparse._widgets._request import Request


class SegmentWidget(QWidget):
    """Segment a volume by text.

    Parameters
    ----------
    napari_viewer : napari.Viewer
        Whose Image layers are offered, and where the Labels go.
    session : Session, optional
        The model process to use; one of its own by default. Closed with the widget.
    """

    def __init__(
        self, napari_viewer: Viewer, *, session: Session | None = None
    ) -> None:
        super().__init__()
        self._viewer = napari_viewer
        self.session = session or Session()
        self.run: LiveRun | Estimation | None = None
        self.form = SegmentForm(napari_viewer)
        self.view = RunView()
        layout = QVBoxLayout(self)
        advanced, large = self.form.advanced, self.form.large
        layout.addWidget(
            Scrolled(
                self.form,
                fold("Advanced", advanced),
                advanced,
                fold("Large volumes", large),
                large,
            )
        )
        layout.addWidget(self.view, 1)
        self.view.run_requested.connect(self.start)
        self.view.cancel_requested.connect(self._on_cancel_requested)
        self.view.estimate_requested.connect(self.estimate)
        self.view.copy_requested.connect(self._on_copy_requested)
        for clean in (self.session.close, self.form.disconnect):
            self.destroyed.connect(lambda *_, clean=clean: clean())

    def reset_choices(self, *_: Any) -> None:
        """Offer the layers there are now; napari calls this when they change."""
        self.form.reset_choices()

    def start(self) -> None:
        """Do what the Run button does."""
        self._begin(self._live_run_of)

    def estimate(self) -> None:
        """Do what the Estimate button does."""
        self._begin(self._estimation_of)

    def _begin(self, make: Callable[[Request], LiveRun | Estimation]) -> None:
        if self.run is not None:
            return
        try:
            asked = self.form.request()
            if not consent_to_download(asked.model, self):
                return
            self.run = make(asked)
        except BiomedParseError as error:
            show_error(str(error))
            return
        self.run.finished.connect(self._on_finished)
        self.run.start()

    def _on_cancel_requested(self) -> None:
        if self.run is not None:
            self.run.cancel()

    def _on_finished(self) -> None:
        self.run = None

    def _estimation_of(self, asked: Request) -> Estimation:
        volumes = asked.volumes
        task = EstimateTask(
            lambda: self.session.estimate(
                volumes,
                asked.prompts,
                asked.options,
                model=asked.model,
                device=asked.device,
                consensus=asked.consensus,
                to_folder=asked.folder is not None,
            ),
            asked.prompts,
        )
        return Estimation(task, self.view)

    def _live_run_of(self, asked: Request) -> LiveRun:
        in_folder = asked.folder is not None
        return (self._run_to_folder if in_folder else self._run_in_memory)(asked)

    def _run_to_folder(self, asked: Request) -> LiveRun:
        recipe = asked.recipe()
        task = FolderTask(lambda: self.session.run_to_folder(recipe), asked.prompts)
        return self._live_run(asked, FolderLayers(self._viewer, asked), task)

    def _run_in_memory(self, asked: Request) -> LiveRun:
        volumes, channel = asked.volumes, asked.channel_of_series
        prompts, image = asked.prompts, asked.image
        dtype = np.int32 if prompts.instance else np.min_scalar_type(prompts.ids[-1])
        labels = np.zeros((len(volumes), *volumes[0].grid), dtype)

        def part(at: int) -> Part:
            return Part(
                lambda: self.session.run(
                    volumes[at],
                    prompts,
                    asked.options,
                    model=asked.model,
                    device=asked.device,
                    consensus=asked.consensus,
                ),
                labels[at],
                None if channel is None else at,
            )

        task = ArrayTask([part(at) for at in range(len(volumes))], prompts)
        keywords = labels_layer_kwargs(
            image, prompts, name=f"{image.name} segmentation", series_at=channel
        )
        # Views, which fill with the labels.
        shown = labels[:, 0] if volumes[0].flat else labels
        shown = shown[0] if channel is None else shown_series(image, shown)
        return self._live_run(asked, self._viewer.add_labels(shown, **keywords), task)

    def _live_run(
        self, asked: Request, shown: Labels | FolderLayers, task: Task
    ) -> LiveRun:
        return LiveRun(
            self._viewer,
            shown,
            task,
            self.view,
            image_name=asked.image.name,
            flat=asked.volumes[0].flat,
        )

    def _on_copy_requested(self, language: str) -> None:
        try:
            recipe = self.form.request().recipe()
            text = as_python(recipe) if language == PYTHON else as_command(recipe)
        except BiomedParseError as error:
            show_error(str(error))
            return
        clipboard = QApplication.clipboard()
        assert clipboard is not None
        clipboard.setText(text)
        self.view.say(f"Copied, to be run as {language}.")
