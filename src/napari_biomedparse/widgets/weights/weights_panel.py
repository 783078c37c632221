"""Offers the download of the published weights when they are missing."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from qtpy.QtCore import QObject, Signal
from qtpy.QtWidgets import (
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QProgressBar,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from napari_biomedparse.errors import BiomedParseError, CheckpointError
from napari_biomedparse.networks.catalogue import PUBLISHED, available_models
from napari_biomedparse.networks.hub import fetch
from napari_biomedparse.networks.weights import is_downloaded
from napari_biomedparse.widgets.shared.form import Problem, with_links

if TYPE_CHECKING:
    from napari_biomedparse.widgets.weights.model_choice import ModelChoice


class _Stopped(Exception):
    """Ends a download from its progress callback."""


class Download(QObject):
    """One attempt, in a thread; after `cancel` no signal is emitted."""

    progressed = Signal(object, object)
    """Bytes done and in total, which a C int cannot hold."""
    finished = Signal(str)
    """The error message, or empty."""

    def __init__(self, token: str | None) -> None:
        super().__init__()
        self._token = token
        self._cancelled = threading.Event()
        self._thread = threading.Thread(
            target=self._work, name="biomedparse-download", daemon=True
        )

    def start(self) -> None:
        """Start; what an earlier attempt fetched is not fetched again."""
        self._thread.start()

    def cancel(self) -> None:
        """Stop when the next piece arrives."""
        self._cancelled.set()

    def wait(self, seconds: float) -> bool:
        """Wait for the thread; return whether it has ended."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _work(self) -> None:
        problem = ""
        try:
            fetch(
                PUBLISHED,
                token=self._token,
                on_progress=self._on_progress,
                confirm=lambda _: True,  # the panel has shown the licence
            )
        except BiomedParseError as error:
            problem = str(error)
        if not self._cancelled.is_set():
            self.finished.emit(problem)

    def _on_progress(self, done: int, total: int) -> None:
        if self._cancelled.is_set():
            raise _Stopped
        self.progressed.emit(done, total or PUBLISHED.size)


_STEPS = 1000
_SIZE = f"{PUBLISHED.size / 1e9:.1f} GB"


class WeightsPanel(QWidget):
    """Offers the download, a file or the demo model; hidden if not needed."""

    def __init__(self, model: ModelChoice) -> None:
        super().__init__()
        self._model = model
        self._download: Download | None = None
        terms = with_links(PUBLISHED.licence)
        self.terms = QLabel(f"<b>Not downloaded yet.</b> {terms}")
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
        self.download = QPushButton(f"Download {_SIZE}")
        self.download.setToolTip("Accept the terms and download the weights.")
        self.file = QPushButton("Choose file…")
        self.file.setToolTip("Use weights that you have already downloaded.")
        self.demo = QPushButton("Use demo model")
        self.demo.setToolTip(
            "Small built-in model to try the plugin with the electron microscopy and "
            "light-sheet phantoms."
        )
        self.bar = QProgressBar()
        self.bar.setToolTip("Download progress.")
        self.cancel = QPushButton("Cancel")
        self.cancel.setToolTip("Stop the download. It can be resumed later.")
        self.problem = Problem()
        self._lay_out()
        self.hide()  # until it has its place in a window
        self.download.clicked.connect(self._on_download)
        self.file.clicked.connect(model.ask_for_file)
        self.demo.clicked.connect(lambda: model.choose("demo"))
        self.cancel.clicked.connect(self.stop)
        model.changed.connect(self.update_state)

    @property
    def missing(self) -> bool:
        """Whether the chosen model has to be downloaded first."""
        return bool(self._model.value == "v2") and not is_downloaded()

    def require(self) -> None:
        """Raise CheckpointError if the chosen model has to be downloaded first."""
        if self.missing:
            raise CheckpointError(
                "BiomedParse v2 has not been downloaded yet. Below Model, download it "
                f"({_SIZE}), choose a file or use the demo model."
            )

    def stop(self) -> None:
        """Stop a download; what has arrived is kept for the next attempt."""
        self.abandon()
        self.update_state()

    def abandon(self) -> None:
        """Stop a download when the widget is about to be deleted."""
        if self._download is not None:
            self._download.cancel()
            self._download = None

    def update_state(self, *_: object) -> None:
        """Show what can be done now; hide if nothing is needed."""
        loading = self._download is not None
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
        self._download = Download(self.token.text().strip() or None)
        self._download.progressed.connect(self._on_progressed)
        self._download.finished.connect(self._on_finished)
        self._download.start()
        self.update_state()

    def _on_progressed(self, done: int, total: int) -> None:
        if self._download is not None:
            self.bar.setRange(0, _STEPS)
            self.bar.setValue(round(_STEPS * done / total))
            self.bar.setFormat(f"{done / 1e9:.2f} of {total / 1e9:.2f} GB")

    def _on_finished(self, problem: str) -> None:
        self._download = None
        self.problem.tell(problem)
        self.token.clear()
        self.update_state()

    def _lay_out(self) -> None:
        buttons, progress = QHBoxLayout(), QHBoxLayout()
        for button in (self.download, self.file, self.demo):
            buttons.addWidget(button)
        progress.addWidget(self.bar, 1)
        progress.addWidget(self.cancel)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.terms)
        layout.addWidget(self.token)
        layout.addLayout(buttons)
        layout.addLayout(progress)
        layout.addWidget(self.problem)
