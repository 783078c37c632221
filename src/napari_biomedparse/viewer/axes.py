"""Which axes of a layer are space, time and channel, and where in them the eye is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_biomedparse.data.volume import SPATIAL_AXES

if TYPE_CHECKING:
    import pint
    from napari.components import Dims
    from napari.layers import Image, Labels

AXES = ("t", "c", *SPATIAL_AXES)
"""Names that axes of a layer may have."""


def stacked_axes(layer: Image) -> dict[str, int]:
    """Return which axes of a layer are of time (t) and channel (c).

    Axes that the layer has no names for are taken as t and then c.

    Parameters
    ----------
    layer : napari.layers.Image

    Returns
    -------
    dict of str to int
        Of those that are no part of the volume.
    """
    kept = space_axes(layer)
    labels = {i: layer.axis_labels[i].lower() for i in range(layer.ndim)}
    rest = [i for i in labels if i not in kept]
    found = {labels[i]: i for i in rest if labels[i] in AXES[:2]}
    unnamed = (i for i in rest if i not in found.values())
    free = (name for name in AXES[:2] if name not in found)
    return found | dict(zip(free, unnamed, strict=False))


def is_series(layer: Image) -> bool:
    """Say whether a layer holds volumes at several time points."""
    at = stacked_axes(layer).get("t")
    data = layer.data[0] if layer.multiscale else layer.data
    return at is not None and at < min(space_axes(layer)) and data.shape[at] > 1


def shown_position(layer: Image | Labels, dims: Dims | None) -> tuple[int, ...]:
    """Return where in a layer's data the viewer is.

    Parameters
    ----------
    layer : napari.layers.Image or Labels
    dims : napari.components.Dims, optional
        The viewer's ``dims``; without it, the first position.

    Returns
    -------
    tuple of int
        Index along each of the layer's axes, within its data.
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
    """Move the viewer along one axis to a position in a layer's data.

    Parameters
    ----------
    layer : napari.layers.Image or Labels
    dims : napari.components.Dims
        The viewer's.
    axis : int
        Of the layer.
    index : int
        Position along it, within the layer's data.
    """
    position: list[float] = list(shown_position(layer, dims))
    position[axis] = index
    point = float(layer.data_to_world(position)[axis])
    at = dims.ndim - layer.ndim + axis
    world = getattr(dims, "units", None)
    if world is not None:
        point /= _factor(world[at], layer.units[axis])
    dims.set_point(at, point)


def series_axes(layer: Image) -> list[int]:
    """Return the axes of a layer that the labels of its time series have, too.

    These are time and all after it: napari aligns layers by their last axes, so that a
    channel between time and space must stay, with the one position that was chosen.
    """
    return list(range(stacked_axes(layer)["t"], layer.ndim))


def shown_series(layer: Image, labels: Any) -> Any:
    """Return labels [T, space] as a view that has the axes of `series_axes`."""
    kept = space_axes(layer)
    others = (slice(None) if i in kept else None for i in series_axes(layer)[1:])
    return labels[(slice(None), *others)]


def space_axes(layer: Image) -> list[int]:
    """Return which axes make up the volume: all but channel, time or leading ones.

    Parameters
    ----------
    layer : napari.layers.Image

    Returns
    -------
    list of int
        Two or three.
    """
    labels = [label.lower() for label in layer.axis_labels]
    kept = [i for i, label in enumerate(labels) if label not in ("c", "t")]
    if len(kept) == 3 or ("c" in labels and len(kept) == 2):
        return kept
    return list(range(max(0, layer.ndim - 3), layer.ndim))


def _factor(unit: pint.Unit, other: pint.Unit) -> float:
    if not unit.is_compatible_with(other):
        return 1.0
    return float((1.0 * unit).to(other).magnitude)
