"""Why a run found nothing: likely causes, each with a remedy.

Reads the volume, the prompts and the existence scores; free of torch.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_biomedparse.data.options import MODALITIES, SegmentOptions
from napari_biomedparse.data.prompts import PromptSet, PromptsLike, parse_prompts
from napari_biomedparse.data.results import score_of, score_text
from napari_biomedparse.data.vocabulary import suggested_prompts
from napari_biomedparse.data.volume import Volume, VolumeLike, as_volume
from napari_biomedparse.networks.blocks.tokenizer import CONTEXT_LENGTH, token_count
from napari_biomedparse.networks.catalogue import targets_of
from napari_biomedparse.slicing.geometry import SliceGeometry, choose_axis
from napari_biomedparse.slicing.intensity import Intensity, choose_intensity
from napari_biomedparse.slicing.read import (
    PUBLISHED_SIZE,
    read_slices,
    region_of,
    slice_geometry,
)

LOOKED_AT = 5  # number of slices to examine, evenly spaced
WEAK_EXISTENCE = 0.1
"""Best existence below which a target is most likely absent, or described badly."""
DARK = 16  # grey level that the brightest half percent of an image should exceed
LEAST_GREY = 0.03  # share of voxels that should be neither black nor white
THICK = 1.5
"""Ratio of voxel edges above which slices should be cut along the longer one."""
REDUCED = 2.0  # voxels per network pixel above which small objects may be lost
_IN_FULL = (
    "Name the kind of image and the place too, as in 'mitochondria in electron "
    "microscopy'."
)
_KINDS = {
    "ct": r"\bCT\b|(?i:computed tomography)",
    "mr": r"\bMRI?\b|(?i:magnetic resonance)",
    "pet": r"\bPET\b",
    "ultrasound": r"(?i:ultrasound)",
    "em": r"\bEM\b|(?i:electron microscopy)",
    "light-sheet": r"(?i:light[- ]sheet|fluorescence)",
}
"""How prompts mention each modality."""


_Best = tuple[float, str, int]
"""The highest score, and the prompt and slice it belongs to."""


@dataclass(frozen=True)
class Cause:
    """One likely reason for an empty result.

    `sentence` is the reason, `fix` what to do; `options`, by name, and `prompts`, by
    label id, do so.
    """

    sentence: str
    fix: str
    options: Mapping[str, Any] = field(default_factory=dict)
    prompts: Mapping[int, str] = field(default_factory=dict)


def why_empty(
    volume: VolumeLike,
    prompts: PromptsLike,
    options: SegmentOptions,
    existence: npt.NDArray[np.float32],
    model: str = "",
    parameters: Mapping[str, Any] | None = None,
) -> tuple[Cause, ...]:
    """Return likely reasons why a run found nothing.

    The most likely one comes first, and there is at least one. Volume, prompts and
    options are as for `segment`, and so are errors; `existence` [P, slices] are the
    run's scores, NaN where not run; `model` is the name or identity of the model, if
    known, and so are the run's `parameters`, which say what its network sees.
    """
    used = parameters or {}
    size, (score, _) = used.get("image_size", PUBLISHED_SIZE), score_of(used)
    volume = region_of(as_volume(volume, axes=options.axes), options)
    prompts = parse_prompts(prompts)
    if score == "existence" and not np.isfinite(existence).any():
        return (Cause("No slice was finished.", "Resume the run."),)
    geometry = slice_geometry(volume, options, size, alone=score == "p")
    intensity = choose_intensity(volume.data, options.modality)
    scores = np.nan_to_num(existence, nan=-1.0)  # without any, -1 is the best
    row, index = (int(at) for at in np.unravel_index(scores.argmax(), scores.shape))
    best = float(scores[row, index]), prompts.texts[row], index
    return (
        *_targets(model),
        *_grey_levels(volume, geometry, options, intensity),
        *_threshold(options, best, score),
        *_modality(volume, prompts, options, intensity),
        *_axes(volume, geometry),
        *_cut_prompts(prompts),
        *_size(geometry, options, size),
        _scores(prompts, options, best, score),
    )


def why_series_empty(
    volumes: Sequence[Volume],
    prompts: PromptSet,
    options: SegmentOptions,
    existence: npt.NDArray[np.float32],
    model: str = "",
    parameters: Mapping[str, Any] | None = None,
) -> tuple[Cause, ...]:
    """Explain the time point of a series with the highest score, as `why_empty` does.

    There is one volume per time point, and `existence` is [P, T, slices]; or a single
    volume, and [P, slices].
    """
    time = 0
    if existence.ndim == 3:
        time = int(np.nan_to_num(existence, nan=-1.0).max(axis=(0, 2)).argmax())
        existence = existence[:, time]
    return why_empty(volumes[time], prompts, options, existence, model, parameters)


def _targets(model: str) -> Iterator[Cause]:
    """Name the targets of a model that knows only a few."""
    if known := targets_of(model):
        yield Cause(
            f"The {model.split()[0]} model is for trying out and knows only "
            f"{len(known)} targets: {', '.join(known)}.",
            "Choose one of these, or another model.",
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
        scale = "from 0 to 1" if 0 < bright <= 1 else f"only up to {bright:.3g}"
        sentence = (
            f"The values range {scale}, but for the network 0 is black and 255 is "
            "white: it sees next to nothing."
        )
        remedy = (
            "Multiply the values so that they range from 0 to 255; 8-bit images are "
            "used as they are."
        )
        yield (
            _rescale(sentence) if volume.dtype.kind == "f" else Cause(sentence, remedy)
        )
    elif ((seen > 0) & (seen < 255)).mean() < LEAST_GREY:
        sentence = f"Nearly all voxels become black or white ({intensity.describe()})."
        remedy = (
            "Choose another modality, or check that this is the grey image and not a "
            "mask."
        )
        windowed = intensity.method == "window"
        yield _rescale(sentence) if windowed else Cause(sentence, remedy)


def _rescale(sentence: str) -> Cause:
    fix = "Choose the modality auto, which rescales the values."
    return Cause(sentence, fix, {"modality": "auto"})


def _threshold(options: SegmentOptions, found: _Best, score: str) -> Iterator[Cause]:
    """Look for plausible scores below the threshold."""
    best, text, index = found
    threshold = getattr(options, f"{score}_threshold")
    if (0 if score == "p" else WEAK_EXISTENCE) <= best < threshold:
        # A single prompt has to exceed it.
        lower = max(0.0, math.floor(100 * best - 1e-3) / 100)
        yield Cause(
            f"The best {score} score is {score_text(best, score)} ({text!r}, slice "
            f"{index}), below the threshold of {threshold:g}.",
            f"Lower the {score} threshold to {lower:g}.",
            {f"{score}_threshold": lower},
        )


def _modality(
    volume: Volume, prompts: PromptSet, options: SegmentOptions, intensity: Intensity
) -> Iterator[Cause]:
    """Compare the modality that prompts mention with that of the grey levels."""
    if volume.dtype == np.uint8 or volume.is_colour:
        return  # used as it is, whatever the modality
    mentioned = {
        kind
        for text in prompts.texts
        for kind, pattern in _KINDS.items()
        if re.search(pattern, text)
    }
    chosen = options.modality
    family = "ct" if chosen.startswith("ct") else chosen
    if len(mentioned) != 1 or family in mentioned:
        return
    (kind,) = mentioned
    name = MODALITIES[kind].label
    if chosen not in ("auto", "none"):
        yield Cause(
            f"The prompts mention {name}, but the grey levels are those of "
            f"{MODALITIES[chosen].label}.",
            f"Choose the modality {kind}.",
            {"modality": kind},
        )
    elif kind == "ct" and intensity.hint:
        yield Cause(
            f"The prompts mention CT and the values look like Hounsfield units, but "
            f"the grey levels are not those of a CT window ({intensity.label}).",
            "Choose the modality ct, or another CT window.",
            {"modality": kind},
        )


def _axes(volume: Volume, geometry: SliceGeometry) -> Iterator[Cause]:
    """Look for slices across the planes in which the image was taken."""
    spacing, name = volume.spacing[:3], volume.axes[geometry.axis]
    if "pixel" in volume.units[:3]:
        wanted = choose_axis(volume.grid)
        thick = 2 * volume.grid[wanted] <= geometry.depth
        reason = f"it has only {volume.grid[wanted]} positions"
    else:
        wanted = int(np.argmax(spacing))
        thick = spacing[wanted] > THICK * spacing[geometry.axis]
        reason = "voxels are longest"
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
                f"The prompt {text[:40] + '…'!r} has {count} tokens; only the first "
                f"{CONTEXT_LENGTH} are used.",
                "Shorten it, or put the most important words first.",
            )


def _size(
    geometry: SliceGeometry, options: SegmentOptions, size: int
) -> Iterator[Cause]:
    """Look for small objects that may have been lost."""
    reduced = max(
        voxels / pixels
        for voxels, pixels in zip(
            geometry.padded_shape, geometry.working_shape, strict=True
        )
    )
    if reduced >= REDUCED:
        yield Cause(
            f"Slices are downscaled {reduced:.1f} times for the network, which may "
            "lose small objects.",
            f"Cut them into tiles of {size} pixels.",
            {"tile": size, "pixel_size": None},
        )
    if options.minimum_size > 1:
        yield Cause(
            f"Objects with fewer than {options.minimum_size} voxels are removed.",
            "Set the minimum size to 0.",
            {"minimum_size": 0},
        )


def _scores(
    prompts: PromptSet, options: SegmentOptions, found: _Best, score: str
) -> Cause:
    """Return what the scores alone suggest."""
    if score == "p":
        return Cause("The network draws no mask.", _IN_FULL)
    best, text, index = found
    where = f"(best score {best:.2f} for {text!r} in slice {index})"
    if best >= WEAK_EXISTENCE:
        there = best >= options.existence_threshold
        return Cause(
            f"The network finds the target {where}, but draws no mask."
            if there
            else f"The network is unsure about every slice {where}.",
            "Describe it more precisely: what, in which kind of image, and where.",
        )
    known = suggested_prompts()
    close = difflib.get_close_matches(text, known, n=1, cutoff=0.5)
    meant = {prompts.ids[prompts.texts.index(text)]: close[0]} if close else {}
    meant = {label: better for label, better in meant.items() if better != text}
    return Cause(
        f"The network is sure that no slice shows the target {where}.",
        f"Try a prompt that it was trained on: {close[0]!r}." if meant else _IN_FULL,
        prompts=meant,
    )
