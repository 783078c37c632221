"""Read volumes, labels and prompts from files, and write labels.

A format is recognised by its content; the ending of a name is only a hint. Functions
are imported on first use: a window that opens no file needs neither dask nor zarr.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_biomedparse.io.contents import Contents, LabelVolume

if TYPE_CHECKING:
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


def __getattr__(name: str) -> object:
    """Import a function from its module on first use."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from napari_biomedparse.io import files

    value: object = getattr(files, name)
    globals()[name] = value
    return value
