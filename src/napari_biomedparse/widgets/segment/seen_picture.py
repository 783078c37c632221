"""A small picture of the slice in view as the network sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import Qt
from qtpy.QtGui import QImage, QPixmap
from qtpy.QtWidgets import QLabel, QWidget

from napari_biomedparse.errors import BiomedParseError
from napari_biomedparse.networks.weights import config_of
from napari_biomedparse.slicing.intensity import choose_intensity
from napari_biomedparse.slicing.read import region_of, seen_slice
from napari_biomedparse.viewer.layers import volume_from_layer
from napari_biomedparse.widgets.shared.background import LatestWork
from napari_biomedparse.widgets.shared.parts import column, pause, plain_text

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from napari import Viewer

    from napari_biomedparse.data.options import SegmentOptions
    from napari_biomedparse.data.volume import Volume
    from napari_biomedparse.networks.config import BiomedParseConfig
    from napari_biomedparse.slicing.intensity import Intensity
    from napari_biomedparse.widgets.segment.form import SegmentForm

_PAUSE = 100
_SIZE = 180
"""Pixels of the picture's longer edge, at most."""
_Seen = tuple[object, "npt.NDArray[np.uint8]", "Intensity"]


class SeenPicture(QWidget):
    """Shows the grey levels that the network gets, while it is not hidden."""

    def __init__(self, viewer: Viewer, form: SegmentForm) -> None:
        super().__init__()
        self._viewer = viewer
        self._form = form
        self._known: tuple[object, Intensity] | None = None
        self.picture = QLabel()
        self.picture.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.picture.setAccessibleName("What the network sees of the slice in view")
        self.picture.setToolTip(
            "The slice in view as the network sees it. Areas that are all black or all "
            "white here look uniform to it. If your target is not visible, choose "
            "another modality."
        )
        self.text = plain_text()
        column(self, self.picture, self.text)
        self._pause = pause(self, _PAUSE, self._ask)
        self._work = LatestWork(self)
        self._work.done.connect(self._show)
        self._work.failed.connect(self._explain)

    def changed(self) -> None:
        """Update after a change of the slice or the options."""
        if not self.isHidden():
            self._pause.start()

    def setVisible(self, visible: bool) -> None:
        """Update when it is shown."""
        super().setVisible(visible)
        if visible:
            self._pause.start(0)

    def _ask(self) -> None:
        form = self._form
        layer = form.layer
        if layer is None:
            self._explain("There is no image.")
            return
        try:
            at = form.stack.position(self._viewer.dims)
            volume = volume_from_layer(layer, at=at)
            index = form.slice_in_view()
            options = form.options(index)
        except BiomedParseError as error:
            self._explain(str(error))
            return
        levels = (options.modality, options.region)
        about = (layer, id(layer.data), tuple(at.items()), levels)
        known = self._known[1] if self._known and self._known[0] == about else None
        config = config_of(form.model.value)
        self._work.submit(
            lambda: (about, *_look(volume, options, index, known, config))
        )

    def _show(self, seen: _Seen) -> None:
        about, grey, intensity = seen
        self._known = (about, intensity)
        rows, columns = grey.shape[:2]
        kinds = QImage.Format
        kind = kinds.Format_RGB888 if grey.ndim == 3 else kinds.Format_Grayscale8
        image = QImage(grey.tobytes(), columns, rows, grey[0].nbytes, kind)
        self.picture.setPixmap(
            QPixmap.fromImage(image).scaled(
                _SIZE,
                _SIZE,
                Qt.AspectRatioMode.KeepAspectRatio,
                Qt.TransformationMode.SmoothTransformation,
            )
        )
        self.text.setText(intensity.describe())

    def _explain(self, text: str) -> None:
        self.picture.clear()
        self.text.setText(text)


def _look(
    volume: Volume,
    options: SegmentOptions,
    index: int,
    known: Intensity | None,
    config: BiomedParseConfig,
) -> tuple[npt.NDArray[np.uint8], Intensity]:
    """Apply grey levels to a slice; choose them first if they are not known."""
    intensity = known or choose_intensity(
        region_of(volume, options).data, options.modality
    )
    size, alone = config.image_size, config.slices_alone
    return (
        seen_slice(volume, options, index, intensity=intensity, size=size, alone=alone),
        intensity,
    )
