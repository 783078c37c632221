"""What a paint event of napari tells: the voxels of one step of its history."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from napari_biomedparse.labels.edits import Voxels


def stroke_voxels(
    atoms: Iterable[Any],
) -> tuple[Voxels, npt.NDArray[Any], npt.NDArray[Any]] | None:
    """Return the voxels of a stroke, what they were, and what they are set to.

    Parameters
    ----------
    atoms : iterable
        The ``value`` of a Labels layer's ``paint`` event. napari may send it before it
        changes the layer's data.

    Returns
    -------
    tuple or None
        An array of positions for each axis of the layer, in the order of painting, so
        that the last of equal ones counts; old and new values. None for an unknown
        form.
    """
    found = []
    for atom in atoms:
        if hasattr(atom, "slice_key"):
            starts = [axis.start for axis in atom.slice_key]
            old, new, mask = atom.old_values, atom.new_value, atom.mask
            inside = np.nonzero(np.ones(old.shape, bool) if mask is None else mask)
            voxels = [i + s for i, s in zip(inside, starts, strict=True)]
        elif isinstance(atom, tuple) and len(atom) == 3:
            index, old, new = atom
            voxels = [np.atleast_1d(axis) for axis in index]
        else:
            return None
        shape = voxels[0].shape
        values = [np.ravel(old), np.broadcast_to(new, shape)]
        found.append([*voxels, *(np.asarray(each, np.int64) for each in values)])
    if not found:
        return None
    *index, old, new = map(np.concatenate, zip(*found, strict=True))
    return tuple(index), old, new
