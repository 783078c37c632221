"""Add corrected labels to a training set that `finetune` reads."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_biomedparse.data.prompts import INSTANCE_KEY, PromptSet
from napari_biomedparse.errors import PromptError, VolumeError
from napari_biomedparse.io.durable import whole_or_nothing, write_durably, writing
from napari_biomedparse.io.formats.npz import IMAGE_KEY, LABEL_KEYS, add_array, save_npz
from napari_biomedparse.io.lazy import NewLabels, in_order
from napari_biomedparse.training.cases import REVIEWED_AXIS_KEY, REVIEWED_KEY
from napari_biomedparse.training.volumes import check_classes, check_fit
from napari_biomedparse.training.wordings import (
    ANY,
    FILE_NAME,
    Wordings,
    read_wordings,
    wordings_for,
)

if TYPE_CHECKING:
    from napari_biomedparse.data.volume import Volume

_AWKWARD = re.compile(r"[^\w.-]+")
_PER_AXIS = ("axes", "spacing", "units", "origin")


def add_to_training_set(
    folder: Path,
    volume: Volume,
    labels: npt.NDArray[np.integer[Any]],
    prompts: PromptSet,
    *,
    reviewed: Sequence[int] | None = None,
    axis: int = 0,
) -> Path:
    """Write an image with its labels and prompts to a training set; return the file.

    The file has the layout of the challenge (``imgs``, ``gts``, ``spacing``, prompts).
    If only some slices were reviewed, it holds the range of those slices and their
    neighbours, which the network sees next to them; ``reviewed`` lists the slices used
    for training, and the labels of the others are 0.

    Parameters
    ----------
    folder : Path
        A volume of the same name in it is replaced.
    volume : Volume
        Three axes, or four with the colours last.
    labels : integer ndarray [Z, Y, X]
        Prompt ids, or instance numbers if `prompts` has its ``instance`` flag set.
    prompts : PromptSet
        Also written to ``class_prompts.json``, where more wordings may be added.
    reviewed : sequence of int, optional
        Slices whose labels are correct; all by default.
    axis : int
        Axis of the reviewed slices.

    Raises
    ------
    VolumeError, PromptError
        If the labels do not fit the image or the prompts, or nothing was reviewed.
    OutputError
        If the folder cannot be written.
    """
    wordings = Wordings.of(prompts)
    check_fit(volume.name, volume.grid, labels.shape)
    kept, more = slice(None), {}
    if reviewed is not None:
        kept, inside = _part(reviewed, labels.shape[axis])
        more = {REVIEWED_KEY: inside, REVIEWED_AXIS_KEY: np.array(axis)}
    where = tuple(kept if i == axis else slice(None) for i in range(3))
    chosen = np.array(labels[where])
    if reviewed is not None:
        others = np.setdiff1d(np.arange(chosen.shape[axis]), more[REVIEWED_KEY])
        np.moveaxis(chosen, axis, 0)[others] = 0
    try:
        check_classes(np.unique(chosen), wordings)
    except PromptError as error:
        raise PromptError(f"{volume.name} cannot be used: {error}.") from error
    name = _AWKWARD.sub("_", volume.name) or "volume"
    path = folder / f"{name}.npz"
    part = replace(volume, data=volume.data[where], levels=())
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with whole_or_nothing(path, overwrite=True) as temporary:
            _write(temporary, part, chosen, prompts, more)
        _add_wordings(folder / FILE_NAME, name, wordings)
    return path


def _part(reviewed: Sequence[int], depth: int) -> tuple[slice, npt.NDArray[np.int64]]:
    """Return the slices to keep, and the positions of reviewed ones among them."""
    places = np.unique(np.asarray(reviewed, np.int64))
    if not places.size:
        raise VolumeError(
            "No slice was reviewed. Accept the slices whose labels are correct."
        )
    if places[0] < 0 or places[-1] >= depth:
        raise VolumeError(
            f"Slices {places[0]} to {places[-1]} are marked as reviewed, but there are "
            f"{depth}."
        )
    start = max(0, int(places[0]) - 1)
    return slice(start, min(depth, int(places[-1]) + 2)), places - start


def _write(
    path: Path,
    volume: Volume,
    labels: npt.NDArray[np.integer[Any]],
    prompts: PromptSet,
    more: dict[str, npt.NDArray[Any]],
) -> None:
    space = {name: getattr(volume, name)[:3] for name in _PER_AXIS}
    grid = replace(volume, data=labels, channel_names=(), matrix=None, **space)
    save_npz(path, NewLabels(path.name, labels, grid, prompts), key=LABEL_KEYS[0])
    with zipfile.ZipFile(path, "a") as archive:
        dtype = volume.dtype.newbyteorder("=")
        slabs = in_order(volume.data, path.parent)
        add_array(archive, IMAGE_KEY, volume.shape, dtype, slabs)
        for key, values in more.items():
            add_array(archive, key, values.shape, values.dtype, [values])


def _add_wordings(path: Path, name: str, wordings: Wordings) -> None:
    """Add the prompts of a file to the wordings; existing ones are kept."""
    known: dict[str, Any] = {}
    if path.exists():
        parsed = read_wordings(path)
        known = json.loads(path.read_text("utf-8"))
        if not all(isinstance(value, dict) for value in known.values()):
            known = {ANY: known}
        try:
            if _covers(wordings_for(name, parsed)[1], wordings):
                return
        except PromptError:  # no data set matches this file
            pass
    taken = ANY in known or any(name.startswith(dataset) for dataset in known)
    entry: dict[str, Any] = {str(k): list(v) for k, v in wordings.texts.items()}
    known[name if taken else ANY] = {**entry, INSTANCE_KEY: int(wordings.instance)}
    write_durably(path, json.dumps(known, indent=1, ensure_ascii=False))


def _covers(known: Wordings, wordings: Wordings) -> bool:
    return known.instance == wordings.instance and all(
        set(texts) <= set(known.texts.get(label, ()))
        for label, texts in wordings.texts.items()
    )
