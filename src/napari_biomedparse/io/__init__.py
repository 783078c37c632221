"""Read volumes, labels and prompts from files, and write labels.

A format is recognised by its content; the ending of a name is only a hint. Each format
is imported when a file of it is opened: a window that opens none needs neither dask nor
zarr.
"""

from napari_biomedparse.io.contents import Contents, LabelVolume
from napari_biomedparse.io.files import (
    can_open,
    check_output,
    open_file,
    open_image,
    open_labels,
    open_volume,
    save_labels,
)
from napari_biomedparse.io.inputs import recognise

__all__ = [
    "Contents",
    "LabelVolume",
    "can_open",
    "check_output",
    "open_file",
    "open_image",
    "open_labels",
    "open_volume",
    "recognise",
    "save_labels",
]
