"""Find, check and cache training data from files.

All problems are reported before training starts. Data are cached as ``.npy`` files that
are mapped into memory, so that slices along any axis are read quickly and memory does
not grow with the data.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_biomedparse.data.prompts import parse_prompts
from napari_biomedparse.errors import FormatError, PromptError
from napari_biomedparse.io import open_file, open_labels, open_volume
from napari_biomedparse.io.durable import write_durably
from napari_biomedparse.io.inputs import Pair, find_pairs, identify
from napari_biomedparse.io.lazy import in_order
from napari_biomedparse.io.processed import is_processed
from napari_biomedparse.slicing.geometry import choose_axis
from napari_biomedparse.slicing.intensity import choose_intensity
from napari_biomedparse.training.processed import load_processed
from napari_biomedparse.training.volumes import (
    OnDemand,
    TrainingVolume,
    check_classes,
    check_fit,
    load_each,
)
from napari_biomedparse.training.wordings import (
    FILE_NAME,
    Wordings,
    read_wordings,
    wordings_for,
)

if TYPE_CHECKING:
    from napari_biomedparse.data.volume import Volume
    from napari_biomedparse.io import LabelVolume

LAYOUTS = (("imgs", "gts"), ("images", "labels"))
"""Names of the folders of images and of labels."""
SIMILAR_SIZES, SIMILAR_SPACING = 0.5, 1.1
"""A volume is sliced along all axes if its sizes differ relatively by less, and its
spacings by no larger a ratio."""
REVIEWED_KEY, REVIEWED_AXIS_KEY = "reviewed", "reviewed_axis"
"""In an ``.npz``: the slices with reviewed labels, and the axis they are along."""


def slicing_axes(
    shape: tuple[int, ...], spacing: tuple[float, ...] | None
) -> tuple[int, ...]:
    """Return all axes if a volume is nearly isotropic, else that of inference.

    `spacing` is None if it is unknown.
    """
    differences = [2 * abs(a - b) / (a + b) for a in shape for b in shape]
    alike = spacing is not None and max(spacing) <= SIMILAR_SPACING * min(spacing)
    if alike and max(differences) < SIMILAR_SIZES:
        return 0, 1, 2
    return (choose_axis(shape),)


def load_cases(
    data: Path,
    cache: Path,
    *,
    prompts: Path | None = None,
    modality: str = "auto",
    on_case: Callable[[str, int, int], None] | None = None,
) -> tuple[TrainingVolume, ...]:
    """Read all training data of a folder, and report all problems at once.

    `data` holds the folders ``imgs`` and ``gts`` or ``images`` and ``labels``, whose
    files have the same names except for the extension; or files that hold both, such as
    OME-Zarr images with labels; or PNGs, see `load_processed`. `prompts` is a file for
    `read_wordings`, by default ``class_prompts.json`` in `data`; without it the prompts
    in each file are used. For `modality` see `choose_intensity`, for `on_case` and
    errors `finetune`.
    """
    if is_processed(data):
        return load_processed(data, on_case)
    pairs = _find(data)
    path = data / FILE_NAME if prompts is None else prompts
    known = read_wordings(path) if prompts or path.exists() else {}
    cache.mkdir(parents=True, exist_ok=True)
    cases = [
        (pair.name, pair.image, partial(_load, pair, known, cache, modality))
        for pair in pairs
    ]
    return load_each(cases, on_case)


def _find(data: Path) -> tuple[Pair, ...]:
    for images, labels in LAYOUTS:
        if (data / images).is_dir() and (data / labels).is_dir():
            return find_pairs(data / images, data / labels)
    if not data.exists():
        raise FormatError(f"{data} does not exist. Check the path.")
    return find_pairs(data, data)


def _load(
    pair: Pair, known: Mapping[str, Wordings], cache: Path, modality: str
) -> list[TrainingVolume]:
    if pair.missing:
        raise FormatError(f"{pair.image} has no file with labels")
    image, truth = open_volume(pair.image), open_labels(pair.truth)
    check_fit(pair.name, image.grid, truth.volume.shape)
    if known:
        dataset, wordings = wordings_for(pair.name, known)
    else:
        dataset, wordings = pair.name, _stored_wordings(pair, truth)
    grey, labels, values = _cached(pair, image, truth, cache, modality)
    check_classes(values, wordings)
    axes, reviewed = _read_reviewed(pair.image)
    if axes is None:
        spacing = None if "pixel" in image.units else image.spacing
        axes = (0,) if image.is_colour else slicing_axes(image.shape, spacing)
    nifti = image.header is not None
    kind = (pair.name, dataset, grey, labels, wordings, axes, reviewed)
    return [TrainingVolume(*kind, nifti=nifti)]


def _read_reviewed(
    path: Path,
) -> tuple[tuple[int, ...], tuple[int, ...]] | tuple[None, None]:
    """Return the axis and the reviewed slices, if a file lists them."""
    if path.suffix.lower() != ".npz":
        return None, None
    with np.load(path, allow_pickle=False) as kept:
        if REVIEWED_KEY not in kept.files:
            return None, None
        places, axis = kept[REVIEWED_KEY], int(kept[REVIEWED_AXIS_KEY])
    if places.dtype.kind not in "ui" or axis not in (0, 1, 2):
        raise FormatError(
            f"{path} has no valid list of reviewed slices ({REVIEWED_KEY}, "
            f"{REVIEWED_AXIS_KEY})."
        )
    return (axis,), tuple(places.ravel().tolist())


def _stored_wordings(pair: Pair, truth: LabelVolume) -> Wordings:
    prompts = open_file(pair.image).prompts
    if prompts is None and truth.texts:
        prompts = parse_prompts({str(k): v for k, v in truth.texts.items()})
    if prompts is None:
        raise PromptError(
            f"its classes have no prompts; add a {FILE_NAME} next to the data, for "
            'example {"1": ["mitochondria in electron microscopy"]}'
        )
    return Wordings.of(prompts)


def _cached(
    pair: Pair, image: Volume, truth: LabelVolume, cache: Path, modality: str
) -> tuple[OnDemand, OnDemand, list[int]]:
    """Return image, labels and their values, cached; the values are written last."""
    key = [identify(image), identify(truth.volume), modality]
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12]
    grey, labels, facts = (
        cache / f"{pair.name}-{digest}.{ending}"
        for ending in ("image.npy", "labels.npy", "json")
    )
    if not facts.exists():
        intensity = choose_intensity(image.data, modality)
        slabs = map(intensity.apply, in_order(image.data, cache))
        _write(grey, slabs, image.shape, np.dtype(np.uint8))
        found = truth.volume
        _write(labels, in_order(found.data, cache), found.shape, found.dtype)
        written = in_order(np.load(labels, mmap_mode="r"), cache)
        values = set[int]().union(*(np.unique(slab).tolist() for slab in written))
        write_durably(facts, json.dumps({"values": sorted(values)}))
    kept = (
        OnDemand(partial(np.load, p, mmap_mode="r"), p.name) for p in (grey, labels)
    )
    return *kept, json.loads(facts.read_text("utf-8"))["values"]


def _write(
    path: Path,
    slabs: Iterable[npt.NDArray[Any]],
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
) -> None:
    """Write an array slab by slab."""
    dtype = np.dtype(np.uint8) if dtype.kind == "b" else dtype.newbyteorder("=")
    target = np.lib.format.open_memmap(path, "w+", dtype, shape)
    start = 0
    for slab in slabs:
        target[start : start + len(slab)] = slab
        start += len(slab)
    target.flush()
