"""Files in and out: volumes, labels and prompts from paths, labels to paths.

Formats are told apart by content; the ending of a name is a hint only.
"""

from __future__ import annotations

from napari_biomedparse.io.contents import Contents, LabelVolume
from napari_biomedparse.io.files import (
    can_open,
    check_output,
    open_file,
    open_image,
    open_volume,
    recognise,
    save_labels,
)

__all__ = [
    "Contents",
    "LabelVolume",
    "can_open",
    "check_output",
    "open_file",
    "open_image",
    "open_volume",
    "recognise",
    "save_labels",
]
