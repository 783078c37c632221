"""Read images, labels and prompts from challenge ``.npz`` files, and write labels."""

from __future__ import annotations

import json
import logging
import math
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_biomedparse.data.prompts import INSTANCE_KEY, PromptSet, parse_prompts
from napari_biomedparse.data.results import Owners
from napari_biomedparse.data.volume import SPATIAL_AXES, Volume
from napari_biomedparse.errors import FormatError, PromptError
from napari_biomedparse.io.contents import Contents, LabelVolume
from napari_biomedparse.io.formats.npy import NpyMember
from napari_biomedparse.io.formats.units import PIXEL, to_millimeters, unit_name
from napari_biomedparse.io.guards.pickles import MAX_BYTES, read_pickle

if TYPE_CHECKING:
    from napari_biomedparse.io.lazy import NewLabels

logger = logging.getLogger(__name__)

IMAGE_KEY = "imgs"
LABEL_KEYS = ("gts", "segs")
OWNER_KEYS = ("object_labels", "object_scores")
"""The prompt of each object, by its number, and its score."""
_SMALL, _MANY = 2**20, 2**26
_AXES = {2: ("y", "x"), 3: ("z", "y", "x"), 4: ("z", "y", "x", "c")}


def open_npz(path: Path) -> Contents:
    """Open a file with at least one of the keys ``imgs``, ``gts`` and ``segs``.

    Optional keys are ``spacing`` (x, y, z; in millimetres unless ``spacing_unit`` is
    given), ``text_prompts``, or ``prompt_ids`` and ``prompt_texts``.
    """
    members, names = _list_members(path)
    keys = [key for key in (IMAGE_KEY, *LABEL_KEYS) if key in members]
    arrays = sorted(name[:-4] for name in names if name.endswith(".npy"))
    if names and not arrays:
        raise FormatError(
            f"{path} is a zip archive of other files ({', '.join(names[:3])}); unpack "
            "it, and open what is inside."
        )
    if not keys:
        raise FormatError(
            f"{path} has no array named {IMAGE_KEY!r} (found: "
            f"{', '.join(arrays[:9]) or 'nothing'}); store the image as {IMAGE_KEY!r} "
            f"or labels as {LABEL_KEYS[0]!r}."
        )
    prompts = _read_prompts(members)
    texts = dict(zip(prompts.ids, prompts.texts, strict=True)) if prompts else {}
    instance, owners = prompts is not None and prompts.instance, _read_owners(members)
    images, labels, unread = [], [], ""
    for key in keys:
        try:
            volume = _make_volume(members[key], members, path)
            if key == IMAGE_KEY:
                images.append(volume)
            else:
                labels.append(LabelVolume(volume, texts, {}, instance, owners))
        except FormatError as error:
            if not images:
                raise
            unread = str(error)
            logger.warning("%s", unread)
    return Contents(tuple(images), tuple(labels), prompts, unread)


def save_npz(path: Path, labels: NewLabels, *, key: str = LABEL_KEYS[1]) -> None:
    """Write labels under `key`, with spacing and prompts, but without the origin.

    Nothing is pickled.
    """
    shape = tuple(labels.data.shape)
    with zipfile.ZipFile(path, "w") as archive:
        add_array(archive, key, shape, labels.dtype, labels.slabs(path.parent))
        for name, value in _describe(labels).items():
            add_array(archive, name, value.shape, value.dtype, [value])


def add_array(
    archive: zipfile.ZipFile,
    key: str,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    slabs: Iterable[npt.NDArray[Any]],
) -> None:
    """Add an array to an archive, without the time: equal labels are equal files."""
    member = zipfile.ZipInfo(f"{key}.npy")
    member.compress_type = zipfile.ZIP_DEFLATED
    with archive.open(member, "w", force_zip64=True) as file:
        header = {"descr": dtype.str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for slab in slabs:
            file.write(np.ascontiguousarray(slab, dtype).data)


def _describe(labels: NewLabels) -> dict[str, npt.NDArray[Any]]:
    volume, prompts, owners = labels.volume, labels.prompts, labels.owners
    pairs = list(zip(volume.spacing, volume.units, strict=True))[-3:]
    pairs = [pairs[0]] * (3 - len(pairs)) + pairs  # three, also for a single image
    lengths = [to_millimeters(size, unit) for size, unit in pairs]
    known = all(length is not None for length in lengths)
    described = {
        "spacing": np.array(
            lengths if known else [size for size, _ in pairs], np.float64
        )[::-1],
        "spacing_unit": np.array("millimeter" if known else PIXEL),
    }
    if prompts is not None:
        described["prompt_ids"] = np.array(prompts.ids, np.int64)
        described["prompt_texts"] = np.array(prompts.texts, np.str_)
        described[INSTANCE_KEY] = np.array(int(prompts.instance), np.int64)
    if owners is not None:
        described |= zip(OWNER_KEYS, (owners.labels, owners.scores), strict=True)
    return described


def _list_members(path: Path) -> tuple[dict[str, NpyMember], list[str]]:
    """Return the arrays that are used, and the names of all files of the archive."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    wanted = (
        IMAGE_KEY, *LABEL_KEYS, "spacing", "spacing_unit", "text_prompts",
        "prompt_ids", "prompt_texts", INSTANCE_KEY, *OWNER_KEYS,
    )  # fmt: skip
    members: dict[str, NpyMember] = {}
    for entry in entries:
        key = entry.filename.removesuffix(".npy")
        if entry.filename.endswith(".npy") and key in wanted:
            members[key] = NpyMember(path, entry)
    return members, [entry.filename for entry in entries]


def _make_volume(
    member: NpyMember, members: dict[str, NpyMember], path: Path
) -> Volume:
    if member.dtype.kind not in "buif":
        raise member.fault(f"holds values of type {member.dtype}, not numbers")
    rank = len(member.shape)
    if rank not in _AXES:
        raise member.fault(f"has {rank} axes, and three (z, y, x) are expected")
    axes = _AXES[rank]
    if rank == 4 and member.key in LABEL_KEYS:
        axes = ("t", *SPATIAL_AXES)
    if rank == 3 and member.shape[-1] in (3, 4) and min(member.shape[:2]) > 4:
        axes = ("y", "x", "c")
    spatial, unit = _read_spacing(members)
    known = dict(zip("xyz", spatial, strict=True))
    return Volume(
        member.lazy(),
        axes,
        tuple(known.get(axis, 1.0) for axis in axes),
        tuple(unit if axis in known else PIXEL for axis in axes),
        (0.0,) * rank,
        path.stem if member.key == IMAGE_KEY else f"{path.stem} {member.key}",
        path,
    )


def _read_spacing(members: dict[str, NpyMember]) -> tuple[tuple[float, ...], str]:
    """Return spacing along x, y and z, and its unit."""
    if "spacing" not in members:
        return (1.0, 1.0, 1.0), PIXEL
    spacing = _read_small(members["spacing"], "uif").ravel()
    if spacing.size != 3 or not all(0 < size < np.inf for size in spacing):
        raise members["spacing"].fault(
            f"holds {spacing.tolist()}, and three positive numbers (x, y, z) are "
            "expected"
        )
    unit = "millimeter"
    if "spacing_unit" in members:
        unit = unit_name(_read_small(members["spacing_unit"], "U").item())
    return tuple(float(size) for size in spacing), unit


def _read_prompts(members: dict[str, NpyMember]) -> PromptSet | None:
    """Read the prompts; unusable ones are told, and the file has none."""
    try:
        if "text_prompts" in members:
            given = _read_text_prompts(members["text_prompts"])
            only = isinstance(given, dict) and not set(given) - {INSTANCE_KEY}
            return None if only else parse_prompts(given)
        if {"prompt_ids", "prompt_texts"} <= set(members):
            ids = _read_small(members["prompt_ids"], "ui").ravel().tolist()
            texts = _read_small(members["prompt_texts"], "U").ravel().tolist()
            if len(set(ids)) != len(texts):
                raise PromptError(f"{len(ids)} ids are given for {len(texts)} texts.")
            mapping = dict(zip(ids, texts, strict=True))
            if INSTANCE_KEY in members:
                flag = _read_small(members[INSTANCE_KEY], "ui").ravel()
                mapping[INSTANCE_KEY] = int(flag[0]) if flag.size else 0
            return parse_prompts(mapping)
    except (TypeError, ValueError) as error:
        source = members.get("text_prompts") or members["prompt_texts"]
        if isinstance(error, FormatError) and source.dtype.hasobject:
            raise  # a pickle that could do harm
        logger.warning(
            "%s: the array %r holds no usable prompts (%s), so it is ignored.",
            source.path,
            source.key,
            error,
        )
    return None


def _read_owners(members: dict[str, NpyMember]) -> Owners | None:
    if not set(OWNER_KEYS) <= set(members):
        return None
    labels, scores = (
        _read_small(members[key], "uf", _MANY).ravel() for key in OWNER_KEYS
    )
    known = {"labels": labels[1:].tolist(), "scores": scores[1:].tolist()}
    return Owners.parse(known)


def _read_text_prompts(member: NpyMember) -> Any:
    """Read a dictionary, a list of texts, or one text, which may be JSON of these."""
    if member.dtype.hasobject:
        return read_pickle(
            member.read_bytes(MAX_BYTES), f"{member.path}: the array {member.key!r}"
        )
    if member.dtype.kind != "U":
        raise PromptError(f"its values are of type {member.dtype}")
    given = _read_small(member, "U").tolist()
    if isinstance(given, str) and given.lstrip()[:1] in ("{", "["):
        return json.loads(given)
    return given


def _read_small(member: NpyMember, kinds: str, most: int = _SMALL) -> npt.NDArray[Any]:
    size = math.prod(member.shape) * member.dtype.itemsize
    if member.dtype.kind not in kinds or size > most:
        raise member.fault(
            f"has the unexpected type {member.dtype} and shape {member.shape}"
        )
    values = member.read()
    if member.dtype.kind == "U" and size:
        letter = np.dtype(np.uint32).newbyteorder(member.dtype.byteorder)
        if values.ravel().view(letter).max() > sys.maxunicode:
            raise member.fault("holds invalid characters")
    return values
