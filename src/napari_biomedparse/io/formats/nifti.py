"""Read and write NIfTI (``.nii``, ``.nii.gz``) with nibabel, the extra ``nifti``.

Voxels are stored with x first, which is our z, y, x read backwards; nothing is rotated
or flipped. The file's header, with its affine, is kept by the volume and used for
labels written for it.
"""

from __future__ import annotations

import gzip
import json
import logging
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_biomedparse.data.prompts import INSTANCE_KEY
from napari_biomedparse.data.volume import Volume
from napari_biomedparse.errors import FormatError, OptionError, install_extra
from napari_biomedparse.io.contents import Contents, label_contents
from napari_biomedparse.io.formats.units import PIXEL, to_millimeters, unit_name
from napari_biomedparse.io.guards.bounds import MAX_METADATA, damaged, most_bytes
from napari_biomedparse.io.inputs import read_head
from napari_biomedparse.io.lazy import Index, NewLabels, grow_chunks, lazy_array

logger = logging.getLogger(__name__)

_AXES = ("c", "t", "z", "y", "x")
_PACKED_BLOCK = 64 * 2**20
"""Compressed files are read from the start for each block, so blocks are large."""
_COMMENT = 6
"""Code of a header extension with text."""
_UNITS = {"millimeter": "mm", "micrometer": "micron", "meter": "meter"}
_TIME_UNITS = {"second": "sec", "millisecond": "msec", "microsecond": "usec"}
_LEFT_BACK = np.array([[-1.0], [-1.0], [1.0]])
"""Changes rows for right and front to left and back, or back."""
_LONGEST = 2**15 - 1
"""Longest axis in NIfTI-1."""


def require_nibabel(error: type[FormatError] | type[OptionError]) -> Any:
    """Return nibabel, or raise an error with the command that installs it."""
    try:
        import nibabel
    except ImportError as missing:
        raise error(
            "NIfTI files need nibabel, which is not installed; run: "
            f"{install_extra('nifti')}"
        ) from missing
    return nibabel


def open_nifti(path: Path) -> Contents:
    """Open a NIfTI file of two to five axes: x, y, z, time and channel.

    Values are scaled as the header specifies. The contents are labels if the intent is
    "label", otherwise an image.
    """
    nibabel = require_nibabel(FormatError)
    head = read_head(path)
    header = _header_of(head[: 348 if b"\x5c" in head[:4] else 540])  # which is 0x15c
    offset = float(header["vox_offset"])  # nibabel would read all that is before it
    if not 0 <= offset <= MAX_METADATA:
        raise damaged(path, f"claims that its voxels begin at byte {offset:.3g}")
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    if packed != path.name.lower().endswith(".gz"):
        raise FormatError(
            f"{path} is {'' if packed else 'not '}packed by gzip, and its name says "
            f"otherwise; let it end in {'.nii.gz' if packed else '.nii'}."
        )
    image = nibabel.load(path, mmap=False)  # else it would stay open
    volume = _make_volume(image, path, packed)
    if image.header.get_intent()[0] != "label":
        return Contents((volume,))
    return label_contents(volume, _read_texts(image.header))


def save_nifti(path: Path, labels: NewLabels) -> None:
    """Write labels as NIfTI, with the header of the volume's own file if it had one.

    Otherwise, or if the volume was moved since, its voxel sizes, origin and matrix make
    up the affine, in millimetres if NIfTI has no code for the unit.
    """
    shape = labels.data.shape
    header = _label_header(shape, labels.volume)
    header.set_data_shape(shape[::-1])
    header.set_data_dtype(labels.dtype)
    header.set_slope_inter(1, 0)
    header.set_intent("label")
    header["cal_min"] = header["cal_max"] = 0
    header["vox_offset"] = 0
    _write_texts(header, labels)
    order = labels.dtype.newbyteorder(header.endianness)
    packed = labels.name.lower().endswith(".gz")
    with (
        path.open("wb") as raw,
        # The name in gzip's header is that of the file, not the temporary one.
        gzip.GzipFile(labels.name, "wb", fileobj=raw, mtime=0)
        if packed
        else raw as file,
    ):
        header.write_to(file)
        file.write(b"\0" * (int(header["vox_offset"]) - file.tell()))
        for slab in labels.slabs(path.parent):
            file.write(np.ascontiguousarray(slab, order).data)


def _header_of(block: bytes) -> Any:
    """Return the header that a file begins with."""
    nibabel = require_nibabel(FormatError)
    kind = nibabel.Nifti1Header if len(block) == 348 else nibabel.Nifti2Header
    return kind(block, check=False)


def _make_volume(image: Any, path: Path, packed: bool) -> Volume:
    header, proxy = image.header, image.dataobj
    shape = tuple(int(n) for n in image.shape[::-1])
    rank = len(shape)
    dtype = np.dtype(image.get_data_dtype())
    if dtype.kind not in "uif" or not 2 <= rank <= len(_AXES):
        raise FormatError(
            f"{path} has {rank} axes of values of type {dtype}; two to five axes of "
            "real numbers are needed. Convert it first."
        )
    if min(shape) < 1:
        raise damaged(path, f"claims the shape {shape[::-1]}, without any voxel")
    if (proxy.slope, proxy.inter) != (1.0, 0.0):
        dtype = np.dtype(np.float32 if dtype.itemsize <= 2 else np.float64)
    axes = _AXES[-rank:]
    stored = np.dtype(image.get_data_dtype()).itemsize

    def read(where: Index) -> npt.NDArray[Any]:
        size = path.stat().st_size
        wanted = stored * math.prod(part.stop - part.start for part in where)
        # Nibabel would allocate it first.
        if wanted > most_bytes(size, "gzip" if packed else "none"):
            raise ValueError(f"its {size} bytes cannot hold the {wanted} of this part")
        return np.asarray(proxy[where[::-1]].T, dtype)

    units, zooms = _units(header), _zooms(header)[::-1]
    if not all(0 < zoom < math.inf for zoom in zooms):
        raise FormatError(
            f"{path} gives the voxel sizes {zooms[::-1]}, and positive numbers are "
            "needed; correct its header."
        )
    _check_length(path, header, stored * math.prod(shape), packed)
    _tell_disagreement(path, header)
    planes = (*(1 for _ in shape[:-2]), *shape[-2:])
    chunks = grow_chunks(planes, shape, dtype.itemsize, axes)
    if packed and rank > 2:
        plane_bytes = math.prod(shape[-2:]) * dtype.itemsize
        thickness = max(1, min(shape[-3], _PACKED_BLOCK // max(1, plane_bytes)))
        chunks = (*planes[:-3], thickness, *shape[-2:])
    return Volume(
        lazy_array(read, shape, dtype, chunks, str(path)),
        axes,
        tuple(zooms),
        tuple(units.get(axis, PIXEL) for axis in axes),
        _origin(image.affine, axes),
        path.name[: -len(".nii.gz" if packed else ".nii")],
        path,
        header=header.binaryblock,
        directions=_directions(image, rank),
    )


def _directions(image: Any, rank: int) -> tuple[tuple[float, ...], ...]:
    """Return the directions of axes in the patient, if the header has them."""
    steps = (image.affine[:3, :3] * _LEFT_BACK).T[::-1]
    lengths = np.linalg.norm(steps, axis=1, keepdims=True)
    if not (image.header["qform_code"] or image.header["sform_code"]) or 0 in lengths:
        return ()
    found = [(0.0, 0.0, 0.0)] * 2 + [tuple(step) for step in (steps / lengths).tolist()]
    return tuple(found[-rank:])


def _zooms(header: Any) -> list[float]:
    return [float(zoom) or 1.0 for zoom in header.get_zooms()]


def _units(header: Any) -> dict[str, str]:
    """Return the unit of each axis: millimetres of space unless the header says else.

    Programs leave its code out, and read millimetres where it is missing.
    """
    try:
        lengths, times = header.get_xyzt_units()
    except KeyError:  # a code that the standard does not have
        lengths, times = "unknown", "unknown"
    length = "millimeter" if lengths == "unknown" else unit_name(lengths)
    return dict.fromkeys("zyx", length) | {"t": unit_name(times)}


def _check_length(path: Path, header: Any, voxels: int, packed: bool) -> None:
    """Refuse a file that ends before its voxels do.

    A packed one is unpacked for that only if its last four bytes, the length of what
    was packed, leave a doubt.
    """
    needed = int(header["vox_offset"]) + voxels
    with path.open("rb") as raw:
        length = raw.seek(-4, 2) + 4
        if packed and int.from_bytes(raw.read(4), "little") == needed % 2**32:
            return
    if packed:
        length = 0
        try:
            with gzip.open(path) as file:
                while length < needed and (part := file.read(2**24)):
                    length += len(part)
        except (OSError, EOFError, zlib.error):
            length = min(length, needed - 1)
    if length < needed:
        found = f"describes {needed} bytes, but only {length} are there"
        raise damaged(path, f"is incomplete: its header {found}")


def _tell_disagreement(path: Path, header: Any) -> None:
    """Warn where the voxel sizes or the two orientations of a header differ."""
    sizes = np.array([*_zooms(header), 1.0, 1.0][:3])
    codes = {"qform": int(header["qform_code"]), "sform": int(header["sform_code"])}
    if codes["sform"] > 0:
        edges = np.linalg.norm(header.get_sform()[:3, :3], axis=0)
        if not np.allclose(edges, sizes, rtol=1e-2):
            logger.warning(
                "%s gives the voxel size %s in pixdim and %s in its sform; the first "
                "is used.",
                path,
                " x ".join(f"{size:.4g}" for size in sizes),
                " x ".join(f"{size:.4g}" for size in edges),
            )
            return
    if min(codes.values()) > 0:
        apart = np.abs(header.get_qform() - header.get_sform())
        if (apart[:3, :3] > 0.05 * sizes).any() or (apart[:3, 3] > sizes.max()).any():
            logger.warning(
                "The qform and the sform of %s place its voxels differently, and "
                "programs differ in which one they use. Labels keep both.",
                path,
            )


def _origin(affine: Any, axes: tuple[str, ...]) -> tuple[float, ...]:
    """Return the position of the first voxel, if the axes are those of the world."""
    turned = affine[:3, :3] - np.diag(np.diag(affine)[:3])
    if turned.any() or (np.diag(affine)[:3] <= 0).any():
        return (0.0,) * len(axes)
    place = dict(zip("xyz", map(float, affine[:3, 3]), strict=True))
    return tuple(place.get(axis, 0.0) for axis in axes)


def _label_header(shape: tuple[int, ...], volume: Volume) -> Any:
    """Return the header of the volume's own file, or one made from its spacing."""
    nibabel = require_nibabel(OptionError)
    if volume.header is not None:
        header = _header_of(volume.header)
        header["magic"] = b"n+1" if len(volume.header) == 348 else b"n+2"
        own, moved = (*header.get_data_shape(), 1)[:3], _has_moved(header, volume)
        if own == (*shape[::-1], 1)[:3] and not moved:
            return header
        if volume.cut_at is not None and len(shape) == 3 and not moved:
            affine = header.get_best_affine()
            start = [volume.cut_at.get(axis, 0) for axis in "xyz"]
            affine[:3, 3] += affine[:3, :3] @ start
            for form in ("sform", "qform"):
                getattr(header, f"set_{form}")(affine, code=int(header[f"{form}_code"]))
            return header
        logger.warning(
            "%s was %s, so its labels do not get its NIfTI orientation.",
            volume.name,
            "moved or scaled" if moved else "cropped",
        )
    large = max(shape) > _LONGEST
    header = nibabel.Nifti2Header() if large else nibabel.Nifti1Header()
    sizes = dict(zip(volume.axes, volume.spacing, strict=True))
    units = dict(zip(volume.axes, volume.units, strict=True))
    at = {axis: i for i, axis in enumerate("xyz") if axis in volume.axes}
    place = [volume.axes.index(axis) for axis in at]
    unit, factor = units["x"], 1.0
    if unit not in _UNITS and (millimeters := to_millimeters(1.0, unit)) is not None:
        unit, factor = "millimeter", millimeters
    edges = [factor * sizes.get(axis, 1.0) for axis in "xyz"]
    affine = np.diag([*edges, 1.0])
    rows = list(at.values())
    affine[np.ix_(rows, rows)] = factor * volume.steps[np.ix_(place, place)]
    affine[rows, 3] = [factor * volume.origin[i] for i in place]
    sides = dict(zip(volume.axes, volume.directions, strict=False))
    if volume.header is None and all(any(sides.get(axis, ())) for axis in "xy"):
        frame = np.array([sides["x"], sides["y"], np.cross(sides["x"], sides["y"])])
        affine[:3] = _LEFT_BACK * frame.T @ affine[:3]  # of DICOM, along its own axes
    header.set_data_shape(shape[::-1])
    header.set_zooms([*edges, sizes.get("t", 1.0)][: len(shape)])
    header.set_xyzt_units(_UNITS.get(unit), _TIME_UNITS.get(units.get("t", "")))
    header.set_sform(affine, code="aligned")
    header.set_qform(affine, code="aligned")
    if not np.allclose(header.get_qform(), affine, rtol=1e-4, atol=1e-4 * max(edges)):
        header.set_qform(None, code="unknown")  # it cannot hold a shear
    return header


def _has_moved(header: Any, volume: Volume) -> bool:
    """Return whether a volume no longer lies where its file's header has it."""
    sizes = dict(zip("xyz", _zooms(header), strict=False))
    places = _origin(header.get_best_affine(), volume.axes)
    space = [i for i, axis in enumerate(volume.axes) if axis in sizes]
    return (
        volume.matrix is not None
        or any(volume.units[i] != _units(header)["x"] for i in space)
        or not np.allclose(
            [volume.spacing[i] for i in space],
            [sizes[volume.axes[i]] for i in space],
            rtol=1e-5,
        )
        or (volume.cut_at is None and not np.allclose(places, volume.origin, rtol=1e-5))
    )


def _write_texts(header: Any, labels: NewLabels) -> None:
    if labels.prompts is None:
        return
    nibabel = require_nibabel(OptionError)
    known = {"text_prompts": labels.texts, INSTANCE_KEY: int(labels.prompts.instance)}
    known |= {} if labels.owners is None else {"owners": labels.owners.describe()}
    text = json.dumps(known).encode()
    header.extensions.append(nibabel.nifti1.Nifti1Extension(_COMMENT, text))


def _read_texts(header: Any) -> dict[str, Any]:
    """Read the prompts that `save_nifti` stored in the header, if any."""
    for extension in header.extensions:
        if extension.get_code() != _COMMENT:
            continue
        content = extension.get_content()
        try:
            known = json.loads(content.rstrip(b"\0") if content else b"")
            texts = {int(i): text for i, text in known["text_prompts"].items()}
            return {**known, "text_prompts": texts}
        except (ValueError, KeyError, TypeError, AttributeError):
            continue  # a comment from another program
    return {}
