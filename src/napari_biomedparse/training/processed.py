"""Read the original's processed layout: PNG images and masks, sentences in a JSON.

``train.json`` lists annotations (``mask_file``, ``file_name`` or ``image_id``, and
``sentences`` with ``raw`` or ``sent``) and ``images`` (``id``, ``file_name``); images
are in ``train``, masks in ``train_mask``. From mask names of the form
``NAME_MODALITY_SITE_TARGET.png`` follows which targets were looked for in an image:
those of its modality and site. Targets without a mask are absent.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import imagecodecs
import numpy as np
import numpy.typing as npt

from napari_biomedparse.errors import FormatError, PromptError, VolumeError
from napari_biomedparse.training.volumes import OnDemand, TrainingVolume, load_each
from napari_biomedparse.training.wordings import Wordings

ANNOTATIONS, IMAGES, MASKS = "train.json", "train", "train_mask"


def is_processed(data: Path) -> bool:
    """Return whether a folder has the original's processed layout."""
    return (data / ANNOTATIONS).is_file() and (data / IMAGES).is_dir()


def load_processed(
    data: Path, on_case: Callable[[str, int, int], None] | None = None
) -> tuple[TrainingVolume, ...]:
    """Open all images and masks of such a folder, and report all problems at once.

    Returns one volume per image and group of targets; the image's three channels enter
    the network unchanged. `on_case` is called as by `load_cases`, which raises the same
    errors.
    """
    by_image = _annotations(data / ANNOTATIONS)
    groups = _wordings(by_image)

    def load(name: str) -> Iterator[TrainingVolume]:
        image = OnDemand(partial(_read_image, data / IMAGES / name))
        for group in sorted({one.group for one in by_image[name]}):
            numbers, wordings = groups[group]
            masks = [
                (numbers[one.target], data / MASKS / one.mask)
                for one in by_image[name]
                if one.group == group
            ]
            labels = OnDemand(partial(_read_labels, masks, image.shape[:3]))
            yield TrainingVolume(name, group, image, labels, wordings, (0,))

    cases = [(name, data / IMAGES / name, partial(load, name)) for name in by_image]
    return load_each(cases, on_case)


class _Annotation(NamedTuple):
    mask: str
    group: str
    target: str
    sentences: list[str]


def _annotations(path: Path) -> dict[str, list[_Annotation]]:
    """List the annotations of each image."""
    try:
        content = json.loads(path.read_text("utf-8"))
        names = {one["id"]: one["file_name"] for one in content.get("images", [])}
        by_image: dict[str, list[_Annotation]] = {}
        for one in content["annotations"]:
            name = one.get("file_name") or names[one["image_id"]]
            by_image.setdefault(name, []).append(_annotation(one))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise FormatError(
            f"{path} is not a list of annotations with mask_file, file_name (or "
            f"image_id) and sentences ({type(error).__name__}: {error})."
        ) from error
    if not by_image:
        raise FormatError(f"{path} lists no annotations: nothing to train on.")
    return by_image


def _annotation(content: Mapping[str, Any]) -> _Annotation:
    """Take group and target from the name of the mask, or else from the sentences."""
    mask: str = content["mask_file"]
    sentences = [one.get("raw") or one["sent"] for one in content["sentences"]]
    group, target = sentences[0], sentences[-1]
    parts = [part.replace("+", " ").strip() for part in Path(mask).stem.rsplit("_", 3)]
    if len(parts) == 4 and all(parts):
        _, modality, site, target = parts
        group = f"{modality}, {site}"
    return _Annotation(mask, group, target, sentences)


def _wordings(
    by_image: Mapping[str, list[_Annotation]],
) -> dict[str, tuple[dict[str, int], Wordings]]:
    """Assign numbers to the targets of each group, and collect their sentences."""
    texts: dict[str, dict[str, list[str]]] = {}
    for one in chain.from_iterable(by_image.values()):
        known = texts.setdefault(one.group, {}).setdefault(one.target, [])
        known += [text for text in one.sentences if text not in known]
    groups = {}
    for group, targets in texts.items():
        numbers = {target: i for i, target in enumerate(sorted(targets), start=1)}
        try:
            wordings = Wordings({i: tuple(targets[t]) for t, i in numbers.items()})
        except PromptError as error:
            raise PromptError(f"A sentence about {group}: {error}") from error
        groups[group] = (numbers, wordings)
    return groups


def _read_image(path: Path) -> npt.NDArray[np.uint8]:
    """Read a picture as a volume of one slice with three channels, [1, Y, X, 3]."""
    pixels = _read_png(path)
    if pixels.dtype != np.uint8:
        raise FormatError(
            f"{path} has values of type {pixels.dtype}; 8-bit is required."
        )
    if pixels.ndim == 2:
        pixels = np.stack([pixels] * 3, axis=-1)
    if pixels.shape[-1] == 2:  # grey and opacity
        pixels = pixels[..., [0, 0, 0]]
    return pixels[None, ..., :3]


def _read_labels(
    masks: Sequence[tuple[int, Path]], shape: tuple[int, ...]
) -> npt.NDArray[np.int64]:
    """Read masks of one picture as labels; where two overlap, the smaller one wins."""
    labels = np.zeros(shape, np.int64)
    found = []
    for label, path in masks:
        mask = np.atleast_3d(_read_png(path) > 0).any(axis=-1)
        if mask.shape != shape[1:]:
            raise VolumeError(
                f"{path} has the shape {mask.shape}, but its image has {shape[1:]}; "
                "they must be equal."
            )
        found.append((mask.sum(), label, mask))
    for _, label, mask in sorted(found, key=lambda one: -one[0]):
        labels[0][mask] = label
    return labels


def _read_png(path: Path) -> npt.NDArray[Any]:
    try:
        pixels: npt.NDArray[Any] = imagecodecs.png_decode(path.read_bytes())
    except (imagecodecs.PngError, ValueError) as error:
        raise FormatError(f"{path} is damaged or not a PNG ({error}).") from error
    return pixels
