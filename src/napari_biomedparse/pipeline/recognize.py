"""Recognition: which of all targets of a kind of image are there, and where."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_biomedparse.data.options import SegmentOptions
from napari_biomedparse.errors import OptionError, VolumeError
from napari_biomedparse.labels.likeness import LIKELY, combine_masks, drop_covered

if TYPE_CHECKING:
    from napari_biomedparse.data.volume import Volume, VolumeLike
    from napari_biomedparse.engine.engine import Engine
    from napari_biomedparse.pipeline.plan import RunPlan
    from napari_biomedparse.pipeline.segment import Model

TARGETS: dict[str, tuple[str, ...]] = {
    "CT-Abdomen": (
        "postcava", "aorta", "right kidney", "left kidney", "duodenum", "pancreas",
        "liver", "spleen", "stomach", "gallbladder", "left adrenal gland",
        "right adrenal gland", "esophagus",
    ),
    "CT-Chest": ("nodule", "COVID-19 infection", "tumor"),
    "CT-Liver": ("vessel", "tumor"),
    "MRI-Abdomen": (
        "aorta", "postcava", "right kidney", "duodenum", "left kidney", "liver",
        "pancreas", "gallbladder", "stomach", "spleen", "left adrenal gland",
        "right adrenal gland", "esophagus",
    ),
    "MRI-Cardiac": ("left heart ventricle", "myocardium", "right heart ventricle"),
    "MRI-FLAIR-Brain": ("edema", "tumor core"),
    "MRI-T1-Gd-Brain": ("enhancing tumor", "non-enhancing tumor"),
    "Pathology": (
        "connective tissue cells", "inflammatory cells", "neoplastic cells",
        "epithelial cells",
    ),
    "X-Ray-Chest": ("left lung", "right lung"),
    "Ultrasound-Cardiac": ("left heart atrium", "left heart ventricle"),
    "Endoscopy": ("neoplastic polyp", "non-neoplastic polyp"),
    "Fundus": ("optic cup", "optic disc"),
    "Dermoscopy": ("lesion",),
    "OCT": ("edema",),
}  # fmt: skip
"""Kinds of images and what is looked for in each (ARCHITECTURE of v1, section 9)."""

LOWEST_P = 0.05
"""Lowest p-value of a mask that is kept, as the authors recommend."""
FOUND = "found"
"""What became of a target that is kept."""


@dataclass(frozen=True)
class Recognition:
    """What was recognized in an image.

    Attributes
    ----------
    labels : uint8 ndarray [Y, X]
        In the image's own grid: 0, or one more than the place in `targets`.
    targets : tuple of str
        All that were looked for.
    p_values : tuple of float or None
        How well each mask looks like its target, 0 to 1; None where the table does not
        have the target.
    outcomes : tuple of str
        "found", or why a target was dropped; others may have taken all pixels of one
        that was found.
    volume : Volume
        The image.
    """

    labels: npt.NDArray[np.uint8]
    targets: tuple[str, ...]
    p_values: tuple[float | None, ...]
    outcomes: tuple[str, ...]
    volume: Volume

    @property
    def found(self) -> tuple[bool, ...]:
        """Which of the targets were kept."""
        return tuple(outcome == FOUND for outcome in self.outcomes)


def recognize(
    image: VolumeLike | str | os.PathLike[str],
    kind: str,
    model: Model = "v1",
    *,
    threshold: float | None = LOWEST_P,
    table: str | os.PathLike[str] | None = None,
    device: str = "auto",
    precision: str = "auto",
) -> Recognition:
    """Look for all targets of a kind of image, and keep those that look right.

    Each target is found by itself. Those with a p-value below the threshold are
    dropped, then masks that better ones cover, and the others are made disjoint.

    Parameters
    ----------
    image
        A file, an array [Y, X] or [Y, X, 3], or a `Volume` of one slice.
    kind : str
        A key of `TARGETS`, such as "X-Ray-Chest".
    model
        BiomedParse v1: a network, a name or a weights file.
    threshold : float, optional
        Lowest p-value; None drops no target for its p-value.
    table : path, optional
        A table of targets in place of the authors'.
    device, precision : str
        As in `segment`.

    Raises
    ------
    OptionError
        If the kind of image is unknown, or the model is another than v1; if a table is
        given that does not have the kind.
    VolumeError
        If it is not a single image.
    """
    from napari_biomedparse.pipeline.segment import single_plan

    if kind not in TARGETS:
        raise OptionError(
            f"Kind of image {kind!r} is unknown; choose one of {', '.join(TARGETS)}."
        )
    path = None if table is None else os.fspath(table)
    options = SegmentOptions(
        prompts_apart=True, kind=kind, table=path, precision=precision
    )
    plan, engine = single_plan(image, list(TARGETS[kind]), model, options, device, {})
    if plan.stop - plan.start != 1:
        raise VolumeError(
            f"{plan.volume.name} has {plan.stop - plan.start} slices; recognition "
            "takes a single image. Give one slice."
        )
    return recognize_slice(plan, engine, threshold=threshold)


def recognize_slice(
    plan: RunPlan,
    engine: Engine,
    *,
    threshold: float | None = LOWEST_P,
    on_target: Callable[[int], object] | None = None,
) -> Recognition:
    """Do what `recognize` does in the one slice of a plan whose prompts are targets.

    `on_target` is called with the number of targets that were looked for so far.
    """
    from napari_biomedparse.labels.resolve import probability
    from napari_biomedparse.pipeline.loop import predict_plan, resize_of

    if not plan.geometry.alone:
        raise OptionError(
            "Recognition needs BiomedParse v1, whose masks the table of targets "
            "describes; give 'v1' or its weights file as the model."
        )
    targets, tiles = plan.prompts.texts, Counter[str]()

    def count(slices: int) -> None:
        tiles["seen"] += slices
        if on_target is not None:
            on_target(tiles["seen"] // len(plan.tiles.corners))

    (found,) = predict_plan(plan, engine, on_prompt=count)
    logits = resize_of(plan)(found.whole.mask_logits, plan.geometry.label_shape)
    masks = plan.geometry.restore(logits[0].sigmoid().cpu().numpy())
    scores = probability(found.whole.existence)[0].tolist()
    p_values = [p if p == p else None for p in scores]
    labels, outcomes = label(masks, p_values, threshold)
    return Recognition(labels, targets, tuple(p_values), outcomes, plan.volume)


def label(
    masks: npt.NDArray[np.floating[Any]],
    p_values: list[float | None],
    threshold: float | None,
) -> tuple[npt.NDArray[np.uint8], tuple[str, ...]]:
    """Make disjoint labels [Y, X] of probabilities [n, Y, X]; say what became of each.

    Masks without a p-value are visited last.
    """
    there = [bool((mask > LIKELY).any()) for mask in masks]
    outcomes = [f"p below {threshold}" if here else "nothing there" for here in there]
    lowest = threshold or 0.0
    plausible = [i for i, p in enumerate(p_values) if p is None or p >= lowest]
    for i in plausible:
        outcomes[i] = "covered by a likelier mask" if there[i] else outcomes[i]
    values = [-1.0 if (p := p_values[i]) is None else p for i in plausible]
    ordered = [plausible[i] for i in drop_covered(masks[plausible], values)]
    kept, disjoint = combine_masks(masks[ordered])
    labels = np.zeros(masks.shape[1:], np.uint8)
    for i in ordered:
        outcomes[i] = "outvoted by other masks"
    for index, mask in zip(kept, disjoint, strict=True):
        labels[mask] = ordered[index] + 1
        outcomes[ordered[index]] = FOUND
    return labels, tuple(outcomes)
