"""Which slices of a Labels layer a person has looked at; kept in its metadata."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from napari_biomedparse.viewer.layers import METADATA_KEY

if TYPE_CHECKING:
    from napari.layers import Labels

REVIEWED_KEY = "reviewed"


def reviewed_slices(layer: Labels, axis: int) -> tuple[int, ...]:
    """Return the slices whose labels were accepted, in order.

    Parameters
    ----------
    layer : napari.layers.Labels
    axis : int
        Of the layer's data, along which slices are counted.
    """
    known = layer.metadata.get(METADATA_KEY, {}).get(REVIEWED_KEY, {})
    return tuple(known.get(axis, ()))


def review_axis(layer: Labels) -> int | None:
    """Return along which axis most slices were accepted; None if none was."""
    known: dict[int, list[int]] = layer.metadata.get(METADATA_KEY, {}).get(
        REVIEWED_KEY, {}
    )
    if not any(known.values()):
        return None
    return max(known, key=lambda axis: len(known[axis]))


def set_reviewed(
    layer: Labels, axis: int, slices: Iterable[int], *, accepted: bool
) -> None:
    """Accept slices of a layer, or take that back.

    Parameters
    ----------
    layer : napari.layers.Labels
    axis : int
        Of the layer's data.
    slices : iterable of int
    accepted : bool
    """
    known = layer.metadata.setdefault(METADATA_KEY, {})
    before = set(reviewed_slices(layer, axis))
    now = before | set(slices) if accepted else before - set(slices)
    known.setdefault(REVIEWED_KEY, {})[axis] = sorted(now)
