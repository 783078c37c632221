"""Measure instances: size, position, intensity and shape, in physical units."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_biomedparse.errors import VolumeError
from napari_biomedparse.labels.blockwise import split_blockwise
from napari_biomedparse.labels.instances import label_components
from napari_biomedparse.labels.sums import native, owners_of, sum_objects, window_shape

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import pandas as pd

    from napari_biomedparse.data.volume import ArrayLike, Volume
Floats = npt.NDArray[np.float64]

AXES = ("t", "z", "y", "x")  # order of the columns of axes
AXIS_LENGTHS = ("major", "intermediate", "minor")
_POWERS = {
    "volume": 3,
    "surface_area": 2,
    "equivalent_diameter": 1,
    **{f"centroid_{axis}": 1 for axis in AXES},
    **{f"axis_{name}_length": 1 for name in AXIS_LENGTHS},
    **{f"{kind}_volume": 3 for kind in ("total", "mean", "median")},
}
"""Power of the unit of length that a column is in."""


def measure_objects(
    objects: ArrayLike, volume: Volume, *, prompts: Mapping[int, str] | None = None
) -> pd.DataFrame:
    """Measure every instance of a label volume, block by block if it is lazy.

    Parameters
    ----------
    objects : array [Z, Y, X]
        Integers: the number of the instance at each voxel, 0 for none. numpy, dask or
        zarr; read block by block.
    volume : Volume
        The image on the same grid, with voxel size and units: three axes in any order,
        and possibly one of channels. It is read only where there are instances.
    prompts : mapping of int to str, optional
        The prompt of each instance.

    Returns
    -------
    pandas.DataFrame
        One row per instance, by number: `id`, `prompt` (if given), `voxels`, `volume`
        (in cubed units), `equivalent_diameter` (of a ball of that volume), `centroid_z`
        ... (in units, where the volume's origin and matrix place it), `bbox_z_start`,
        `bbox_z_stop` ... (in voxels, stop excluded); `mean_intensity`, `min_intensity`,
        `max_intensity` and `sd_intensity`, with the name of the channel behind if there
        are several; `surface_area` (in squared units, of the marching cubes mesh; the
        steps between voxels make it about 10 % too large for a ball), `sphericity`
        (surface of a ball of equal volume, divided by `surface_area`), and
        `axis_major_length`, `axis_intermediate_length` and `axis_minor_length` of the
        ellipsoid with the same second moments. The instances of a single image have
        diameter and axes of a disc and an ellipse. `attrs["unit"]` is the name of the
        unit.

    Raises
    ------
    VolumeError
        If the shapes differ, there are not three axes, or the axes' units are of
        different kinds.
    """
    import pandas as pd

    space = [i for i, axis in enumerate(volume.axes) if axis != "c"]
    shape = tuple(volume.shape[i] for i in space)
    if tuple(objects.shape) != shape or len(shape) != 3:
        raise VolumeError(
            f"Labels have the shape {tuple(objects.shape)} and the image {volume.name} "
            f"has {shape}; they must have the same three axes to be measured."
        )
    volume = _in_one_unit(volume, space)
    steps = volume.steps[np.ix_(space, space)]
    channels = _channels(volume)
    images = {f"v{i}": data for i, data in enumerate(channels.values())}
    found = sum_objects(objects, images, steps)
    voxels = found["voxels"].to_numpy(np.int64)
    voxel = math.prod(volume.spacing[i] for i in space)
    if volume.matrix is not None:
        voxel = abs(float(np.linalg.det(steps)))
    columns: dict[str, Any] = {"id": found.index}
    if prompts is not None:
        columns["prompt"] = [prompts.get(number, "") for number in found.index]
    columns |= {"voxels": voxels, "volume": voxels * voxel}
    dimensions = 2 if volume.flat else 3
    ball = math.pi / (2 * dimensions) * (volume.spacing[0] if volume.flat else 1.0)
    columns["equivalent_diameter"] = (columns["volume"] / ball) ** (1 / dimensions)
    means, covariances = _moments(found)
    centers = means @ steps.T + [volume.origin[i] for i in space]
    names = [volume.axes[i] for i in space]
    known = {axis: names.index(axis) for axis in AXES if axis in names}
    columns |= {f"centroid_{axis}": centers[:, at] for axis, at in known.items()}
    for axis, at in known.items():
        first, last = (found[f"{'zyx'[at]}_{end}"] for end in ("min", "max"))
        columns[f"bbox_{axis}_start"] = first.to_numpy(np.int64)
        columns[f"bbox_{axis}_stop"] = last.to_numpy(np.int64) + 1
    for image, name in zip(images, channels, strict=True):
        ending = f"_intensity_{name}" if name else "_intensity"
        mean = columns[f"mean{ending}"] = found[f"{image}_sum"].to_numpy() / voxels
        columns[f"min{ending}"] = found[f"{image}_min"].to_numpy()
        columns[f"max{ending}"] = found[f"{image}_max"].to_numpy()
        square = found[f"{image}{image}_sum"].to_numpy() / voxels
        columns[f"sd{ending}"] = np.sqrt(np.maximum(square - mean**2, 0))
    columns["surface_area"] = surface = found["surface"].to_numpy()
    columns["sphericity"] = (36 * math.pi * columns["volume"] ** 2) ** (1 / 3) / surface
    spread = np.linalg.eigvalsh(steps @ covariances @ steps.T)[:, ::-1]
    lengths = 2 * np.sqrt((dimensions + 2) * np.maximum(spread, 0))
    for at, name in enumerate(AXIS_LENGTHS[::2] if volume.flat else AXIS_LENGTHS):
        columns[f"axis_{name}_length"] = lengths[:, at]
    table = pd.DataFrame(columns)
    table.attrs["unit"] = volume.units[space[0]]
    return table


def _in_one_unit(volume: Volume, space: list[int]) -> Volume:
    """Return a volume whose lengths along all axes have the unit of the last one."""
    units = [volume.units[i] for i in space]
    if len(set(units)) == 1:
        return volume
    import pint

    registry: Any = pint.get_application_registry()  # type: ignore[no-untyped-call]
    change = np.ones(len(volume.axes))
    try:
        for i in space:
            change[i] = registry.Quantity(1.0, volume.units[i]).m_as(units[-1])
    except pint.PintError as error:
        raise VolumeError(
            f"The axes of {volume.name} have the units {', '.join(units)}, which "
            "cannot be measured together; give the size of its voxels (--voxel-size)."
        ) from error
    return replace(
        volume,
        spacing=tuple((change * volume.spacing).tolist()),
        units=(units[-1],) * len(change),
        origin=tuple((change * volume.origin).tolist()),
        matrix=volume.matrix and (change * volume.steps.T).T.tolist(),
    )


def measure_prompts(table: pd.DataFrame) -> pd.DataFrame:
    """Sum up the table of objects by prompt.

    One row per prompt: `prompt`, `objects`, `voxels`, `total_volume`, `mean_volume`,
    `median_volume`, and the mean intensity of the voxels of each channel.
    """
    groups = table.groupby("prompt", sort=False)
    found = groups["volume"].agg(["sum", "mean", "median"])
    found.columns = [f"{kind}_volume" for kind in ("total", "mean", "median")]
    found.insert(0, "objects", groups.size())
    found.insert(1, "voxels", groups["voxels"].sum())
    for name in (name for name in table if name.startswith("mean_intensity")):
        weighted = (table[name] * table["voxels"]).groupby(table["prompt"], sort=False)
        found[name] = weighted.sum() / found["voxels"]
    found = found.reset_index()
    found.attrs["unit"] = table.attrs["unit"]
    return found


def with_units(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table of this module with units in the names of its columns."""
    unit = table.attrs["unit"]

    def named(name: str) -> str:
        if name.startswith("bbox_"):
            return f"{name} [voxel]"
        power = _POWERS.get(name, 0)
        return f"{name} [{unit}{f'^{power}' if power > 1 else ''}]" if power else name

    return table.rename(columns=named)


def components_of(
    labels: ArrayLike,
    texts: Mapping[int, str],
    new: Callable[[tuple[int, ...], tuple[int, ...], np.dtype[Any]], Any] | None = None,
) -> tuple[Any, dict[int, str]]:
    """Give a number to each connected component of labels, to be measured by itself.

    `labels` are integers [Z, Y, X], `texts` the prompt of each. Returns components as
    by `label_components`, and the prompt of each of them. With `new`, which makes an
    array on disk of a shape, chunks and a type, they are found block by block.
    """
    shape, count = tuple(labels.shape), np.dtype(np.uint32)
    if new is None:
        components: Any = label_components(native(labels))
    else:
        block = window_shape(labels)
        spare, components = (new(shape, block, count) for _ in range(2))
        edges = np.broadcast_to(np.uint8(0), shape)
        split_blockwise(labels, edges, spare, components, block, after=0)
    owners = owners_of(components, labels)
    return components, {n: texts.get(label, str(label)) for n, label in owners.items()}


def _moments(found: pd.DataFrame) -> tuple[Floats, Floats]:
    """Return means [N, 3] and covariances [N, 3, 3] of the indices of each object."""
    voxels = found["voxels"].to_numpy()
    means = np.stack([found[f"{a}_sum"] / voxels for a in "zyx"], axis=1)
    pairs = ("zz", "zy", "zx", "zy", "yy", "yx", "zx", "yx", "xx")
    products = np.stack([found[f"{pair}_sum"] / voxels for pair in pairs], axis=1)
    return means, products.reshape(-1, 3, 3) - means[:, :, None] * means[:, None]


def _channels(volume: Volume) -> dict[str, ArrayLike]:
    """Return the data of each channel by its name, which is empty for a single one."""
    if "c" not in volume.axes:
        return {"": volume.data}
    names = volume.channels
    return {
        name if len(names) > 1 else "": volume.select(c=i).data
        for i, name in enumerate(names)
    }
