"""Read pictures (PNG, JPEG, BMP) with Pillow, as one grey or color image each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_biomedparse.data.volume import Volume
from napari_biomedparse.io.contents import Contents
from napari_biomedparse.io.guards.bounds import check_pixels, too_large
from napari_biomedparse.io.lazy import lazy_array

if TYPE_CHECKING:
    from PIL.Image import Image

_GREY = {"1": "L", "L": "L", "LA": "L", "La": "L"}


def open_picture(path: Path, *, stored: bool = False) -> Contents:
    """Open a picture without reading pixels, [Y, X] or, in color, [Y, X, 3].

    8 or 16 bits, of which networks take color only by channel. Alpha is dropped and not
    blended; a palette is turned to its colors unless `stored`, which leaves its indices
    as they are. A photograph is not rotated by what its camera recorded, and has no
    pixel size.
    """
    with _opened(path) as image, path.open("rb") as file:
        size, mode = (image.height, image.width), image.mode
        head = file.read(26)
    deep = head.startswith(b"\x89PNG") and head[24] == 16  # Pillow keeps 8 of color
    indices = stored and mode in ("P", "PA")
    colour = head[25] & 2 > 0 if deep else not indices and mode not in _GREY

    def read(where: tuple[slice, ...]) -> npt.NDArray[Any]:
        with _opened(path) as image:
            if deep:
                from imagecodecs import png_decode

                values = np.atleast_3d(png_decode(path.read_bytes()))
                values = values if colour else values[..., 0]
            elif indices:
                values = np.asarray(image)
            else:
                wanted = _GREY.get(mode, "RGBA" if mode in ("P", "PA") else "RGB")
                as_is = mode in (wanted, "RGBA")  # whose alpha is cut off here
                values = np.asarray(image if as_is else image.convert(wanted))
            values = values[..., :3] if colour else values
            return values[where]

    rank = 3 if colour else 2
    shape = (*size, 3)[:rank]
    dtype = np.dtype(np.uint16 if deep else np.uint8)
    volume = Volume(
        lazy_array(read, shape, dtype, shape, str(path)),
        ("y", "x", "c")[:rank],
        (1.0,) * rank,
        ("pixel",) * rank,
        (0.0,) * rank,
        name=path.stem,
        source=path,
        channel_names=("red", "green", "blue") if colour else (),
    )
    return Contents(images=(volume,))


@contextmanager
def _opened(path: Path) -> Iterator[Image]:
    """Open a picture whose claimed size is one that the file can have."""
    from PIL import Image

    try:
        image = Image.open(path, formats=("PNG", "JPEG", "BMP"))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise too_large(path, str(error)) from error
    with image:
        check_pixels(path, image.height, image.width)
        yield image
