"""Reader, writer, and conversions between volumes and napari layers."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from logging.handlers import BufferingHandler
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Layer
from napari.utils.colormaps import DirectLabelColormap
from napari.utils.notifications import show_warning
from napari.utils.transforms import Affine

from napari_biomedparse.data.options import parse_axes
from napari_biomedparse.data.prompts import (
    INSTANCE_KEY,
    Colour,
    Prompt,
    PromptSet,
    label_colour,
    parse_prompts,
)
from napari_biomedparse.data.results import Owners
from napari_biomedparse.data.volume import (
    SPATIAL_AXES,
    Volume,
    as_volume,
    colours_of,
    with_axis,
)
from napari_biomedparse.errors import VolumeError
from napari_biomedparse.io.formats.units import unit_name, with_voxel_size
from napari_biomedparse.viewer.axes import (
    AXES,
    series_axes,
    shown_position,
    space_axes,
    stacked_axes,
)

if TYPE_CHECKING:
    import numpy.typing as npt
    from napari.components import Dims, LayerList
    from napari.layers import Image, Labels

    from napari_biomedparse.io.contents import Contents, LabelVolume

Paths = str | os.PathLike[str] | Sequence[str]
LayerTuple = tuple[Any, dict[str, Any], str]
"""Data, keywords and type of a layer, as npe2 wants them."""
METADATA_KEY = "biomedparse"  # key of this plugin's entries in a layer's ``metadata``
REVIEWED_KEY = "reviewed"
"""Key of the accepted slices, by the layer's axis, among those entries."""
_HEADER_KEY, _DIRECTIONS_KEY = "nifti_header", "directions"
_TRANSFORMS = ("scale", "translate", "rotate", "shear")
_ALMOST = 1e-9
"""Share of a voxel's edge up to which a step along another axis is rounding."""
_CHANNEL_COLORMAPS = ("magenta", "green", "cyan", "yellow", "red", "blue")
_UNNAMED: Colour = (128, 128, 128, 255)


def get_reader(path: Paths) -> Callable[[Any], list[LayerTuple]] | None:
    """Return the npe2 reader for one or several files, or None if not supported."""
    from napari_biomedparse.io import can_open

    paths = _as_list(path)
    return read_layers if paths and all(map(can_open, paths)) else None


def read_layers(path: Paths) -> list[LayerTuple]:
    """Open files as layers; voxels are read when they are shown.

    What is logged about them is shown. Raises FormatError if a file is damaged.
    """
    from napari_biomedparse.io import open_file

    told, logger = BufferingHandler(2**20), logging.getLogger("napari_biomedparse")
    told.setLevel(logging.WARNING)
    logger.addHandler(told)
    try:
        opened = [open_file(one) for one in _as_list(path)]
    finally:
        logger.removeHandler(told)
        for record in told.buffer:
            show_warning(record.getMessage())
    return [layer for contents in opened for layer in to_layer_tuples(contents)]


def to_layer_tuples(contents: Contents) -> list[LayerTuple]:
    """Return an Image layer for each channel and a Labels layer for each label image.

    The layers have scale, translate, units and axis labels. Prompts of the file are in
    ``metadata["biomedparse"]["text_prompts"]``, by label id.
    """
    prompts = contents.prompts
    layers = [one for each in contents.images for one in _image_layers(each, prompts)]
    return layers + [_labels_layer(labels, prompts) for labels in contents.labels]


def volume_from_layer(
    layer: Image,
    dims: Dims | None = None,
    *,
    at: Mapping[str, int] = MappingProxyType({}),
    series: bool = False,
) -> Volume:
    """Return the volume of a layer that the viewer is showing, as by `as_volume`.

    It is lazy if the layer's data are, placed by all transforms of the layer, and has
    the finest level of a multiscale one. Along further axes (channel, time) it is at
    the position of the viewer's `dims`, without them at the first one, or at those
    given by the names of `stacked_axes` as `at`. A `series` has the axis t, two or
    three axes of space, and possibly colours. A `VolumeError` is raised if the layer
    cannot be segmented.
    """
    kept, stacked = space_axes(layer), stacked_axes(layer)
    position = list(shown_position(layer, dims))
    for name, where in at.items():
        position[stacked[name]] = where
    axes = tuple(layer.axis_labels[i].lower() for i in kept)
    if len(set(axes)) < len(axes) or not set(axes) <= set(AXES):
        axes = SPATIAL_AXES[-len(kept) :]
    if series:
        kept, axes = [stacked["t"], *kept], ("t", *axes)
    index = tuple(slice(None) if i in kept else p for i, p in enumerate(position))
    data = layer.data[0] if layer.multiscale else layer.data
    colours = 1 if layer.rgb else 0  # a last axis that napari does not count
    axes += ("c",) * colours
    volume = Volume(
        data[index],
        axes,
        units=tuple(unit_name(layer.units[i]) for i in kept) + ("pixel",) * colours,
        name=layer.name,
        **_space(_keywords_of(layer), kept, colours),
        **_in_patient(known_of(layer), axes),
    )
    return volume if series else as_volume(volume)


def volume_of_channels(layer: Image, layers: Iterable[Layer], dims: Dims) -> Volume:
    """Return a layer's volume with all channels of its file that are among `layers`.

    These are along the first axis, and have the names of their layers.
    """
    volume = volume_from_layer(layer, dims)
    known = known_of(layer)
    found: dict[str, Any] = {}
    for other in layers if "channel" in known else ():
        own = known_of(other)
        if "channel" in own and own.get("source") == known.get("source"):
            channel = volume_from_layer(other, dims)
            if channel.shape == volume.shape:
                found[other.name] = channel.data
    if len(found) < 2:
        return volume
    import dask.array as da

    data = da.stack([da.asarray(data) for data in found.values()])  # type: ignore[no-untyped-call]
    return replace(with_axis(volume, "c", data), channel_names=tuple(found))


def voxel_size(layer: Image | Labels) -> tuple[float, float, float]:
    """Return the voxel edges of a layer's last three axes, with all transforms."""
    kept = range(max(0, layer.ndim - 3), layer.ndim)
    sizes = _space(_keywords_of(layer), kept)["spacing"]
    z, y, x = [1.0] * (3 - len(sizes)) + list(sizes)
    return z, y, x


def set_voxel_size(layers: Iterable[Layer], image: Image, text: str) -> None:
    """Give an image, and the layers with its scale and units, another voxel size.

    `text` is as for `parse_voxel_size`. Raises OptionError if it is not of that form.
    """
    before = volume_from_layer(image)
    after = with_voxel_size(before, text)
    old, named = np.array(image.scale), tuple(image.units)
    factors, units = np.ones(image.ndim), list(named)
    for i, (_, at) in volume_axes(image).items():
        factors[at] = after.spacing[i] / before.spacing[i]
        units[at] = after.units[i]
    for layer in layers:
        alike = layer.ndim == image.ndim and tuple(layer.units) == named
        if alike and np.array_equal(layer.scale, old):
            layer.translate = layer.translate * factors
            layer.scale = old * factors
            layer.units = units


def name_axes(layers: LayerList, image: Image, letters: str) -> None:
    """Give the axes of an image other names; `letters` are as for `open_file`.

    A TIFF is opened anew, and its former layers are hidden, as its channels and voxel
    size may be others. Raises OptionError or VolumeError if they do not fit.
    """
    from napari_biomedparse.io import open_file

    axes, source = parse_axes(letters), known_of(image).get("source")
    letters = "".join(axes).upper()
    rank = image.ndim + image.rgb
    try:
        if source is None or not Path(source).exists():
            raise VolumeError(
                f"{image.name} has {rank} axes, which cannot be named {letters}."
            )
        opened = to_layer_tuples(open_file(source, letters))
    except VolumeError:
        if len(axes) != rank or bool(image.rgb) != (axes[-1] == "c"):
            raise
        image.axis_labels = axes[: image.ndim]
        return
    for layer in layers:
        if known_of(layer).get("source") == source:
            layer.visible = False
    for data, keywords, kind in opened:
        if kind == "image":
            keywords["metadata"][METADATA_KEY]["axes"] = letters
            keywords["name"] += f" ({letters})"
            layers.append(Layer.create(data, keywords, kind))


def voxels_of_labels(layer: Labels) -> npt.NDArray[Any]:
    """Return the labels of a layer as [Z, Y, X], with one slice for a single image.

    Raises VolumeError if the layer has more than three axes.
    """
    voxels = np.asarray(layer.data[0] if layer.multiscale else layer.data)
    if voxels.ndim > 3:
        raise VolumeError(
            f"{layer.name} has {voxels.ndim} axes. Choose a layer with two or three."
        )
    return voxels[None] if voxels.ndim == 2 else voxels


def voxels_of_prompts(
    layer: Labels, instances: npt.NDArray[np.integer[Any]], prompts: PromptSet
) -> npt.NDArray[np.int64]:
    """Return the prompt id of each voxel's instance, from the layer's features."""
    ids = dict(zip(prompts.texts, prompts.ids, strict=True))
    lookup = np.full(int(instances.max(initial=0)) + 1, prompts.ids[0])
    lookup[0] = 0
    features = layer.features
    if {"index", "prompt"} <= set(features.columns):
        for number, text in zip(features["index"], features["prompt"], strict=True):
            if 0 < number < len(lookup) and text in ids:
                lookup[int(number)] = ids[text]
    return np.asarray(lookup[instances])


def prompts_of_values(labels: npt.NDArray[np.integer[Any]]) -> PromptSet:
    """Return prompts named by the values of labels that have none."""
    found = [int(i) for i in np.unique(labels) if i > 0] or [1]
    return PromptSet(tuple(Prompt(i, f"label {i}") for i in found))


def moved_translate(
    keywords: Mapping[str, Any], start: Sequence[int]
) -> npt.NDArray[np.float64]:
    """Return the ``translate`` of a layer that begins at another of its voxels."""
    own = Affine(**{name: keywords[name] for name in ("scale", "rotate", "shear")})
    moved = np.asarray(own.linear_matrix) @ start
    return np.asarray(keywords["translate"] + moved)


def volume_axes(layer: Image) -> dict[int, tuple[str, int]]:
    """Return the name and the layer's axis of each axis of the layer's volume.

    A single image lacks the first axis of its volume.
    """
    kept = space_axes(layer)
    first = 3 - len(kept)
    names = volume_from_layer(layer).axes[first:3]
    pairs = zip(names, kept, strict=True)
    return dict(enumerate(pairs, start=first))


def is_derived(layer: Image) -> bool:
    """Return whether a layer shows output of the network, such as probabilities."""
    return bool(known_of(layer).get("derived"))


def prompts_of_layer(layer: Image | Labels) -> PromptSet | None:
    """Return the prompts stored in a layer's metadata, or None if there are none."""
    return _stored(known_of(layer))


def reviewed(layer: Labels) -> dict[int, list[int]]:
    """Return the accepted slices by the layer's axis."""
    return dict(known_of(layer).get(REVIEWED_KEY) or {})


def show_accepted(keywords: dict[str, Any], shown: Mapping[str, Any]) -> None:
    """Show a result of `paintable_or_pyramid`, and what is accepted of it."""
    keywords |= shown
    if marks := getattr(shown["data"], "accepted", None):
        keywords["metadata"][METADATA_KEY][REVIEWED_KEY] = marks


def known_of(layer: Layer) -> Mapping[str, Any]:
    """Return the entries of this plugin in a layer's metadata."""
    return layer.metadata.get(METADATA_KEY) or {}


def labels_layer_kwargs(
    layer: Image, prompts: PromptSet, *, name: str, series_at: int | None = None
) -> dict[str, Any]:
    """Return the keywords, without data, of a Labels layer on an Image layer.

    Transforms, units and axis labels are those of the image. Each prompt gets a colour
    and a row of the ``features`` table (columns ``index``, the label id, and
    ``prompt``); instances get napari's own colours. `series_at` is the channel of a
    series, 0 if there are no channels; its labels have the axes of `series_axes`.
    """
    kept = space_axes(layer) if series_at is None else series_axes(layer)
    kinds = (_HEADER_KEY, _DIRECTIONS_KEY)
    header = {k: v for k, v in known_of(layer).items() if k in kinds}
    keywords: dict[str, Any] = {
        "name": name,
        "units": tuple(layer.units[i] for i in kept),
        "axis_labels": tuple(layer.axis_labels[i] for i in kept),
        "metadata": {METADATA_KEY: {**header, **_prompt_metadata(prompts)}},
        **_transforms(layer, kept),
    }
    channel = stacked_axes(layer).get("c")
    if series_at is not None and channel in kept:
        offset = list(map(float, keywords["translate"]))
        offset[kept.index(channel)] += series_at * float(layer.scale[channel])
        keywords["translate"] = offset
    if not prompts.instance:
        texts = dict(zip(prompts.ids, prompts.texts, strict=True))
        keywords |= _named_labels(texts, {i: label_colour(i) for i in prompts.ids})
    return keywords


def object_features(owners: Owners, prompts: PromptSet) -> dict[str, Any]:
    """Return the features of a Labels layer of objects: prompt, label and score."""
    names = owners.names(dict(zip(prompts.ids, prompts.texts, strict=True)))
    known = [0, *names]
    found = {
        "index": known,
        "prompt": ["background", *names.values()],
        "label": owners.labels[known],
    }
    scored = np.isfinite(owners.scores).any()
    return found | ({"score": owners.scores[known]} if scored else {})


def _owners_in(table: Any, prompts: PromptSet | None) -> Owners | None:
    """Return the prompt of each object from the features of a layer of objects."""
    if prompts is None or not prompts.instance or table is None:
        return None
    if not {"index", "prompt"} <= set(table):
        return None
    ids = dict(zip(prompts.texts, prompts.ids, strict=True))
    numbers = table["index"].to_numpy(int)
    labels = np.zeros(max(numbers, default=0) + 1, np.uint16)
    scores = np.full(len(labels), np.nan, np.float32)
    labels[numbers] = [ids.get(text, 0) for text in table["prompt"]]
    if "score" in table:
        scores[numbers] = table["score"]
    return Owners(labels, scores)


def write_labels(path: str, data: Any, meta: dict[str, Any]) -> list[str]:
    """Save a Labels layer with two to four axes; the npe2 writer for one layer.

    The path has an extension of `napari_biomedparse.io.save_labels`. An existing file
    is replaced, as napari has asked before, but not the image that was segmented.
    """
    from napari_biomedparse.io import save_labels

    data = data[0] if meta.get("multiscale") else data
    rank = len(data.shape)
    labels = tuple(label.lower() for label in meta.get("axis_labels") or ())
    named = len(set(labels)) == rank and set(labels) <= set(AXES)
    known = (meta.get("metadata") or {}).get(METADATA_KEY) or {}
    prompts = _stored(known)
    source = ((known.get("provenance") or {}).get("source") or {}).get("path")
    volume = Volume(
        data,
        labels if named else AXES[-rank:],
        units=tuple(map(unit_name, meta.get("units") or ("pixel",) * rank)),
        name=str(meta.get("name", "labels")),
        source=Path(source) if source else None,
        **_space(meta, range(rank)),
        **_in_patient(known, labels if named else AXES[-rank:]),
    )
    save_labels(
        path,
        data,
        volume=volume,
        prompts=prompts,
        owners=_owners_in(meta.get("features"), prompts),
        overwrite=True,
    )
    return [path]


def _as_list(path: Paths) -> list[Any]:
    return [path] if isinstance(path, (str, os.PathLike)) else list(path)


def _image_layers(volume: Volume, prompts: PromptSet | None) -> list[LayerTuple]:
    coloured = colours_of(volume)
    if "c" not in volume.axes or coloured is not None:
        return [(*_data_and_keywords(coloured or volume, prompts), "image")]
    count = volume.size("c")
    names = volume.channel_names or tuple(f"channel {i}" for i in range(count))
    layers: list[LayerTuple] = []
    for i, name in enumerate(names):
        data, keywords = _data_and_keywords(volume.select(c=i), prompts)
        if count > 1:
            own = name if name in ("red", "green", "blue") else None
            keywords["metadata"][METADATA_KEY]["channel"] = i
            keywords |= {
                "name": f"{volume.name} {name}",
                "colormap": own or _CHANNEL_COLORMAPS[i % len(_CHANNEL_COLORMAPS)],
                "blending": "additive" if i else "translucent_no_depth",
            }
        layers.append((data, keywords, "image"))
    return layers


def _labels_layer(labels: LabelVolume, prompts: PromptSet | None) -> LayerTuple:
    data, keywords = _data_and_keywords(labels.volume, prompts)
    volume = labels.volume
    if volume.source is not None and (volume.source.parent / "manifest.json").is_file():
        from napari_biomedparse.viewer.painting import paintable_or_pyramid

        levels = [volume.data, *volume.levels]
        shown = paintable_or_pyramid(volume.source, levels, reviewed=reviewed)
        show_accepted(keywords, shown)
        data = keywords.pop("data")
    if prompts is None or not prompts.instance:
        keywords |= _named_labels(labels.texts, labels.colours)
    elif labels.owners is not None:
        keywords["features"] = object_features(labels.owners, prompts)
    return data, keywords, "labels"


def _data_and_keywords(
    volume: Volume, prompts: PromptSet | None
) -> tuple[Any, dict[str, Any]]:
    known: dict[str, Any] = {} if prompts is None else _prompt_metadata(prompts)
    if volume.header is not None:
        known[_HEADER_KEY] = volume.header
    if volume.directions:
        known[_DIRECTIONS_KEY] = dict(zip(volume.axes, volume.directions, strict=True))
    rank = len(volume.axes) - ("c" in volume.axes)  # napari does not count colours
    keywords: dict[str, Any] = {
        "name": volume.name,
        "scale": volume.spacing[:rank],
        "translate": volume.origin[:rank],
        "units": volume.units[:rank],
        "axis_labels": volume.axes[:rank],
        "multiscale": bool(volume.levels),
        "metadata": {METADATA_KEY: {"source": str(volume.source), **known}},
    }
    if rank < len(volume.axes):
        keywords["rgb"] = True
    data = [volume.data, *volume.levels] if volume.levels else volume.data
    return data, keywords


def _prompt_metadata(prompts: PromptSet) -> dict[str, Any]:
    texts = dict(zip(prompts.ids, prompts.texts, strict=True))
    return {"text_prompts": texts, INSTANCE_KEY: int(prompts.instance)}


def _stored(known: Mapping[str, Any]) -> PromptSet | None:
    texts = known.get("text_prompts")
    if not texts:
        return None
    return parse_prompts({**texts, INSTANCE_KEY: known.get(INSTANCE_KEY, 0)})


def _named_labels(
    texts: Mapping[int, str], colours: Mapping[int, Colour]
) -> dict[str, Any]:
    """Return features and colormap, if there are names and colours."""
    keywords: dict[str, Any] = {}
    if texts:
        ids, names = [0, *texts], ["background", *texts.values()]
        keywords["features"] = {"index": ids, "prompt": names}
    if colours:
        shown: dict[int | None, Any] = {0: np.zeros(4), None: np.divide(_UNNAMED, 255)}
        shown |= {i: np.divide(rgba, 255) for i, rgba in colours.items()}
        keywords["colormap"] = DirectLabelColormap(color_dict=shown)
    return keywords


def _keywords_of(layer: Image | Labels) -> dict[str, Any]:
    return {name: getattr(layer, name) for name in (*_TRANSFORMS, "affine")}


def _space(
    transforms: Mapping[str, Any], kept: Sequence[int], more: int = 0
) -> dict[str, Any]:
    """Return spacing, origin and matrix of some axes of a layer with transforms.

    There are `more` axes behind them without a place in the world.
    """
    own = {name: transforms[name] for name in _TRANSFORMS if name in transforms}
    rank = len(own["scale"]) if "scale" in own else len(kept)
    if "shear" in own:  # napari gives one too many for two axes
        own["shear"] = np.ravel(own["shear"])[: rank * (rank - 1) // 2]
    world = np.asarray(Affine(ndim=rank, **own).affine_matrix)
    if (affine := transforms.get("affine")) is not None:
        world = np.asarray(getattr(affine, "affine_matrix", affine)) @ world
    steps = np.eye(len(kept) + more)
    steps[: len(kept), : len(kept)] = world[np.ix_(kept, kept)]
    edges = np.linalg.norm(steps, axis=0)
    steps[np.abs(steps) < _ALMOST * edges] = 0.0
    sides = np.abs(np.diag(steps))
    is_plain = bool((steps == np.diag(sides)).all())
    return {
        "spacing": tuple((sides if is_plain else edges).tolist()),
        "origin": (*world[list(kept), -1].tolist(), *(0.0,) * more),
        "matrix": None if is_plain else tuple(map(tuple, steps.tolist())),
    }


def _in_patient(known: Mapping[str, Any], axes: Sequence[str]) -> dict[str, Any]:
    """Return header and directions of a volume with these axes."""
    sides = known.get(_DIRECTIONS_KEY) or {}
    directions = tuple(sides.get(axis, (0.0, 0.0, 0.0)) for axis in axes if sides)
    return {"header": known.get(_HEADER_KEY), "directions": directions}


def _transforms(layer: Image, kept: list[int]) -> dict[str, Any]:
    own, affine = {name: getattr(layer, name) for name in _TRANSFORMS}, layer.affine
    if len(kept) < layer.ndim:
        part = Affine(**own, ndim=layer.ndim).set_slice(kept)
        own = {name: getattr(part, name) for name in _TRANSFORMS}
        affine = affine.set_slice(kept)
    count = len(kept) * (len(kept) - 1) // 2  # napari gives one too many for two axes
    own["shear"] = own["shear"][:count]
    return {**own, "affine": affine.affine_matrix}
