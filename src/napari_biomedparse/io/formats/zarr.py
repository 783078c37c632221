"""Read OME-Zarr 0.4 and 0.5, and plain Zarr v2 and v3."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from napari_biomedparse.data.prompts import INSTANCE_KEY
from napari_biomedparse.data.volume import ArrayLike, Volume
from napari_biomedparse.errors import FormatError, PromptError
from napari_biomedparse.io.contents import Contents, LabelVolume, as_prompts
from napari_biomedparse.io.formats.units import PIXEL
from napari_biomedparse.io.formats.zarr_metadata import (
    ome_attributes,
    read_channel_names,
    read_label_colours,
    read_label_texts,
    read_multiscale,
)
from napari_biomedparse.io.guards.zarr_guard import FencedStore, check_parts, guarded
from napari_biomedparse.io.lazy import Index, grow_chunks, lazy_array

logger = logging.getLogger(__name__)

_AXES = ("t", "c", "z", "y", "x")
_DEEPEST = 8
"""Largest depth of groups that are searched for images."""
_MAX_IMAGES = 64
"""Largest number of images that one group may list."""


def open_zarr(path: Path) -> Contents:
    """Open the images and label images of a Zarr folder without reading chunks.

    The folder is an OME-Zarr image with its ``labels``, a label image, a collection of
    images as written by bioformats2raw, or a plain array or group of arrays.
    """
    return _open_node(path, 0)


def _open_node(path: Path, depth: int) -> Contents:
    try:
        node = zarr.open(store=FencedStore(path), mode="r")
        if isinstance(node, zarr.Array):
            return Contents((_plain_volume(node, path),))
        return _open_group(node, path, depth)
    except (FormatError, PromptError):
        raise
    except Exception as error:  # damaged metadata can fail anywhere in zarr
        raise FormatError(
            f"{path} has metadata that do not follow OME-Zarr ({error}); write it "
            "again, or open one of its arrays separately."
        ) from error


def _open_group(group: zarr.Group, path: Path, depth: int) -> Contents:
    attributes = ome_attributes(group.attrs.asdict())
    if "plate" in attributes or "well" in attributes:
        raise FormatError(
            f"{path} is a plate with many fields; open one of them, for example "
            f"{path.name}/A/1/0."
        )
    if "multiscales" in attributes:
        return _open_image(group, attributes, path)
    if isinstance(attributes.get("labels"), list):
        return Contents(labels=_open_labels(group, path))
    members = {name: node for name, node in group.members() if _may_hold_images(node)}
    if depth == _DEEPEST:
        raise FormatError(
            f"{path} is nested in {depth} groups without images; open the group that "
            "contains them."
        )
    opened = [
        _open_node(_own_part(path, name), depth + 1)
        for name in sorted(members, key=_numeric_first)
    ]
    images = tuple(volume for contents in opened for volume in contents.images)
    labels = tuple(volume for contents in opened for volume in contents.labels)
    if not images and not labels:
        raise FormatError(
            f"{path} is a Zarr group without images; open the group that contains them."
        )
    return Contents(images, labels)


def _own_part(path: Path, name: str) -> Path:
    part = path / name
    if part.is_symlink():  # which may form a circle
        raise FormatError(
            f"{part} is a link; open the folder that it points to instead."
        )
    return part


def _open_image(
    group: zarr.Group, attributes: Mapping[str, Any], path: Path
) -> Contents:
    entries = attributes["multiscales"]
    if len(entries) > _MAX_IMAGES:  # each costs reading all that it lists
        raise ValueError(f"it lists {len(entries)} images, more than {_MAX_IMAGES}")
    volumes = tuple(_read_image(group, attributes, entry, path) for entry in entries)
    label = attributes.get("image-label")
    if isinstance(label, Mapping):
        texts, colours = read_label_texts(label), read_label_colours(label)
        labels = tuple(LabelVolume(volume, texts, colours) for volume in volumes)
        instance = label.get(INSTANCE_KEY) == 1
        prompts = as_prompts(texts, instance=instance, what=str(path))
        return Contents(labels=labels, prompts=prompts)
    return Contents(volumes, _open_labels(group.get("labels"), path / "labels"))


def _open_labels(group: Any, path: Path) -> tuple[LabelVolume, ...]:
    if not isinstance(group, zarr.Group):
        return ()
    names = ome_attributes(group.attrs.asdict()).get("labels") or []
    found: list[LabelVolume] = []
    for name in dict.fromkeys(str(name).strip("/") for name in names):
        child = group.get(name)
        if not isinstance(child, zarr.Group):
            logger.warning("%s lists the labels %r, which are missing.", path, name)
            continue
        attributes = dict(ome_attributes(child.attrs.asdict()))
        attributes.setdefault("image-label", {})
        found += _open_image(child, attributes, path / name).labels
    return tuple(found)


def _read_image(
    group: zarr.Group, attributes: Mapping[str, Any], entry: Any, path: Path
) -> Volume:
    found = read_multiscale(entry)
    arrays = [_get_array(group, name, path) for name in found.paths]
    rank = len(found.axes)
    if any(array.ndim != rank for array in arrays):
        raise ValueError(f"its arrays do not have the axes {', '.join(found.axes)}")
    data, *levels = (_lazy(array, path, found.axes) for array in arrays)
    count = data.shape[found.axes.index("c")] if "c" in found.axes else 0
    return Volume(
        data,
        found.axes,
        found.scale,
        found.units,
        found.translation,
        found.name if path.parent.name == "labels" and found.name else _stem(path),
        path,
        read_channel_names(attributes, count),
        tuple(levels),
    )


def _get_array(group: zarr.Group, name: str, path: Path) -> zarr.Array[Any]:
    array = group.get(name)
    if not isinstance(array, zarr.Array):
        raise FormatError(
            f"{path} lists the array {name!r}, which is missing; copy the whole "
            "folder again from its source."
        )
    return array


def _plain_volume(array: zarr.Array[Any], path: Path) -> Volume:
    rank = array.ndim
    if not 2 <= rank <= len(_AXES):
        raise FormatError(
            f"{path} is an array with {rank} axes; images have two to five "
            "(t, c, z, y, x)."
        )
    named: Any = getattr(array.metadata, "dimension_names", None)
    named = named or array.attrs.asdict().get("_ARRAY_DIMENSIONS") or ()
    axes = tuple(str(name).lower() for name in named)
    if len(axes) != rank or len(set(axes)) < rank or not set(axes) <= set(_AXES):
        axes = _AXES[1:][-rank:] if rank < len(_AXES) else _AXES
    return Volume(
        _lazy(array, path, axes),
        axes,
        (1.0,) * rank,
        (PIXEL,) * rank,
        (0.0,) * rank,
        _stem(path),
        path,
    )


def _lazy(array: zarr.Array[Any], path: Path, axes: tuple[str, ...]) -> ArrayLike:
    if array.dtype.kind not in "buif":
        raise FormatError(
            f"{path} has values of type {array.dtype}, not real numbers; convert them "
            "first."
        )

    checked = guarded(array, str(path))

    def read(index: Index) -> npt.NDArray[Any]:
        return np.asarray(checked[index])

    chunks = grow_chunks(array.chunks, array.shape, array.dtype.itemsize, axes)
    check_parts(array.shape, array.chunks, chunks, str(path))
    return lazy_array(read, array.shape, array.dtype, chunks, str(path))


def _stem(path: Path) -> str:
    return path.name.removesuffix(".zarr").removesuffix(".ome")


def _may_hold_images(node: Any) -> bool:
    if isinstance(node, zarr.Array):
        return 2 <= node.ndim <= len(_AXES) and node.dtype.kind in "buif"
    return bool(node.basename != "OME")


def _numeric_first(name: str) -> tuple[bool, int, str]:
    return (not name.isdecimal(), int(name) if name.isdecimal() else 0, name)
