"""Why a run found nothing: likely causes, each with what to do about it.

Looks at the volume, the prompts and the existence scores; free of torch.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_biomedparse.data.modalities import MODALITIES
from napari_biomedparse.data.prompts import PromptSet, parse_prompts
from napari_biomedparse.data.vocabulary import suggested_prompts
from napari_biomedparse.data.volume import Volume, as_volume
from napari_biomedparse.networks.blocks.tokenizer import CONTEXT_LENGTH, token_count
from napari_biomedparse.slicing.geometry import SliceGeometry, choose_axis
from napari_biomedparse.slicing.intensity import Intensity, choose_intensity
from napari_biomedparse.slicing.read import read_slices, region_of, slice_geometry
from napari_biomedparse.slicing.seen import PUBLISHED_SIZE

if TYPE_CHECKING:
    from napari_biomedparse.data.options import SegmentOptions

LOOKED_AT = 5
"""Slices that are looked at, evenly spaced."""
WEAK_EXISTENCE = 0.1
"""Best existence below which a target most likely is not there, or not meant so."""
DARK = 16
"""Grey level that an image's brightest half per cent should exceed."""
LEAST_GREY = 0.03
"""Share of voxels that should be neither black nor white."""
THICK = 1.5
"""Ratio of voxel edges from which slices should be cut along the longer one."""
REDUCED = 2.0
"""Voxels a network pixel from which small objects may be lost."""
_KINDS = {
    "ct": r"\bCT\b|(?i:computed tomography)",
    "mr": r"\bMRI?\b|(?i:magnetic resonance)",
    "pet": r"\bPET\b",
    "ultrasound": r"(?i:ultrasound)",
    "em": r"\bEM\b|(?i:electron microscopy)",
    "light-sheet": r"(?i:light[- ]sheet|fluorescence)",
}
"""Modality by how prompts speak of it."""


@dataclass(frozen=True)
class Cause:
    """One likely reason for an empty result.

    Parameters
    ----------
    sentence : str
        What was found.
    fix : str
        What to do.
    options : mapping
        Options that do it, by name; may be empty.
    prompts : mapping of int to str
        Prompts that do it, by label id; may be empty.
    """

    sentence: str
    fix: str
    options: Mapping[str, Any] = field(default_factory=dict)
    prompts: Mapping[int, str] = field(default_factory=dict)


def why_empty(
    volume: Any,
    prompts: Any,
    options: SegmentOptions,
    existence: npt.NDArray[np.float32],
    *,
    intensity: Intensity | None = None,
) -> tuple[Cause, ...]:
    """Say why a run may have found nothing.

    Parameters
    ----------
    volume, prompts, options
        As for `segment`.
    existence : float32 ndarray [P, slices]
        The run's probabilities; NaN where not run.
    intensity : Intensity, optional
        What `choose_intensity` said of the volume; by default it is asked.

    Returns
    -------
    tuple of Cause
        The most likely one first; never empty.

    Raises
    ------
    VolumeError, PromptError, OptionError, FormatError
        As for `segment`.
    """
    volume, prompts = region_of(as_volume(volume), options), parse_prompts(prompts)
    if not np.isfinite(existence).any():
        return (Cause("No slice was finished.", "Let the run go on."),)
    geometry = slice_geometry(volume, options, PUBLISHED_SIZE)
    if intensity is None:
        intensity = choose_intensity(
            volume.data, options.modality, colour=volume.is_colour
        )
    return (
        *_grey_levels(volume, geometry, options, intensity),
        *_threshold(prompts, options, existence),
        *_modality(volume, prompts, options, intensity),
        *_axes(volume, geometry),
        *_cut_prompts(prompts),
        *_size(geometry, options),
        _scores(prompts, options, existence),
    )


def _grey_levels(
    volume: Volume,
    geometry: SliceGeometry,
    options: SegmentOptions,
    intensity: Intensity,
) -> Iterator[Cause]:
    """Look for slices that are nearly black, or black and white only."""
    first, end = options.slices or (0, geometry.depth)
    count = min(LOOKED_AT, end - first)
    places = {first + (2 * i + 1) * (end - first) // (2 * count) for i in range(count)}
    seen = np.concatenate(
        [
            intensity.apply(read_slices(volume, geometry.axis, at, at + 1)).ravel()
            for at in sorted(places)
        ]
    )
    bright = float(np.percentile(seen, 99.5))
    if bright < DARK:
        scale = "from 0 to 1" if 0 < bright <= 1 else f"up to {bright:.3g} only"
        yield Cause(
            f"The values run {scale}, and the network takes 0 for black and 255 for "
            "white: it sees next to nothing.",
            "Choose the modality auto, which spreads the values."
            if volume.dtype.kind == "f"
            else "Multiply the values so that they run from 0 to 255; 8-bit images are "
            "used as they are.",
            {"modality": "auto"} if volume.dtype.kind == "f" else {},
        )
    elif ((seen > 0) & (seen < 255)).mean() < LEAST_GREY:
        other = intensity.method == "window"
        yield Cause(
            f"Nearly all voxels become black or white ({intensity.describe()}).",
            "Choose the modality auto, which spreads the values."
            if other
            else "Choose another modality, or check that this is the grey image and "
            "not a mask.",
            {"modality": "auto"} if other else {},
        )


def _threshold(
    prompts: PromptSet, options: SegmentOptions, existence: npt.NDArray[np.float32]
) -> Iterator[Cause]:
    """Look for scores below the threshold that are no nonsense."""
    best, text, index = _best(prompts, existence)
    if WEAK_EXISTENCE <= best < options.existence_threshold:
        lower = math.floor(100 * best - 1e-3) / 100  # a single prompt has to exceed it
        yield Cause(
            f"The best existence score is {best:.2f} ({text!r}, slice {index}), below "
            f"the threshold of {options.existence_threshold:g}.",
            f"Lower the existence threshold to {lower:g}.",
            {"existence_threshold": lower},
        )


def _modality(
    volume: Volume, prompts: PromptSet, options: SegmentOptions, intensity: Intensity
) -> Iterator[Cause]:
    """Compare what the prompts speak of with how grey levels were chosen."""
    if volume.dtype == np.uint8 or volume.is_colour:
        return  # used as it is, whatever the modality
    said = {
        kind
        for text in prompts.texts
        for kind, pattern in _KINDS.items()
        if re.search(pattern, text)
    }
    chosen = options.modality
    family = "ct" if chosen.startswith("ct") else chosen
    if len(said) != 1 or family in said:
        return
    (kind,) = said
    name = MODALITIES[kind].label
    if chosen not in ("auto", "none"):
        yield Cause(
            f"The prompts speak of {name}, but the grey levels are those of "
            f"{MODALITIES[chosen].label}.",
            f"Choose the modality {kind}.",
            {"modality": kind},
        )
    elif kind == "ct" and intensity.hint:
        yield Cause(
            f"The prompts speak of CT and the values look like Hounsfield units, but "
            f"the grey levels are not those of a CT window ({intensity.label}).",
            "Choose the modality ct, or another CT window.",
            {"modality": kind},
        )


def _axes(volume: Volume, geometry: SliceGeometry) -> Iterator[Cause]:
    """Look for slices that were cut across the planes the image was taken in."""
    spacing, name = volume.spacing[:3], volume.axes[geometry.axis]
    if "pixel" in volume.units[:3]:
        wanted = choose_axis(volume.grid)
        thick = 2 * volume.grid[wanted] <= geometry.depth
        reason = f"it has only {volume.grid[wanted]} positions"
    else:
        wanted = int(np.argmax(spacing))
        thick = spacing[wanted] > THICK * spacing[geometry.axis]
        reason = "its voxels are longest"
    if thick and wanted != geometry.axis and not volume.is_colour:
        better = volume.axes[wanted]
        yield Cause(
            f"Slices are cut along {name}, but along {better} {reason}: they do not "
            "show the planes in which the image was taken.",
            f"Choose the slicing axis {better}.",
            {"axis": better},
        )


def _cut_prompts(prompts: PromptSet) -> Iterator[Cause]:
    for text in prompts.texts:
        if (count := token_count(text)) > CONTEXT_LENGTH:
            yield Cause(
                f"The prompt {text[:40] + '…'!r} has {count} tokens; the network reads "
                f"the first {CONTEXT_LENGTH} and no more.",
                "Shorten it, or put what matters first.",
            )


def _size(geometry: SliceGeometry, options: SegmentOptions) -> Iterator[Cause]:
    """Look for objects that may have been lost on the way."""
    reduced = max(
        voxels / pixels
        for voxels, pixels in zip(
            geometry.padded_shape, geometry.working_shape, strict=True
        )
    )
    if reduced >= REDUCED:
        yield Cause(
            f"Slices are reduced {reduced:.1f} times for the network, which may lose "
            "small objects.",
            f"Cut them into tiles of {PUBLISHED_SIZE} pixels.",
            {"tile": PUBLISHED_SIZE, "pixel_size": None},
        )
    if options.minimum_size > 1:
        yield Cause(
            f"Objects of fewer than {options.minimum_size} voxels are dropped.",
            "Set the minimum size to 0.",
            {"minimum_size": 0},
        )


def _scores(
    prompts: PromptSet, options: SegmentOptions, existence: npt.NDArray[np.float32]
) -> Cause:
    """Say what the scores alone tell."""
    best, text, index = _best(prompts, existence)
    where = f"(best score {best:.2f} for {text!r} in slice {index})"
    if best >= WEAK_EXISTENCE:
        there = best >= options.existence_threshold
        return Cause(
            f"The network says that the target is there {where}, but drew no mask."
            if there
            else f"The network is not sure of any slice {where}.",
            "Describe it more precisely: what, in which kind of image, and where.",
        )
    known = suggested_prompts()
    close = difflib.get_close_matches(text, known, n=1, cutoff=0.5)
    meant = {prompts.ids[prompts.texts.index(text)]: close[0]} if close else {}
    meant = {label: better for label, better in meant.items() if better != text}
    return Cause(
        f"The network is sure that no slice shows it {where}.",
        f"Try a prompt that it was trained with: {close[0]!r}."
        if meant
        else "Name the image and the place too, as in "
        "'mitochondria in electron microscopy'.",
        prompts=meant,
    )


def _best(
    prompts: PromptSet, existence: npt.NDArray[np.float32]
) -> tuple[float, str, int]:
    """Return the highest score, and the prompt and slice it belongs to."""
    prompt, index = np.unravel_index(np.nanargmax(existence), existence.shape)
    score = float(existence[prompt, index])
    return score, prompts.texts[int(prompt)], int(index)
