"""Read OME-Zarr 0.1 to 0.6, and plain Zarr v2 and v3."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from napari_biomedparse.data.prompts import INSTANCE_KEY
from napari_biomedparse.data.results import Owners
from napari_biomedparse.data.volume import ArrayLike, Volume
from napari_biomedparse.errors import FormatError, PromptError, check_shortage, damaged
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
from napari_biomedparse.io.painting import recover

logger = logging.getLogger(__name__)

_AXES = ("t", "c", "z", "y", "x")
_MOST_CHUNKS = 2**11
"""How many chunks are looked for when an array is opened; some, if it has more."""
_DEEPEST = 8
"""Largest depth of groups that are searched for images."""
_MAX_IMAGES = 64
"""Largest number of images that one group may list."""
_VERSIONS = ("", "0.1", "0.2", "0.3", "0.4", "0.5")
"""Versions of OME-Zarr that are read whole."""
_LABEL_NAMES = re.compile(
    r"(.*[_-])?(gt|label|mask|seg|segmentation|annotation|instance|truth|groundtruth)s?"
    r"([_-].*)?",
    re.I,
)
"""Names of members of a plain group that are labels if its other members are not."""
_IMAGE_NAMES = re.compile("(raw|image|img|data|volume)s?", re.I)
"""Names of members that come first."""
_SMALL_NAMES = re.compile("(thumb|thumbnail|preview|overview|macro)s?", re.I)
"""Names of members that are pictures of the others."""


def open_zarr(path: Path) -> Contents:
    """Open the images and label images of a Zarr folder without reading chunks.

    The folder is an OME-Zarr image with its ``labels``, a label image, a collection of
    images as written by bioformats2raw, or a plain array or group of arrays.
    """
    recover(path)
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
        check_shortage(error, memory=False)
        raise FormatError(
            f"{path} has metadata that do not follow OME-Zarr ({error}); write it "
            "again, or open one of its arrays separately."
        ) from error


def _open_group(group: zarr.Group, path: Path, depth: int) -> Contents:
    attributes = ome_attributes(group.attrs.asdict())
    if "plate" in attributes or "well" in attributes:
        field = _first_field(group, attributes)
        if not field:
            raise damaged(path, "is a plate, but none of the fields it lists is there")
        raise FormatError(
            f"{path} is a plate with many fields; open one of them, for example "
            f"{path / field}."
        )
    if "multiscales" in attributes:
        return _open_image(group, attributes, path)
    if isinstance(attributes.get("labels"), list):
        labels, unread = _open_labels(group, path)
        return Contents(labels=labels, unread=unread)
    members = {name: node for name, node in group.members() if _may_hold_images(node)}
    if depth == _DEEPEST:
        raise FormatError(
            f"{path} is nested in {depth} groups without images; open the group that "
            "contains them."
        )
    if any(not _SMALL_NAMES.fullmatch(name) for name in members):
        members = {n: m for n, m in members.items() if not _SMALL_NAMES.fullmatch(n)}
    opened = {
        name: _open_node(_own_part(path, name), depth + 1)
        for name in sorted(members, key=_in_order)
    }
    named = {name for name in opened if _LABEL_NAMES.fullmatch(name)}
    if all(not opened[name].images for name in set(opened) - named):
        named = set()  # there is nothing else that could be the image
    images: tuple[Volume, ...] = ()
    found: tuple[LabelVolume, ...] = ()
    for name, contents in opened.items():
        found += contents.labels
        for volume in contents.images:
            if name in named and volume.dtype.kind in "bui":
                found += (LabelVolume(volume),)
            else:
                images += (volume,)
    if not images and not found:
        raise FormatError(
            f"{path} is a Zarr group without images; open the group that contains them."
        )
    return Contents(images, found)


def _first_field(group: zarr.Group, attributes: Mapping[str, Any]) -> str:
    """Return the path of the first field of a plate or well that is there, or ""."""
    try:
        for well in (attributes.get("plate") or {}).get("wells", ()):
            node = group.get(str(well["path"]))
            if isinstance(node, zarr.Group):
                inner = _first_field(node, ome_attributes(node.attrs.asdict()))
                return f"{well['path']}/{inner}".strip("/")
        for image in (attributes.get("well") or {}).get("images", ()):
            if isinstance(group.get(str(image["path"])), zarr.Group):
                return str(image["path"])
    except (AttributeError, LookupError, TypeError, ValueError):
        pass  # metadata of another form
    return ""


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
    try:
        volumes = tuple(_read_image(group, attributes, one, path) for one in entries)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        version = str(attributes.get("version") or entries[0].get("version") or "")
        if version in _VERSIONS:
            raise
        raise FormatError(
            f"{path} is OME-Zarr {version}, of which this is not supported: {error}. "
            "Versions 0.1 to 0.5 are; write it again in one of them."
        ) from error
    label = attributes.get("image-label")
    if isinstance(label, Mapping):
        texts, colours = read_label_texts(label), read_label_colours(label)
        instance = label.get(INSTANCE_KEY) == 1
        owners = Owners.parse(label.get("owners"))
        labels = tuple(
            LabelVolume(volume, texts, colours, instance, owners) for volume in volumes
        )
        prompts = as_prompts(texts, instance=instance, what=str(path))
        return Contents(labels=labels, prompts=prompts)
    labels, unread = _open_labels(group.get("labels"), path / "labels")
    return Contents(volumes, labels, unread=unread)


def _open_labels(group: Any, path: Path) -> tuple[tuple[LabelVolume, ...], str]:
    """Open the labels of an image; return them and the last fault, or no text."""
    if not isinstance(group, zarr.Group):
        return (), ""
    names = ome_attributes(group.attrs.asdict()).get("labels")
    if not isinstance(names, list):  # tools forget to list them
        names = sorted(name for name, _ in group.groups())
    found: list[LabelVolume] = []
    unread = ""
    for name in dict.fromkeys(str(name).strip("/") for name in names):
        try:
            child = group.get(name)
            if not isinstance(child, zarr.Group):
                raise ValueError("they are missing")
            attributes = dict(ome_attributes(child.attrs.asdict()))
            if not isinstance(attributes.get("image-label"), Mapping):
                attributes["image-label"] = {}
            found += _open_image(child, attributes, path / name).labels
        except Exception as error:  # whatever they are, the image is there
            unread = f"The labels {name!r} of {path} cannot be read: {error}."
            logger.warning("%s", unread)
    return tuple(found), unread


def _read_image(
    group: zarr.Group, attributes: Mapping[str, Any], entry: Any, path: Path
) -> Volume:
    found = read_multiscale(entry)
    arrays = [_get_array(group, name, path) for name in found.paths]
    rank = len(found.axes)
    if any(array.ndim != rank for array in arrays):
        raise ValueError(f"its arrays do not have the axes {', '.join(found.axes)}")
    data, *levels = (_lazy(array, path, found.axes) for array in arrays)
    if "image-label" not in attributes:
        _tell_missing(arrays[0], path)
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
        raise damaged(path, f"lists the array {name!r}, which is missing")
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
    data = _lazy(array, path, axes)
    if not _LABEL_NAMES.fullmatch(path.name):
        _tell_missing(array, path)
    return Volume(
        data,
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


def _tell_missing(array: zarr.Array[Any], path: Path) -> None:
    """Tell of chunks that are not there: empty ones, or those that a copy lacks."""
    sizes = zip(array.shape, array.shards or array.chunks, strict=True)
    grid = tuple(-(-length // size) for length, size in sizes)
    folder = Path(array.store.root, array.path)  # type: ignore[attr-defined]
    numbers = range(0, (count := math.prod(grid)), -(-count // _MOST_CHUNKS) or 1)
    places = (map(int, np.unravel_index(number, grid)) for number in numbers)
    keys = [array.metadata.encode_chunk_key(tuple(place)) for place in places]
    if missing := [key for key in keys if not (folder / key).exists()]:
        logger.warning(
            f"{path}: {len(missing)} of {len(keys)} chunks of "
            f"{array.path or 'the array'} are not there, such as {missing[0]}, and are "
            f"read as {array.fill_value}. Programs leave out empty ones; if there "
            "should be none, copy the folder again from its source."
        )


def _stem(path: Path) -> str:
    return path.name.removesuffix(".zarr").removesuffix(".ome")


def _may_hold_images(node: Any) -> bool:
    if isinstance(node, zarr.Array):
        return 2 <= node.ndim <= len(_AXES) and node.dtype.kind in "buif"
    return bool(node.basename != "OME")


def _in_order(name: str) -> tuple[bool, bool, int, str]:
    """Return a key that sorts numbers first, and images before what else there is."""
    number = int(name) if name.isdecimal() else 0
    return not name.isdecimal(), not _IMAGE_NAMES.fullmatch(name), number, name
