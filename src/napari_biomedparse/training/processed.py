"""The published layout of images and masks as training data.

Targets of its group that have no mask in an image are absent from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from napari_biomedparse.errors import PromptError
from napari_biomedparse.io.processed import MaskedImage, MaskFile, read_processed
from napari_biomedparse.training.volumes import OnDemand, TrainingVolume, load_each
from napari_biomedparse.training.wordings import Wordings

MOST_TARGETS = 62
"""Bits of the numbers that say which targets a pixel belongs to."""


def load_processed(
    data: Path, on_case: Callable[[str, int, int], None] | None = None
) -> tuple[TrainingVolume, ...]:
    """Open all images and masks of such a folder, and report all problems at once.

    Returns one volume per image and group of targets; the image's three channels enter
    the network unchanged. `on_case` is called as by `load_cases`, which raises the same
    errors.
    """
    images = read_processed(data)
    groups = _wordings(images)

    def load(one: MaskedImage) -> Iterator[TrainingVolume]:
        numbers, wordings = groups[one.group]
        image = OnDemand(lambda: one.read()[None])
        masks = [(numbers[mask.target], mask) for mask in one.masks]
        labels = OnDemand(partial(_read_labels, masks, image.shape[1:3]))
        yield TrainingVolume(one.path.name, one.group, image, labels, wordings, (0,))

    cases = [(one.path.name, one.path, partial(load, one)) for one in images]
    return load_each(cases, on_case)


def _wordings(
    images: Iterable[MaskedImage],
) -> Mapping[str, tuple[dict[str, int], Wordings]]:
    """Assign a bit to each target of a group, and collect their sentences."""
    texts: dict[str, dict[str, list[str]]] = {}
    for group, mask in ((one.group, mask) for one in images for mask in one.masks):
        known = texts.setdefault(group, {}).setdefault(mask.target, [])
        known += [text for text in mask.sentences if text not in known]
    groups = {}
    for group, targets in texts.items():
        numbers = {target: 2**i for i, target in enumerate(sorted(targets))}
        if len(numbers) > MOST_TARGETS:
            raise PromptError(
                f"{group} has {len(numbers)} targets, and at most {MOST_TARGETS} can "
                "be trained at once. Divide the folder."
            )
        try:
            texts_of = {i: tuple(targets[t]) for t, i in numbers.items()}
            wordings = Wordings(texts_of, overlapping=True)
        except PromptError as error:
            raise PromptError(f"A sentence about {group}: {error}") from error
        groups[group] = (numbers, wordings)
    return groups


def _read_labels(
    masks: list[tuple[int, MaskFile]], shape: tuple[int, int]
) -> npt.NDArray[np.int64]:
    """Read masks of one picture as labels, sums where masks overlap."""
    labels = np.zeros((1, *shape), np.int64)
    for label, mask in masks:
        labels[0] |= label * mask.read(shape)
    return labels
