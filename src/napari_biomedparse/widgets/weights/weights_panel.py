"""What to do when the published weights are chosen and are not on this computer."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QProgressBar,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from napari_biomedparse.errors import CheckpointError
from napari_biomedparse.networks.catalogue import PUBLISHED, available_models
from napari_biomedparse.networks.weights import is_downloaded
from napari_biomedparse.widgets.prompts.model import WARNING
from napari_biomedparse.widgets.weights.download import Download

if TYPE_CHECKING:
    from napari_biomedparse.widgets.weights.model_choice import ModelChoice

_STEPS = 1000
_LINK = "color: #4f86e8"  # readable on napari's dark and on its light ground
_SIZE = f"{PUBLISHED.size / 1e9:.1f} GB"


class WeightsPanel(QWidget):
    """Offers the download, a file or the demo model; shown only where it is needed.

    Parameters
    ----------
    model : ModelChoice
        Which it follows.
    """

    def __init__(self, model: ModelChoice) -> None:
        super().__init__()
        self._model = model
        self._download: Download | None = None
        link = f"<a href='{PUBLISHED.page}' style='{_LINK}'>{PUBLISHED.page}</a>"
        terms = html.escape(PUBLISHED.licence).replace(PUBLISHED.page, link)
        self.terms = QLabel(f"<b>Not on this computer yet.</b> {terms}")
        self.terms.setWordWrap(True)
        self.terms.setOpenExternalLinks(True)
        self.token = QLineEdit()
        self.token.setEchoMode(QLineEdit.EchoMode.Password)
        self.token.setPlaceholderText("Hugging Face token, if you are not logged in")
        self.token.setToolTip(
            "A read token from huggingface.co/settings/tokens, of an account that has "
            "accepted the terms. It is not kept. Empty: HF_TOKEN or 'hf auth login'."
        )
        self.download = QPushButton(f"Download {_SIZE}")
        self.download.setToolTip("Accept the terms and fetch the weights, once.")
        self.file = QPushButton("Choose a file…")
        self.file.setToolTip("Use weights that you have as a file already.")
        self.demo = QPushButton("Use the demo model")
        self.demo.setToolTip(
            "Small and built in: good for a first try with electron microscopy or "
            "light-sheet phantoms."
        )
        self.bar = QProgressBar()
        self.bar.setToolTip("How much of the weights has arrived.")
        self.cancel = QPushButton("Cancel")
        self.cancel.setToolTip("Stop the download; it goes on another time.")
        self.problem = QLabel()
        self.problem.setWordWrap(True)
        self.problem.setTextInteractionFlags(
            Qt.TextInteractionFlag.TextSelectableByMouse
        )
        self.problem.setStyleSheet(f"color: {WARNING.name()}")
        self._lay_out()
        self.hide()  # until it has its place in a window
        self.download.clicked.connect(self._on_download)
        self.file.clicked.connect(model.ask_for_file)
        self.demo.clicked.connect(lambda: model.choose("demo"))
        self.cancel.clicked.connect(self.stop)
        model.changed.connect(self.update_state)

    @property
    def missing(self) -> bool:
        """Whether the model chosen is not at hand."""
        return bool(self._model.value == "v2") and not is_downloaded()

    def require(self) -> None:
        """Make sure that the model chosen is at hand.

        Raises
        ------
        CheckpointError
            If it has to be downloaded first.
        """
        if self.missing:
            raise CheckpointError(
                f"BiomedParse v2 is not on this computer yet: download it ({_SIZE}), "
                "choose a file, or take the demo model, all below Model."
            )

    def stop(self) -> None:
        """End a download; what has arrived is kept for the next attempt."""
        self.abandon()
        self.update_state()

    def abandon(self) -> None:
        """End a download and show nothing, as the widget is about to go."""
        if self._download is not None:
            self._download.cancel()
            self._download = None

    def update_state(self, *_: object) -> None:
        """Show what can be done now, if there is something to be done."""
        loading = self._download is not None
        offers: tuple[QWidget, ...] = (self.terms, self.token, self.download, self.file)
        for widget in offers:
            widget.setVisible(not loading)
        self.demo.setVisible(not loading and "demo" in available_models())
        self.bar.setVisible(loading)
        self.cancel.setVisible(loading)
        self.problem.setVisible(bool(self.problem.text()))
        self.setVisible(self.missing)

    def _on_download(self) -> None:
        self.problem.clear()
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
        self.problem.setText(problem)
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
