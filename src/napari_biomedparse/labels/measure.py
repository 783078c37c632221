"""Measure instances: size, position, intensity and shape, in physical units."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_biomedparse.errors import VolumeError
from napari_biomedparse.labels.instances import label_components
from napari_biomedparse.labels.sums import owners_of, sum_objects

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

    from napari_biomedparse.data.volume import ArrayLike, Volume

AXES = ("z", "y", "x")


def measure_objects(
    objects: ArrayLike,
    volume: Volume,
    *,
    prompts: Mapping[int, str] | None = None,
) -> pd.DataFrame:
    """Measure every instance of a label volume, block by block if it is lazy.

    Parameters
    ----------
    objects : array [Z, Y, X]
        Integers: the number of the instance at each voxel, 0 for none.
    volume : Volume
        The image, three axes, on the same grid, with voxel size and units. It is read
        only where there are instances.
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

    if tuple(objects.shape) != volume.shape or len(volume.shape) != 3:
        raise VolumeError(
            f"Labels have the shape {objects.shape} and the image {volume.name} has "
            f"{volume.shape}; they must have the same three axes to be measured."
        )
    if len(set(volume.units)) > 1:
        raise VolumeError(
            f"The axes of {volume.name} have the units {', '.join(volume.units)}; give "
            "them one unit before measuring."
        )
    found = sum_objects(objects, {"value": volume.data}, volume.spacing)
    voxels, size = found["voxels"], math.prod(volume.spacing)
    table = pd.DataFrame({"id": found.index, "voxels": voxels.to_numpy(np.int64)})
    if prompts is not None:
        table.insert(1, "prompt", [prompts.get(number, "") for number in table["id"]])
    table["volume"] = (voxels * size).to_numpy()
    for axis, step in zip(AXES, volume.spacing, strict=True):
        table[f"centroid_{axis}"] = (found[f"{axis}_sum"] / voxels * step).to_numpy()
    for axis in AXES:
        ends = found[[f"{axis}_min", f"{axis}_max"]].to_numpy(np.int64) + np.array(
            (0, 1)
        )
        table[[f"bbox_{axis}_start", f"bbox_{axis}_stop"]] = ends
    table["mean_intensity"] = (found["value_sum"] / voxels).to_numpy()
    table["surface_area"] = found["surface"].to_numpy()
    ball = math.pi ** (1 / 3) * (6.0 * table["volume"]) ** (2 / 3)
    table["sphericity"] = ball / table["surface_area"]
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
    owners = owners_of(components, labels)
    return components, {n: texts.get(label, str(label)) for n, label in owners.items()}
