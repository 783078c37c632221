"""The content of a report page, from layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_biomedparse.data.results import score_of
from napari_biomedparse.errors import VolumeError
from napari_biomedparse.report.result import RunResult
from napari_biomedparse.viewer.layers import (
    METADATA_KEY,
    prompts_of_layer,
    prompts_of_values,
    volume_from_layer,
    voxels_of_labels,
    voxels_of_prompts,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import numpy.typing as npt
    from napari.components import Dims
    from napari.layers import Image, Labels

    from napari_biomedparse.data.volume import Volume


def result_of_layers(image: Image, labels: Labels, dims: Dims) -> RunResult:
    """Return the content of the report page of a Labels layer of any origin.

    Raises VolumeError if labels and image do not fit.
    """
    volume = volume_from_layer(image, dims)
    values = voxels_of_labels(labels)
    if values.shape != volume.grid:
        raise VolumeError(
            f"{labels.name} has the shape {values.shape}, but {image.name} has "
            f"{volume.grid}. Choose the image that the labels belong to."
        )
    known = labels.metadata.get(METADATA_KEY, {})
    prompts = prompts_of_layer(labels) or prompts_of_values(values)
    objects = values if prompts.instance else None
    if objects is not None:
        values = voxels_of_prompts(labels, objects, prompts)
    parameters: Mapping[str, Any] = known.get("parameters") or {}
    score, threshold = score_of(parameters)
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
        parameters.get(threshold),
        score,
    )


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
