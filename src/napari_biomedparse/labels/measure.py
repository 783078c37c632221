"""Measure instances: size, position, intensity and shape, in physical units."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt
from skimage.measure import marching_cubes, mesh_surface_area, regionprops_table

from napari_biomedparse.errors import VolumeError
from napari_biomedparse.labels.instances import label_components

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import pandas as pd

    from napari_biomedparse.data.volume import Volume

AXES = ("z", "y", "x")
_COLUMNS = {
    "label": "id",
    "num_pixels": "voxels",
    "area": "volume",
    **{f"centroid-{i}": f"centroid_{axis}" for i, axis in enumerate(AXES)},
    **{
        f"bbox-{i + stop}": f"bbox_{axis}_{'stop' if stop else 'start'}"
        for i, axis in enumerate(AXES)
        for stop in (0, 3)
    },
}
"""Properties of scikit-image and our columns, in their order."""


def measure_objects(
    objects: npt.NDArray[np.integer[Any]],
    volume: Volume,
    *,
    prompts: Mapping[int, str] | None = None,
) -> pd.DataFrame:
    """Measure every instance of a label volume.

    Parameters
    ----------
    objects : ndarray [Z, Y, X]
        Integers: the number of the instance at each voxel, 0 for none.
    volume : Volume
        The image, three axes, on the same grid, with voxel size and units. It is read
        only within the bounding boxes of instances.
    prompts : mapping of int to str, optional
        The prompt of each instance.

    Returns
    -------
    pandas.DataFrame
        One row per instance, by number: `id`, `prompt` (if given), `voxels`, `volume`
        (in cubed units), `centroid_z` ... (in units, from the centre of the first
        voxel), `bbox_z_start`, `bbox_z_stop` ... (in voxels, stop excluded),
        `mean_intensity`, `surface_area` (in squared units, of the marching cubes mesh;
        the steps between voxels make it about 10 % too large for a ball) and
        `sphericity` (surface of a ball of equal volume, divided by `surface_area`).
        `attrs["unit"]` is the name of the unit.

    Raises
    ------
    VolumeError
        If the shapes differ, there are not three axes, or the axes' units differ.
    """
    import pandas as pd

    if objects.shape != volume.shape or objects.ndim != 3:
        raise VolumeError(
            f"Labels have the shape {objects.shape} and the image {volume.name} has "
            f"{volume.shape}; they must have the same three axes to be measured."
        )
    if len(set(volume.units)) > 1:
        raise VolumeError(
            f"The axes of {volume.name} have the units {', '.join(volume.units)}; give "
            "them one unit before measuring."
        )
    found = _untyped(regionprops_table)(
        objects,
        properties=("label", "num_pixels", "area", "centroid", "bbox"),
        spacing=volume.spacing,
    )
    table = pd.DataFrame({name: found[key] for key, name in _COLUMNS.items()})
    if prompts is not None:
        table.insert(1, "prompt", [prompts.get(number, "") for number in table["id"]])
    boxes = table[[f"bbox_{axis}_{end}" for axis in AXES for end in ("start", "stop")]]
    means, surfaces = [], []
    for number, ends in zip(table["id"], boxes.to_numpy(int), strict=True):
        where = tuple(slice(*pair) for pair in ends.reshape(3, 2).tolist())
        mask = objects[where] == number
        image = np.asarray(volume.data[where])
        means.append(float(image[mask].mean(dtype=np.float64)))
        surfaces.append(_surface(mask, volume.spacing))
    table["mean_intensity"] = means
    table["surface_area"] = surfaces
    table["sphericity"] = [
        math.pi ** (1 / 3) * (6.0 * size) ** (2 / 3) / surface
        for size, surface in zip(table["volume"].tolist(), surfaces, strict=True)
    ]
    table.attrs["unit"] = volume.units[0]
    return table


def components_of(
    labels: npt.NDArray[np.integer[Any]], texts: Mapping[int, str]
) -> tuple[npt.NDArray[np.int32], dict[int, str]]:
    """Give a number to each connected component of labels, to be measured by itself.

    `labels` are integers [Z, Y, X], `texts` the prompt of each. Returns components as
    by `label_components`, and the prompt of each of them.
    """
    components = label_components(labels)
    numbers, first = np.unique(components, return_index=True)
    owners = zip(numbers.tolist(), labels.ravel()[first].tolist(), strict=True)
    return components, {n: texts.get(label, str(label)) for n, label in owners if n}


def _surface(mask: npt.NDArray[np.bool_], spacing: tuple[float, ...]) -> float:
    """Return the area of the mesh around a mask, closed at the border of its box."""
    padded = np.pad(mask, 1).astype(np.float32)
    corners, faces, *_ = _untyped(marching_cubes)(padded, 0.5, spacing=spacing)
    return float(_untyped(mesh_surface_area)(corners, faces))


def _untyped(function: Any) -> Callable[..., Any]:
    return cast("Callable[..., Any]", function)
