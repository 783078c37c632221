"""Layers -> what a report page is made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_biomedparse.data.prompts import Prompt, PromptSet
from napari_biomedparse.errors import VolumeError
from napari_biomedparse.report.result import RunResult
from napari_biomedparse.viewer.layers import (
    METADATA_KEY,
    prompts_of_layer,
    volume_from_layer,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt
    from napari.components import Dims
    from napari.layers import Image, Labels

    from napari_biomedparse.data.volume import Volume


def result_of_layers(image: Image, labels: Labels, dims: Dims) -> RunResult:
    """Return what the page of a Labels layer shows.

    Parameters
    ----------
    image : napari.layers.Image
    labels : napari.layers.Labels
        As a run made it, or any other.
    dims : napari.components.Dims
        The viewer's, for what is shown of further axes.

    Raises
    ------
    VolumeError
        If labels and image do not fit.
    """
    volume = volume_from_layer(image, dims)
    values = np.asarray(labels.data[0] if labels.multiscale else labels.data)
    if values.ndim == 2 and volume.flat:
        values = values[None]
    if values.shape != volume.grid:
        raise VolumeError(
            f"{labels.name} has the shape {values.shape} and {image.name} "
            f"{volume.grid}; choose the image that the labels lie on."
        )
    known = labels.metadata.get(METADATA_KEY, {})
    prompts = prompts_of_layer(labels) or _numbered(values)
    objects = values if prompts.instance else None
    if objects is not None:
        values = _owners(labels, objects, prompts)
    parameters: Mapping[str, Any] = known.get("parameters") or {}
    existence = known.get("existence")
    if existence is not None and existence.ndim != 2:
        existence = None
    return RunResult(
        f"{labels.name} on {image.name}",
        volume,
        values,
        prompts,
        existence,
        _axis(volume, parameters, existence),
        objects,
        _facts(known),
        parameters.get("existence_threshold"),
    )


def _numbered(values: npt.NDArray[Any]) -> PromptSet:
    """Name labels that nothing is known of by their numbers."""
    found = [int(i) for i in np.unique(values) if i > 0] or [1]
    return PromptSet(tuple(Prompt(i, f"label {i}") for i in found))


def _owners(
    layer: Labels, objects: npt.NDArray[Any], prompts: PromptSet
) -> npt.NDArray[np.int64]:
    """Return the prompt id of each voxel's object, as the layer's features tell."""
    ids = dict(zip(prompts.texts, prompts.ids, strict=True))
    lookup = np.full(int(objects.max(initial=0)) + 1, prompts.ids[0])
    lookup[0] = 0
    features = layer.features
    if {"index", "prompt"} <= set(features.columns):
        for number, text in zip(features["index"], features["prompt"], strict=True):
            if 0 < number < len(lookup) and text in ids:
                lookup[int(number)] = ids[text]
    found: npt.NDArray[np.int64] = lookup[objects]
    return found


def _axis(
    volume: Volume,
    parameters: Mapping[str, Any],
    existence: npt.NDArray[np.float32] | None,
) -> int:
    name = parameters.get("slicing_axis")
    if name in volume.axes:
        return volume.axes.index(name)
    if existence is not None and existence.shape[1] in volume.grid:
        return volume.grid.index(existence.shape[1])
    return 0


def _facts(known: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    made = known.get("provenance") or {}
    facts = {
        "How it was made": {"model": made.get("model"), **made.get("environment", {})},
        "Parameters": made.get("parameters") or known.get("parameters") or {},
        "Source": made.get("source") or {},
    }
    return {title: part for title, part in facts.items() if any(part.values())}
