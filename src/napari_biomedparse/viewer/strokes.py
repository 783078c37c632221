"""What a paint event of napari tells: the voxels of one step of its history."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from napari_biomedparse.labels.edits import Voxels


def stroke_voxels(atoms: Iterable[Any]) -> tuple[Voxels, npt.NDArray[Any]] | None:
    """Return the voxels of a stroke and what they are set to.

    Parameters
    ----------
    atoms : iterable
        The ``value`` of a Labels layer's ``paint`` event. napari may send it before it
        changes the layer's data.

    Returns
    -------
    tuple or None
        An array of positions for each axis of the layer, in the order of painting, so
        that the last of equal ones counts; and values. None for an unknown form.
    """
    index, values = [], []
    for atom in atoms:
        if hasattr(atom, "slice_key"):
            starts = [axis.start for axis in atom.slice_key]
            mask = atom.mask
            if mask is None:
                mask = np.ones(np.shape(atom.old_values), bool)
            inside = np.nonzero(mask)
            voxels = tuple(i + s for i, s in zip(inside, starts, strict=True))
            new = atom.new_value
        elif isinstance(atom, tuple) and len(atom) == 3:
            *_, new = atom
            voxels = tuple(map(np.atleast_1d, atom[0]))
        else:
            return None
        index.append(voxels)
        values.append(np.broadcast_to(np.asarray(new, np.int64), voxels[0].shape))
    if not index:
        return None
    joined = tuple(map(np.concatenate, zip(*index, strict=True)))
    return joined, np.concatenate(values)
