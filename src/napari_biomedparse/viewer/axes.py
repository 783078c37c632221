"""The axes of a layer (space, time, channel) and the viewer's position in them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_biomedparse.data.volume import SPATIAL_AXES

if TYPE_CHECKING:
    import pint
    from napari.components import Dims
    from napari.layers import Image, Labels

AXES = ("t", "c", *SPATIAL_AXES)  # names that the axes of a layer may have


def stacked_axes(layer: Image) -> dict[str, int]:
    """Return the axes of time (t) and channel (c) of a layer, by name.

    Axes without a known name are taken as t and then c.
    """
    kept = space_axes(layer)
    labels = {i: layer.axis_labels[i].lower() for i in range(layer.ndim)}
    rest = [i for i in labels if i not in kept]
    found = {labels[i]: i for i in rest if labels[i] in AXES[:2]}
    unnamed = (i for i in rest if i not in found.values())
    free = (name for name in AXES[:2] if name not in found)
    return found | dict(zip(free, unnamed, strict=False))


def is_series(layer: Image) -> bool:
    """Return whether a layer holds volumes at several time points."""
    at = stacked_axes(layer).get("t")
    data = layer.data[0] if layer.multiscale else layer.data
    return at is not None and at < min(space_axes(layer)) and data.shape[at] > 1


def shown_position(layer: Image | Labels, dims: Dims | None) -> tuple[int, ...]:
    """Return the viewer's position along each axis of a layer, clipped to its data.

    Without the viewer's `dims` it is the first one.
    """
    if dims is None:
        return (0,) * int(layer.ndim)
    point = list(dims.point[-layer.ndim :])
    world = getattr(dims, "units", None)
    if world is not None:
        for i, unit in enumerate(world[-layer.ndim :]):
            point[i] *= _factor(unit, layer.units[i])
    data = np.rint(layer.world_to_data(point)).astype(int)
    shape = (layer.data[0] if layer.multiscale else layer.data).shape[: layer.ndim]
    return tuple(int(np.clip(p, 0, n - 1)) for p, n in zip(data, shape, strict=True))


def show_position(layer: Image | Labels, dims: Dims, axis: int, index: int) -> None:
    """Move the viewer to an index along one axis of a layer's data."""
    position: list[float] = list(shown_position(layer, dims))
    position[axis] = index
    point = float(layer.data_to_world(position)[axis])
    at = dims.ndim - layer.ndim + axis
    world = getattr(dims, "units", None)
    if world is not None:
        point /= _factor(world[at], layer.units[axis])
    dims.set_point(at, point)


def find_labels(
    data: Any, index: list[Any], axis: int, step: int, label: int | None
) -> int | None:
    """Return the nearest position along an axis whose plane has labels, if any.

    `index` is the plane in view; with a `label`, only that one counts.
    """
    end = data.shape[axis] if step > 0 else -1
    for position in range(index[axis] + step, end, step):
        plane = np.asarray(data[(*index[:axis], position, *index[axis + 1 :])])
        if plane.any() if label is None else (plane == label).any():
            return position
    return None


def series_axes(layer: Image) -> list[int]:
    """Return the axes of a layer that the labels of its time series share.

    These are time and all axes after it. napari aligns layers by their last axes, so a
    channel between time and space is kept, with a length of one.
    """
    return list(range(stacked_axes(layer)["t"], layer.ndim))


def shown_series(layer: Image, labels: Any) -> Any:
    """Return labels [T, space] as a view with the axes of `series_axes`."""
    kept = space_axes(layer)
    others = (slice(None) if i in kept else None for i in series_axes(layer)[1:])
    return labels[(slice(None), *others)]


def space_axes(layer: Image) -> list[int]:
    """Return the two or three axes of the volume: not channel, time or leading ones."""
    labels = [label.lower() for label in layer.axis_labels]
    kept = [i for i, label in enumerate(labels) if label not in ("c", "t")]
    if len(kept) == 3 or ("c" in labels and len(kept) == 2):
        return kept
    return list(range(max(0, layer.ndim - 3), layer.ndim))


def _factor(unit: pint.Unit, other: pint.Unit) -> float:
    if not unit.is_compatible_with(other):
        return 1.0
    return float((1.0 * unit).to(other).magnitude)
