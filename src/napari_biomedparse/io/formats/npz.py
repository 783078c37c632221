"""Read images, labels and prompts from challenge ``.npz`` files, and write labels.

An ``.npz`` is a zip of ``.npy`` files. `np.load` reads a member as a whole, even when
it is to be mapped. Here a stored member is read where it lies; a deflated one is
unpacked once, when a part of it is first needed, into a temporary file that is mapped.
"""

from __future__ import annotations

import io
import json
import logging
import math
import shutil
import sys
import tempfile
import threading
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_biomedparse.data.prompts import INSTANCE_KEY, PromptSet, parse_prompts
from napari_biomedparse.data.results import Owners
from napari_biomedparse.data.volume import SPATIAL_AXES, Volume
from napari_biomedparse.errors import FormatError, PromptError, VolumeError
from napari_biomedparse.io.contents import Contents, LabelVolume
from napari_biomedparse.io.durable import scratch_file, scratching
from napari_biomedparse.io.formats.units import PIXEL, to_millimeters, unit_name
from napari_biomedparse.io.guards.bounds import most_bytes, reading
from napari_biomedparse.io.guards.pickles import MAX_BYTES, read_pickle
from napari_biomedparse.io.lazy import BLOCK_BYTES, Index, lazy_array

if TYPE_CHECKING:
    from napari_biomedparse.data.volume import ArrayLike
    from napari_biomedparse.io.lazy import NewLabels

logger = logging.getLogger(__name__)

IMAGE_KEY = "imgs"
LABEL_KEYS = ("gts", "segs")
OWNER_KEYS = ("object_labels", "object_scores")
"""The prompt of each object, by its number, and its score."""
_SMALL, _MANY = 2**20, 2**26
_AXES = {2: ("y", "x"), 3: ("z", "y", "x"), 4: ("z", "y", "x", "c")}
_HEADER_BYTES = 2**16
_METHODS = {zipfile.ZIP_STORED: "none", zipfile.ZIP_DEFLATED: "deflate"}


class NpyMember:
    """One array of an ``.npz`` file, of which only the header is read at once.

    The file is opened for each read and closed again. The temporary file with unpacked
    data has no name, and disappears with the last array that was read from it.
    """

    def __init__(self, path: Path, info: zipfile.ZipInfo) -> None:
        self.path = path
        self.key = info.filename.removesuffix(".npy")
        self.what = f"{path}: the array {self.key!r}"
        self._info = info
        self._lock = threading.Lock()
        self._unpacked: npt.NDArray[np.uint8] | None = None
        if info.flag_bits & 1:
            raise self.fault("is encrypted")
        method = _METHODS.get(info.compress_type)
        if method is None:
            raise self.fault("is packed with a method that numpy does not use")
        if info.file_size > most_bytes(info.compress_size, method):
            raise self.fault(
                f"claims {info.file_size} bytes, more than its {info.compress_size} "
                "packed ones can hold"
            )
        self._data = 0
        self.shape, self.dtype, self._fortran = self._read_header()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the path and the entry, not the unpacked data."""
        return NpyMember, (self.path, self._info)

    def fault(self, found: str) -> FormatError:
        """Return an error about this array; `found` completes its sentence."""
        return FormatError(
            f"{self.what} {found}. Write the file again with numpy.savez_compressed, "
            "or copy it again from its source."
        )

    def lazy(self) -> ArrayLike:
        """Return the array as dask blocks along the axis that is stored outermost."""
        shape = self._stored_shape
        row = math.prod(shape[1:]) * self.dtype.itemsize
        rows = max(1, min(shape[0], BLOCK_BYTES // max(1, row)))

        def read(index: Index) -> npt.NDArray[Any]:
            return self.read_rows(index[0].start, index[0].stop)

        chunks = (rows, *shape[1:])
        array: Any = lazy_array(read, shape, self.dtype, chunks, self.what)
        return array.T if self._fortran else array  # type: ignore[no-any-return]

    def read(self) -> npt.NDArray[Any]:
        """Return the whole array."""
        flat = np.frombuffer(self.read_bytes(), self.dtype)
        return flat.reshape(self.shape, order="F" if self._fortran else "C")

    def read_rows(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Return rows `start` to `stop` along the axis that is stored outermost."""
        shape = self._stored_shape
        row = math.prod(shape[1:]) * self.dtype.itemsize
        begin, end = self._data + start * row, self._data + stop * row
        if self._info.compress_type == zipfile.ZIP_STORED:
            raw: Any = self._read_stored(begin, end)
        else:
            raw = self._unpack()[begin:end]
        return np.frombuffer(raw, self.dtype).reshape(stop - start, *shape[1:])

    def read_bytes(self, limit: int | None = None) -> bytes:
        """Return what follows the header, if it is not longer than `limit`."""
        size = self._info.file_size - self._data
        if limit is not None and size > limit:
            raise self.fault(f"takes {size} bytes, where at most {limit} are expected")
        with self._opened() as file:
            data = file.read()[self._data :]
        if len(data) != size:
            raise self.fault("is cut short")
        return data

    @property
    def _stored_shape(self) -> tuple[int, ...]:
        return self.shape[::-1] if self._fortran else self.shape

    @contextmanager
    def _opened(self) -> Iterator[IO[bytes]]:
        """Open the unpacked member as a stream; the checksum is tested at its end."""
        with (
            reading(self.what, "is cut short, or its checksum is wrong", memory=True),
            zipfile.ZipFile(self.path) as archive,
            archive.open(self._info) as file,
        ):
            yield file

    def _read_stored(self, begin: int, end: int) -> bytes:
        with self.path.open("rb") as file:
            file.seek(self._info.header_offset)
            head = file.read(30)  # fixed size; holds the lengths of name and extra
            name, extra = (int.from_bytes(head[i : i + 2], "little") for i in (26, 28))
            file.seek(name + extra + begin, io.SEEK_CUR)
            data = file.read(end - begin)
        if len(data) != end - begin:
            raise self.fault("is cut short")
        return data

    def _unpack(self) -> npt.NDArray[np.uint8]:
        """Return the unpacked member, mapped from a temporary file."""
        with self._lock:
            if self._unpacked is None:
                size = self._info.file_size
                with scratching():
                    place = tempfile.gettempdir()
                    free = shutil.disk_usage(place).free
                if size > free:
                    raise FormatError(
                        f"{self.what} unpacks to {size / 2**30:.3g} GiB, and {place} "
                        f"has {free / 2**30:.3g} GiB of free space. Free some, or set "
                        "TMPDIR to a folder that has more."
                    )
                with scratch_file() as file:
                    with self._opened() as packed:
                        while part := packed.read(2**20):
                            with scratching():
                                file.write(part)
                                file.flush()
                    if file.tell() != size:
                        raise self.fault("is cut short")
                    self._unpacked = np.memmap(file, np.uint8, "r")
            return self._unpacked

    def _read_header(self) -> tuple[tuple[int, ...], np.dtype[Any], bool]:
        with self._opened() as file:
            stream = io.BytesIO(file.read(_HEADER_BYTES))
        try:
            version = np.lib.format.read_magic(stream)
            if version == (1, 0):
                header = np.lib.format.read_array_header_1_0(stream)
            else:
                header = np.lib.format.read_array_header_2_0(stream)
        except Exception as error:  # numpy parses the header as Python code
            raise self.fault(f"has a damaged header ({error})") from error
        shape, fortran, dtype = header
        self._data = stream.tell()
        if any(size < 0 for size in shape):
            raise self.fault(f"claims the impossible shape {shape}")
        claimed = math.prod(shape) * dtype.itemsize
        found = self._info.file_size - self._data
        if not dtype.hasobject and claimed != found:
            raise self.fault(
                f"claims the shape {shape} of {dtype}, which takes {claimed} bytes, "
                f"but has {found}"
            )
        return shape, dtype, fortran and len(shape) > 1


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
        except (FormatError, VolumeError) as error:
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
        return read_pickle(member.read_bytes(MAX_BYTES), member.what)
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
