"""Read OME-Zarr 0.1 to 0.6, and plain Zarr v2 and v3."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import zarr

from napari_biomedparse.data.volume import ArrayLike, Volume
from napari_biomedparse.errors import BiomedParseError, FormatError, check_shortage
from napari_biomedparse.io.contents import Contents, LabelVolume, label_contents
from napari_biomedparse.io.formats.ome_labels import ome_attributes
from napari_biomedparse.io.formats.units import PIXEL, unit_name
from napari_biomedparse.io.guards.bounds import damaged
from napari_biomedparse.io.guards.zarr_guard import FencedStore, check_parts, guarded
from napari_biomedparse.io.lazy import Index, grow_chunks, lazy_array
from napari_biomedparse.io.painting import recover

if TYPE_CHECKING:
    from napari_biomedparse.data.prompts import Colour

logger = logging.getLogger(__name__)

_AXES = ("t", "c", "z", "y", "x")
_KINDS = {"channel": "c", "time": "t"}
_MOST_CHUNKS = 2**11
"""How many chunks are looked for when an array is opened; some, if it has more."""
_MOST_INDEXED = 2**18
"""How many chunks are looked for in the indices of shards."""
_NOT_THERE = 2**64 - 1
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
    except BiomedParseError:
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
        known = {**label, "text_prompts": read_label_texts(label)}
        found = [label_contents(v, known, read_label_colours(label)) for v in volumes]
        labels = tuple(one.labels[0] for one in found)
        return Contents(labels=labels, prompts=found[-1].prompts if found else None)
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
    if not any(map(_LABEL_NAMES.fullmatch, (path.name, _stem(path.parent)))):
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
    sizes = array.shards or array.chunks
    grid = tuple(-(-n // size) for n, size in zip(array.shape, sizes, strict=True))
    folder = Path(array.store.root, array.path)  # type: ignore[attr-defined]
    numbers = range(0, (count := math.prod(grid)), -(-count // _MOST_CHUNKS) or 1)
    places = [tuple(map(int, np.unravel_index(number, grid))) for number in numbers]
    keys = [array.metadata.encode_chunk_key(place) for place in places]
    missing = [key for key in keys if not (folder / key).exists()]
    of, known = len(keys), "chunks"
    if not missing and array.shards:
        each = math.prod(array.shards) // math.prod(array.chunks)
        step = -(-len(keys) * each // _MOST_INDEXED)
        pairs = list(zip(places, keys, strict=True))[::step]
        missing = [key for place, key in pairs if _lacks_chunks(array, place, key)]
        of, known = len(pairs), "shards, or chunks in them,"
    if missing:
        logger.warning(
            f"{path}: {len(missing)} of {of} {known} of "
            f"{array.path or 'the array'} are not there, such as {missing[0]}, and are "
            f"read as {array.fill_value}. Programs leave out empty ones; if there "
            "should be none, copy the folder again from its source."
        )


def _lacks_chunks(array: zarr.Array[Any], place: tuple[int, ...], key: str) -> bool:
    """Return whether a shard lacks a chunk inside the array; False if it is unusual."""
    sizes = list(zip(array.shape, array.shards or (), array.chunks, strict=True))
    codec: Any = array.metadata.codecs[0]  # type: ignore[union-attr]
    known = [one.to_dict() for one in getattr(codec, "index_codecs", ())]
    if known[:1] != [{"name": "bytes", "configuration": {"endian": "little"}}]:
        return False
    shape = tuple(shard // chunk for _, shard, chunk in sizes)
    size, rest = 16 * math.prod(shape), 4 * (len(known) - 1)
    name = f"{array.path}/{key}".strip("/")
    store: Any = array.store
    end, at_end = store.check(name), codec.index_location.value == "end"
    with Path(store.root, name).open("rb") as file:
        file.seek(max(0, end - size - rest) if at_end else 0)
        index = np.frombuffer(file.read(size).ljust(size), "<u8").reshape(*shape, 2)
    inside = tuple(
        slice(-(-min(shard, n - i * shard) // chunk))
        for (n, shard, chunk), i in zip(sizes, place, strict=True)
    )
    return bool((index[inside] == _NOT_THERE).all(axis=-1).any())


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


@dataclass(frozen=True)
class Multiscale:
    """One image of a store: the paths of its arrays and the meaning of their axes."""

    paths: tuple[str, ...]
    axes: tuple[str, ...]
    units: tuple[str, ...]
    scale: tuple[float, ...]
    translation: tuple[float, ...]
    name: str


def read_multiscale(entry: Mapping[str, Any]) -> Multiscale:
    """Read one entry of ``multiscales``.

    Raises `ValueError`, `KeyError` or `TypeError` if it violates the specification.
    """
    datasets = entry["datasets"]
    paths = tuple(str(dataset["path"]) for dataset in datasets)
    if not paths:
        raise ValueError("it lists no arrays")
    if len({path.strip("/") for path in paths}) < len(paths):
        raise ValueError("it lists an array twice")
    first = list(_flat(datasets[0].get("coordinateTransformations") or []))
    last = entry.get("coordinateTransformations") or []
    given = entry.get("axes") or _AXES
    if (systems := entry.get("coordinateSystems")) is not None:
        # Since 0.6; what leads from this system to others does not change its units.
        wanted = [_system(transform.get("output")) for transform in first]
        named = {system["name"]: system["axes"] for system in reversed(systems)}
        given, last = named.get(wanted[-1] if wanted else "", systems[0]["axes"]), []
    axes, units = _read_axes(given)
    if not first and not last and systems is None:
        units = (PIXEL,) * len(axes)  # no sizes to go with them
    scale, translation = _combine((*first, *last), len(axes))
    return Multiscale(
        paths, axes, units, scale, translation, str(entry.get("name") or "")
    )


def read_channel_names(attributes: Mapping[str, Any], count: int) -> tuple[str, ...]:
    """Return the channel names from ``omero``, or an empty tuple."""
    omero = attributes.get("omero")
    channels = omero.get("channels") if isinstance(omero, Mapping) else None
    if not isinstance(channels, list) or len(channels) != count:
        return ()
    names = tuple(
        str(channel.get("label") or "")
        for channel in channels
        if isinstance(channel, Mapping)
    )
    return names if all(names) and len(set(names)) == count else ()


def read_label_texts(label: Mapping[str, Any]) -> dict[int, str]:
    """Return prompts by label id, or else names of label values from ``properties``.

    Our own files have the key ``prompt``, and ``text_prompts`` if values are objects;
    in others the first text is used.
    """
    if isinstance(prompts := label.get("text_prompts"), Mapping):
        return {int(label_id): str(text) for label_id, text in prompts.items()}
    texts: dict[int, str] = {}
    for value, entry in _entries(label, "properties"):
        words = {k: v for k, v in entry.items() if isinstance(v, str) and v.strip()}
        text = words.get("prompt") or next(iter(words.values()), None)
        if text is not None:
            texts[value] = text
    return texts


def read_label_colours(label: Mapping[str, Any]) -> dict[int, Colour]:
    """Return the colours of the label values, from ``colors``."""
    colours: dict[int, Colour] = {}
    for value, entry in _entries(label, "colors"):
        rgba = entry.get("rgba")
        if isinstance(rgba, list) and len(rgba) == 4:
            if all(isinstance(part, int) and 0 <= part <= 255 for part in rgba):
                red, green, blue, alpha = rgba
                colours[value] = (red, green, blue, alpha)
    return colours


def _entries(
    label: Mapping[str, Any], key: str
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield label values and what is listed of them; other entries are ignored."""
    listed = label.get(key)
    for entry in listed if isinstance(listed, list) else ():
        value = entry.get("label-value") if isinstance(entry, Mapping) else None
        if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
            yield int(value), entry


def _system(reference: object) -> str:
    """Return the name of a coordinate system, which is text or an object with it."""
    name = reference.get("name") if isinstance(reference, Mapping) else reference
    return str(name)


def _flat(transforms: Sequence[Any]) -> Iterator[Any]:
    """Yield transforms with those of sequences in their place."""
    for transform in transforms:
        if transform["type"] == "sequence":
            inner = list(_flat(transform["transformations"]))
            yield from inner[:-1]
            yield {**inner[-1], "output": transform.get("output")}
        else:
            yield transform


def _read_axes(given: Sequence[Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    names, units = [], []
    for axis in given:
        entry = axis if isinstance(axis, Mapping) else {"name": str(axis)}
        names.append(_KINDS.get(str(entry.get("type")), str(entry.get("name")).lower()))
        units.append(unit_name(entry.get("unit")))
    spare = [letter for letter in "xyz" if letter not in names]
    for i in reversed(range(len(names))):
        if names[i] not in _AXES:
            letter = spare.pop(0) if spare else "?"
            logger.info("Axis %r is used as %s.", names[i], letter)
            names[i] = letter
    if len(set(names)) < len(names) or "?" in names:
        raise ValueError(f"its axes {list(given)} are ambiguous")
    return tuple(names), tuple(units)


def _combine(
    transforms: Sequence[Any], rank: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Combine a chain of transforms to one scale and one translation."""
    scale, translation = [1.0] * rank, [0.0] * rank
    for transform in transforms:
        kind = transform["type"]
        if kind == "identity":
            continue
        if kind not in ("scale", "translation") or kind not in transform:
            raise ValueError(f"it has a transformation of the unknown type {kind!r}")
        values = [float(value) for value in transform[kind]]
        if len(values) != rank or not all(map(math.isfinite, values)):
            raise ValueError(f"its {kind} {values} does not fit {rank} axes")
        if kind == "translation":
            translation = [a + b for a, b in zip(translation, values, strict=True)]
        elif min(values, default=1.0) <= 0:
            raise ValueError(f"its scale {values} is not positive")
        else:
            scale = [a * b for a, b in zip(scale, values, strict=True)]
            translation = [a * b for a, b in zip(translation, values, strict=True)]
    return tuple(scale), tuple(translation)
