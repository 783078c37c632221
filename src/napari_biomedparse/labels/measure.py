"""Measure objects: size, place, brightness and shape, in physical units."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt
from skimage.measure import marching_cubes, mesh_surface_area, regionprops

from napari_biomedparse.errors import VolumeError
from napari_biomedparse.labels.instances import label_components

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import pandas as pd
    from skimage.measure._regionprops import RegionProperties

    from napari_biomedparse.data.volume import Volume

AXES = ("z", "y", "x")


def measure_objects(
    objects: npt.NDArray[np.integer[Any]],
    volume: Volume,
    *,
    prompts: Mapping[int, str] | None = None,
) -> pd.DataFrame:
    """Measure every object of a label volume.

    Parameters
    ----------
    objects : ndarray [Z, Y, X]
        Integers: the number of the object at each voxel, 0 for none.
    volume : Volume
        The image, three axes, on the same grid; gives voxel size, units and intensity.
        Its voxels are read where objects are.
    prompts : mapping of int to str, optional
        What each object is.

    Returns
    -------
    pandas.DataFrame
        One row an object, in the order of their numbers: `id`, `prompt` (if given),
        `voxels`, `volume` (in cubed units), `centroid_z` ... (in units, from the
        middle of the first voxel), `bbox_z_start`, `bbox_z_stop` ... (in voxels, stop
        excluded), `mean_intensity`, `surface_area` (in squared units, of the marching
        cubes mesh; steps between voxels make it about a tenth too large for a ball)
        and `sphericity` (surface of a ball of equal volume by its own surface).
        `attrs["unit"]` names the unit.

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
    rows = [
        _row(region, volume, prompts)
        for region in _untyped(regionprops)(objects, spacing=volume.spacing)
    ]
    table = pd.DataFrame(rows, columns=_columns(prompts is not None))
    table.attrs["unit"] = volume.units[0]
    return table


def components_of(
    labels: npt.NDArray[np.integer[Any]], texts: Mapping[int, str]
) -> tuple[npt.NDArray[np.int32], dict[int, str]]:
    """Tell the connected pieces of each label apart, to be measured one by one.

    Parameters
    ----------
    labels : ndarray [Z, Y, X]
        Integers; one value a prompt, 0 is background.
    texts : mapping of int to str
        The prompt of each label.

    Returns
    -------
    objects : ndarray [Z, Y, X]
        int32; face-connected pieces of one label, numbered from 1.
    prompts : dict of int to str
        The prompt of each piece.
    """
    objects = label_components(labels)
    numbers, first = np.unique(objects, return_index=True)
    owners = zip(numbers.tolist(), labels.ravel()[first].tolist(), strict=True)
    return objects, {n: texts.get(label, str(label)) for n, label in owners if n}


def _columns(named: bool) -> list[str]:
    return [
        "id",
        *(["prompt"] if named else []),
        "voxels",
        "volume",
        *(f"centroid_{axis}" for axis in AXES),
        *(f"bbox_{axis}_{end}" for axis in AXES for end in ("start", "stop")),
        "mean_intensity",
        "surface_area",
        "sphericity",
    ]


def _row(
    region: RegionProperties, volume: Volume, prompts: Mapping[int, str] | None
) -> dict[str, Any]:
    image = np.asarray(volume.data[region.slice])
    size, surface = float(region.area), _surface(region.image, volume.spacing)
    row: dict[str, Any] = {
        "id": int(region.label),
        "voxels": int(region.image.sum()),
        "volume": size,
        "mean_intensity": float(image[region.image].mean(dtype=np.float64)),
        "surface_area": surface,
        "sphericity": math.pi ** (1 / 3) * (6.0 * size) ** (2 / 3) / surface,
    }
    if prompts is not None:
        row["prompt"] = prompts.get(int(region.label), "")
    for axis, middle, part in zip(AXES, region.centroid, region.slice, strict=True):
        row[f"centroid_{axis}"] = float(middle)
        row[f"bbox_{axis}_start"], row[f"bbox_{axis}_stop"] = part.start, part.stop
    return row


def _surface(mask: npt.NDArray[np.bool_], spacing: tuple[float, ...]) -> float:
    """Area of the mesh around an object; what lies at the volume's border is closed."""
    padded = np.pad(mask, 1).astype(np.float32)
    corners, faces, *_ = _untyped(marching_cubes)(padded, 0.5, spacing=spacing)
    return float(_untyped(mesh_surface_area)(corners, faces))


def _untyped(function: Any) -> Callable[..., Any]:
    return cast("Callable[..., Any]", function)
