"""OME-Zarr metadata, version 0.1 to 0.6: axes, transforms, channels, label names."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from napari_biomedparse.io.formats.units import PIXEL, unit_name

if TYPE_CHECKING:
    from napari_biomedparse.data.prompts import Colour

logger = logging.getLogger(__name__)

_DEFAULT_AXES = ("t", "c", "z", "y", "x")
_KINDS = {"channel": "c", "time": "t"}


@dataclass(frozen=True)
class Multiscale:
    """One image of a store: the paths of its arrays and the meaning of their axes."""

    paths: tuple[str, ...]
    axes: tuple[str, ...]
    units: tuple[str, ...]
    scale: tuple[float, ...]
    translation: tuple[float, ...]
    name: str


def ome_attributes(attributes: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the OME metadata: under ``ome`` since 0.5, at the top level before."""
    inner = attributes.get("ome")
    return inner if isinstance(inner, Mapping) else attributes


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
    given = entry.get("axes") or _DEFAULT_AXES
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
        if names[i] not in _DEFAULT_AXES:
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
