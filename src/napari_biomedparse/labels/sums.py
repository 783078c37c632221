"""Sums over the voxels of each object, block by block, of volumes of any size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt
from skimage.measure import marching_cubes, mesh_surface_area

from napari_biomedparse.labels.blockwise import Window, block_shape, windows_of

if TYPE_CHECKING:
    import pandas as pd

    from napari_biomedparse.data.volume import ArrayLike

_SMALL_BLOCK = (8, 128, 128)  # blocks of arrays without chunks grow from this
_CORNERS = tuple(np.ndindex(2, 2, 2))


def sum_objects(
    objects: ArrayLike, images: Mapping[str, ArrayLike], steps: npt.ArrayLike
) -> pd.DataFrame:
    """Sum over the voxels of each object; all arrays may be lazy.

    `objects` [Z, Y, X] are integers, the number of the object at each voxel, 0 for
    none; `images` [Z, Y, X] are read only where there are objects. `steps` [3, 3] are
    the edges of a voxel as columns, for the surface, or [3] their lengths.

    The table has a row per object, by number: `voxels`, and `surface`, the area of the
    marching cubes mesh; for z, y and x in voxels, and for the values of each image by
    its name, for example `z_sum`, `z_min`, `z_max` and `zz_sum`; and `zy_sum`, `zx_sum`
    and `yx_sum`.
    """
    import pandas as pd  # slow, and the opening widget measures nothing

    shape = tuple(objects.shape)
    areas, parts = _cube_areas(steps), list[pd.DataFrame]()
    for window in windows_of(shape, window_shape(objects)):
        ids, codes = _numbered(objects, window)
        if len(ids) > 1 or not parts:
            inner = codes[tuple(slice(w.stop - w.start) for w in window)]
            columns = _columns(inner, len(ids), window, images)
            columns["surface"] = _surfaces(codes, window, shape, areas, len(ids))
            parts.append(pd.DataFrame(columns, ids)[1:])
    whole = pd.concat(parts)
    ends = {name: name.rpartition("_")[2] for name in whole.columns}
    how = {name: end if end in ("min", "max") else "sum" for name, end in ends.items()}
    return cast("pd.DataFrame", whole.groupby(level=0).agg(how))


def window_shape(array: ArrayLike) -> tuple[int, ...]:
    """Return a shape of blocks that suits the chunks of an array."""
    chunks: Any = getattr(array, "chunks", None) or _SMALL_BLOCK
    return block_shape([int(np.max(size)) for size in chunks], array.shape)


def native(block: Any) -> npt.NDArray[np.integer[Any]]:
    """Return a block of labels as numpy integers of the machine's byte order."""
    values = np.asarray(block)
    if values.dtype.kind == "b":
        return values.astype(np.uint8)
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def owners_of(objects: ArrayLike, labels: ArrayLike) -> dict[int, int]:
    """Return the label that each object lies in; both arrays may be lazy."""
    found: dict[int, int] = {}
    for window in windows_of(tuple(objects.shape), window_shape(objects)):
        numbers, first = np.unique(native(objects[window]), return_index=True)
        owners = native(labels[window]).ravel()[first]
        found |= dict(zip(numbers.tolist(), owners.tolist(), strict=True))
    return {number: owner for number, owner in found.items() if number > 0}


def _numbered(
    objects: ArrayLike, window: Window
) -> tuple[npt.NDArray[Any], npt.NDArray[np.int32]]:
    """Read a window and one more voxel behind it; number its objects from 1.

    Returns the objects' own numbers, that of the background first, and the voxels.
    """
    import pandas as pd

    read = native(objects[tuple(slice(w.start, w.stop + 1) for w in window)])
    flat = np.append(np.zeros(1, read.dtype), np.maximum(read, 0))
    codes, ids = pd.factorize(flat)
    return ids, codes[1:].astype(np.int32).reshape(read.shape)


def _columns(
    codes: npt.NDArray[np.int32],
    count: int,
    window: Window,
    images: Mapping[str, ArrayLike],
) -> dict[str, npt.NDArray[Any]]:
    """Return what is known of each object in a block, but the surface."""
    at = np.nonzero(codes)
    code = codes[at]
    places = zip("zyx", at, window, strict=True)
    known = {axis: (i + w.start).astype(np.float64) for axis, i, w in places}
    products = {a + b: known[a] * known[b] for a, b in ("zy", "zx", "yx")}
    known |= dict.fromkeys(images, np.zeros(0))
    if len(code):
        box = [(int(i.min()), int(i.max()) + 1) for i in at]
        inside = codes[tuple(slice(*ends) for ends in box)] > 0
        there = tuple(
            slice(w.start + start, w.start + stop)
            for w, (start, stop) in zip(window, box, strict=True)
        )
        for name, image in images.items():
            known[name] = np.asarray(image[there])[inside].astype(np.float64)
    found: dict[str, npt.NDArray[Any]] = {"voxels": np.bincount(code, minlength=count)}
    for name, values in known.items():
        low, high = np.full(count, np.inf), np.full(count, -np.inf)
        np.minimum.at(low, code, values)
        np.maximum.at(high, code, values)
        found |= {f"{name}_min": low, f"{name}_max": high}
        products |= {name: values, name + name: values * values}
    for name, values in products.items():
        found[f"{name}_sum"] = np.bincount(code, values, count)
    return found


def _surfaces(
    codes: npt.NDArray[np.int32],
    window: Window,
    shape: Sequence[int],
    areas: npt.NDArray[np.float64],
    count: int,
) -> npt.NDArray[np.float64]:
    """Sum the area of each object's mesh in the cubes that begin in a window.

    A cube has eight voxels, on which alone the triangles of `marching_cubes` in it
    depend. Those that begin before the volume belong to the first window.
    """
    ends = zip(window, shape, strict=True)
    codes = np.pad(codes, [(int(w.start == 0), int(w.stop == n)) for w, n in ends])
    size = [n - 1 for n in codes.shape]
    corners = [
        codes[tuple(slice(d, d + n) for d, n in zip(corner, size, strict=True))]
        for corner in _CORNERS
    ]
    mixed = np.zeros(size, bool)
    for other in corners[1:]:
        mixed |= corners[0] != other
    found = [corner[mixed] for corner in corners]
    sums = np.zeros(count)
    for number, mine in enumerate(found):
        new = mine > 0
        for earlier in found[:number]:
            new &= earlier != mine
        owner, cube = mine[new], np.zeros(np.count_nonzero(new), np.uint8)
        for bit, other in enumerate(found):
            cube |= (other[new] == owner).astype(np.uint8) << bit
        sums += np.bincount(owner, areas[cube], count)
    return sums


def _cube_areas(steps: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return the area of the mesh in a cube for each choice of its eight voxels."""
    areas, edges = np.zeros(256), np.array(steps)
    edges = np.diag(edges) if edges.ndim == 1 else edges
    for choice in range(1, 255):
        cube = np.zeros((2, 2, 2), np.float32)
        for bit, corner in enumerate(_CORNERS):
            cube[corner] = choice >> bit & 1
        corners, faces, *_ = marching_cubes(cube, 0.5)  # type: ignore[no-untyped-call]
        areas[choice] = mesh_surface_area(corners @ edges.T, faces)  # type: ignore[no-untyped-call]
    return areas
