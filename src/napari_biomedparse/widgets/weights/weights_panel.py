"""Offers the download of the published weights when they are missing."""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QLabel, QLineEdit, QProgressBar, QWidget

from napari_biomedparse.errors import Cancelled, CheckpointError
from napari_biomedparse.networks.catalogue import available_models
from napari_biomedparse.networks.hub import fetch
from napari_biomedparse.networks.weights import is_downloaded, published_file
from napari_biomedparse.widgets.shared.background import LatestWork
from napari_biomedparse.widgets.shared.form import Problem, with_links
from napari_biomedparse.widgets.shared.parts import button, column, row

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from napari_biomedparse.networks.catalogue import HubFile
    from napari_biomedparse.widgets.weights.model_choice import ModelChoice


_STEPS = 1000


class WeightsPanel(QWidget):
    """Offers the download, a file or the demo model; hidden if not needed."""

    _progressed = Signal(object, object)
    """Bytes done and in total, which a C int cannot hold."""

    def __init__(self, model: ModelChoice) -> None:
        super().__init__()
        self._model = model
        self._cancelled: threading.Event | None = None
        """Stops the download that is under way."""
        self._download = LatestWork(self)
        self.terms = QLabel()
        self.terms.setWordWrap(True)
        self.terms.setOpenExternalLinks(True)
        self.token = QLineEdit()
        self.token.setEchoMode(QLineEdit.EchoMode.Password)
        self.token.setPlaceholderText("Token from huggingface.co/settings/tokens")
        self.token.setToolTip(
            "Read token from huggingface.co/settings/tokens, of an account that has "
            "accepted the terms. It is not stored. If empty, HF_TOKEN or the login of "
            "'hf auth login' is used."
        )
        self.download = button(
            "Download",
            "Accept the terms and download the weights.",
            self._on_download,
        )
        self.file = button(
            "Choose file…",
            "Use weights that you have already downloaded.",
            model.ask_for_file,
        )
        self.demo = button(
            "Use demo model",
            "Small built-in model to try the plugin with the electron microscopy and "
            "light-sheet phantoms.",
            lambda: model.choose("demo"),
        )
        self.bar = QProgressBar()
        self.bar.setToolTip("Download progress.")
        self.cancel = button(
            "Cancel", "Stop the download. It can be resumed later.", self.stop
        )
        self.problem = Problem()
        column(
            self,
            self.terms,
            self.token,
            row(self.download, self.file, self.demo),
            row((self.bar, 1), self.cancel),
            self.problem,
        )
        self.hide()  # until it has its place in a window
        self._progressed.connect(self._on_progressed)
        self._download.done.connect(lambda _: self._on_finished(""))
        self._download.failed.connect(self._on_finished)
        model.changed.connect(self.update_state)

    @property
    def missing(self) -> bool:
        """Whether the chosen model has to be downloaded first."""
        return self._file is not None and not is_downloaded(self._model.value)

    @property
    def _file(self) -> HubFile | None:
        """What the chosen model is downloaded as."""
        return published_file(str(self._model.value))

    def require(self) -> None:
        """Raise CheckpointError if the chosen model has to be downloaded first."""
        if self.missing:
            raise CheckpointError(
                f"BiomedParse {self._model.value} has not been downloaded yet. Below "
                "Model, download it, choose a file or use the demo model."
            )

    def stop(self) -> None:
        """Stop a download; what has arrived is kept for the next attempt."""
        self.abandon()
        self.update_state()

    def abandon(self) -> None:
        """Stop a download when the widget is about to be deleted."""
        if self._cancelled is not None:
            self._cancelled.set()
            self._cancelled = None
            self._download.discard()

    def update_state(self, *_: object) -> None:
        """Show what can be done now; hide if nothing is needed."""
        loading = self._cancelled is not None
        if (file := self._file) is not None:
            terms = with_links(file.licence)
            self.terms.setText(f"<b>Not downloaded yet.</b> {terms}")
            self.download.setText(f"Download {file.gigabytes} GB")
        offers: tuple[QWidget, ...] = (self.terms, self.token, self.download, self.file)
        for widget in offers:
            widget.setVisible(not loading)
        self.demo.setVisible(not loading and "demo" in available_models())
        self.bar.setVisible(loading)
        self.cancel.setVisible(loading)
        self.setVisible(self.missing)

    def _on_download(self) -> None:
        self.problem.tell("")
        self.bar.setRange(0, 0)
        self._cancelled = threading.Event()
        token = self.token.text().strip() or None
        tell = self._progressed.emit
        file = self._file
        if file is not None:
            self._download.submit(partial(_fetch, file, token, tell, self._cancelled))
        self.update_state()

    def _on_progressed(self, done: int, total: int) -> None:
        if self._cancelled is not None:
            self.bar.setRange(0, _STEPS)
            self.bar.setValue(round(_STEPS * done / total))
            self.bar.setFormat(f"{done / 1e9:.2f} of {total / 1e9:.2f} GB")

    def _on_finished(self, problem: str) -> None:
        self._cancelled = None
        self.problem.tell(problem)
        self.token.clear()
        self.update_state()


def _fetch(
    file: HubFile,
    token: str | None,
    tell: Callable[[int, int], object],
    cancelled: threading.Event,
) -> Path:
    """Download the weights; what an earlier attempt fetched is not fetched again."""

    def on_progress(done: int, total: int) -> None:
        if cancelled.is_set():
            raise Cancelled
        tell(done, total or file.size or int(file.gigabytes * 1e9))

    return fetch(
        file,
        token=token,
        on_progress=on_progress,
        confirm=lambda _: True,  # the panel has shown the licence
    )
