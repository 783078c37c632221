"""Open any supported file, and save labels; each format has its own module."""

from __future__ import annotations

import logging
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_biomedparse.data.options import parse_axes
from napari_biomedparse.data.volume import (
    SPATIAL_AXES,
    as_one_slice,
    as_volume,
    choose_channel,
    without_singles,
)
from napari_biomedparse.errors import FormatError, OptionError, VolumeError
from napari_biomedparse.io.contents import LabelVolume
from napari_biomedparse.io.durable import check_place, refuse_inputs, whole_or_nothing
from napari_biomedparse.io.guards.bounds import reading
from napari_biomedparse.io.inputs import FORMATS, SUFFIXES, recognise, stack_files
from napari_biomedparse.io.lazy import NewLabels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from napari_biomedparse.data.prompts import PromptSet
    from napari_biomedparse.data.results import Owners
    from napari_biomedparse.data.volume import ArrayLike, Volume
    from napari_biomedparse.io.contents import Contents
    from napari_biomedparse.io.inputs import Kind

    Saver = Callable[[Path, NewLabels], None]

logger = logging.getLogger(__name__)

_KNOWN = (
    "challenge .npz, TIFF (.tif, .tiff), NIfTI (.nii, .nii.gz), DICOM, OME-Zarr or "
    "Zarr folders (.zarr), and pictures (.png, .jpg, .bmp)"
)
_NAMES: dict[Kind, str] = {
    "dicom": "DICOM file or series",
    "npz": ".npz file",
    "picture": "picture",
    "tiff": "TIFF file",
    "nifti": "NIfTI file",
    "zarr": "Zarr folder",
}
_FOREIGN = {
    b"\x89HDF": "HDF5",
    b"\x93NUMPY": "a single numpy array (store it in an .npz file as 'imgs')",
    b"ZISRAWFILE": "Zeiss CZI",
    b"\xda\xce\xbe\x0a": "Nikon ND2",
    b"p\0\0\0": "Leica LIF",
    b"NRRD": "NRRD",
    b"MATLAB": "a MATLAB file",
    b"\x1f\x8b": "a packed file (gzip) other than NIfTI",
    b"<": "a web page or XML (of a failed download, or beside OME-TIFF)",
    b"{": "JSON",
    b"Rar!": "a RAR archive",
    b"7z\xbc\xaf": "a 7z archive",
    b"%PDF": "a PDF",
}
"""How files of other kinds begin."""


def can_open(path: str | os.PathLike[str]) -> bool:
    """Return whether `open_file` can open a file, folder or pattern."""
    if recognise(path) is not None:
        return True
    files = stack_files(Path(path))
    if not files or recognise(files[0]) == "dicom":
        return bool(files)
    from napari_biomedparse.io.formats.tiff_stack import is_stack

    return is_stack(Path(path))


def open_file(path: str | os.PathLike[str], axes: str | None = None) -> Contents:
    """Open the images, labels and prompts of a file without reading voxels.

    Each block opens the file when it is read, and closes it again.

    Parameters
    ----------
    path : path-like
        Challenge ``.npz``, TIFF of any kind, NIfTI, DICOM, a Zarr folder, or a picture
        (PNG, JPEG, BMP); or a folder or pattern (``slices/*.tif``) of TIFF files, or of
        the DICOM files of one series, that are the slices of one volume.
    axes : str, optional
        Names of the axes of a TIFF's images, in their order, in place of its own:
        letters of T (time), C (channels or colors), Z, Y, X.

    Raises
    ------
    FormatError
        If the file does not exist, is damaged, or its format is not supported. Damage
        to voxels is found when they are read.
    OptionError, VolumeError
        If `axes` are not such letters, or the file's axes cannot be named so.
    """
    named = None if axes is None else parse_axes(axes)
    contents = _open(Path(path), named)
    for image in contents.images[:1]:
        if named not in (None, image.axes):
            raise VolumeError(
                f"{path} has the axes {', '.join(image.axes)} with the sizes "
                f"{', '.join(map(str, image.shape))}, which cannot be named {axes}."
            )
    return contents


def _open(
    path: Path, axes: tuple[str, ...] | None = None, *, stored: bool = False
) -> Contents:
    """Open a file; for `axes` and `stored` see `open_tiff` and `open_picture`."""
    kind = recognise(path)
    files = stack_files(path) if kind is None else ()
    if files and recognise(files[0]) == "dicom":
        kind = "dicom"
    elif files:
        from napari_biomedparse.io.formats.tiff_stack import open_stack

        with reading(path, "is not a complete stack of TIFF files"):
            return open_stack(path, axes, stored=stored)
    if kind is None:
        raise FormatError(_refusal(path))
    with reading(path, f"is not a complete {_NAMES[kind]}"):
        if kind == "picture":
            from napari_biomedparse.io.formats.picture import open_picture

            return open_picture(path, stored=stored)
        if kind == "dicom":
            from napari_biomedparse.io.formats.dicom import open_dicom

            return open_dicom(path, stored=stored)
        more = {"axes": axes, "stored": stored} if kind == "tiff" else {}
        contents = _format_of(kind)[0](path, **more)
    if not contents.images and not contents.labels:
        raise FormatError(
            f"{path} contains neither an image nor labels; choose another file."
        )
    return contents


def open_volume(
    path: str | os.PathLike[str],
    *,
    channel: int | str | None = None,
    time: int | None = None,
    axes: str | None = None,
    voxel_size: str | None = None,
) -> Volume:
    """Open the first image of a file as a volume that can be segmented.

    Parameters
    ----------
    channel : int or str, optional
        Number (from 0) or name of the channel, or "rgb" for all as colours; required
        if there are several that are not called red, green and blue.
    time : int, optional
        Time point (from 0); required if there are volumes of several time points.
    axes : str, optional
        As for `open_file`.
    voxel_size : str, optional
        Size along z, y and x, or one for all, with its unit, in place of the file's:
        "0.5,0.1,0.1um".

    Returns
    -------
    Volume
        Lazy, with three axes, and a fourth for colours. A single image becomes a
        volume of one slice; images over time become one whose first axis is time.

    Raises
    ------
    FormatError
        As for `open_file`, or if the file contains only labels.
    VolumeError
        If a choice is missing or impossible, or there are not two or three axes.
    OptionError
        If `axes` or `voxel_size` are not of that form.
    """
    volume = choose_channel(open_image(path, axes), channel)
    if voxel_size is not None:
        from napari_biomedparse.io.formats.units import with_voxel_size

        volume = with_voxel_size(volume, voxel_size)
    if "t" in volume.axes and (len(volume.axes) > 3 or time is not None):
        volume = volume.select(t=_choose_time(volume, time))
    elif time not in (None, 0):
        raise VolumeError(f"{path} has only one time point; leave the time out.")
    try:
        return as_volume(volume)
    except VolumeError:
        if len(volume.axes) != 3:
            raise
        return volume  # an error about its values is raised when it is used


def open_image(path: str | os.PathLike[str], axes: str | None = None) -> Volume:
    """Open the first image of a file with all its channels and time points, lazily.

    `axes` is that of `open_file`.

    Raises
    ------
    FormatError
        As for `open_file`, or if the file contains only labels.
    """
    contents = open_file(path, axes)
    if not contents.images:
        raise FormatError(
            f"{path} contains only labels; choose the file of the image they belong to."
        )
    volume, *others = contents.images
    if others:
        logger.warning(
            "%s contains %d images; the first one, %s, is used.",
            path,
            1 + len(others),
            volume.name,
        )
    return volume


def open_labels(path: str | os.PathLike[str]) -> LabelVolume:
    """Open the first labels of a file, or else an image of integers, as labels.

    They are lazy, with three axes; a single image becomes one slice. A single image in
    color is a mask: 255 where any color is above 0.

    Raises
    ------
    FormatError
        As for `open_file`.
    VolumeError
        If the values are not integers, or the number of axes is wrong.
    """
    contents = _open(Path(path), stored=True)
    if contents.unread and not contents.labels:
        raise FormatError(f"{contents.unread} Choose other labels.")
    found = contents.labels or tuple(map(LabelVolume, contents.images))
    if len(found) > 1:
        names = ", ".join(one.volume.name for one in found)
        logger.warning("%s has several labels (%s); the first are used.", path, names)
    volume = found[0].volume
    if len(volume.axes) > 3:
        volume = without_singles(volume)
    if volume.axes == (*SPATIAL_AXES[1:], "c"):
        mask = np.any(np.asarray(volume.data) > 0, axis=-1) * np.uint8(255)
        volume = replace(volume.select(c=0), data=mask, levels=())
    if volume.axes == SPATIAL_AXES[1:]:
        volume = as_one_slice(volume)
    if len(volume.shape) != 3:
        raise VolumeError(
            f"{path} has labels with {len(volume.shape)} axes "
            f"({', '.join(volume.axes)}); two (y, x) or three (z, y, x) are needed."
        )
    return replace(found[0], volume=volume)


def read_labels(labels: LabelVolume) -> npt.NDArray[np.integer[Any]]:
    """Read labels into memory, as integers of native byte order."""
    values = np.asarray(labels.volume.data[...])
    if values.dtype.kind == "b":
        return values.astype(np.uint8)
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def check_output(
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    inputs: Iterable[str | Path | None] = (),
) -> None:
    """Check, before anything is computed, that `save_labels` can write to a path.

    Raises
    ------
    OptionError
        If the extension is not supported.
    OutputError
        If the file exists and `overwrite` is False, it belongs to one of the inputs, or
        its folder is missing or cannot be written.
    """
    _find_saver(Path(path))
    check_place(Path(path), overwrite=overwrite, inputs=inputs)


def save_labels(
    path: str | os.PathLike[str],
    labels: ArrayLike,
    *,
    volume: Volume,
    prompts: PromptSet | None,
    owners: Owners | None = None,
    overwrite: bool = False,
) -> None:
    """Write labels with the scale of the volume they belong to.

    Parameters
    ----------
    path : path-like
        The extension chooses the format: ``.npz`` (array ``segs``; spacing in
        millimetres if its unit is known), ``.tif`` or ``.tiff`` (OME-TIFF), ``.nii``
        or ``.nii.gz`` (NIfTI, with the affine of the volume's file; needs the extra
        ``nifti``), ``.zarr`` (OME-Zarr 0.5 label image). The last two also keep the
        origin.
    labels : array
        Integers, 0 is background; numpy, dask or zarr, with the shape of `volume`
        (without colours, and without the slice axis of a single image). Lazy labels
        are computed block by block.
    volume : Volume
        Axes, spacing, units and origin of the labels. Two to four axes; the first of
        four is time.
    prompts : PromptSet or None
        Names to store with the label values.
    owners : Owners, optional
        The prompt of each object, if the values are objects; see `Segmentation`.

    Raises
    ------
    OptionError
        If the extension is not supported.
    OutputError
        If the file exists and `overwrite` is False, it is that of the volume itself, or
        it cannot be written. Nothing is left behind.
    VolumeError
        If the shapes of labels and volume differ, or labels are not integers from 0.
    """
    path = Path(path)
    saver = _find_saver(path)
    refuse_inputs(path, [volume.source])
    if prompts is not None and owners is not None:  # values are objects
        prompts = replace(prompts, instance=True)
    if "c" in volume.axes:
        volume = volume.select(c=0)
    if volume.flat and tuple(labels.shape) == volume.shape[1:]:
        volume = volume.select(z=0)
    if tuple(labels.shape) != volume.shape or not 2 <= len(volume.shape) <= 4:
        raise VolumeError(
            f"The labels have the shape {tuple(labels.shape)} and {volume.name} has "
            f"{volume.shape}; they must be equal, with two to four axes."
        )
    if volume.matrix is not None and not path.name.lower().endswith(FORMATS["nifti"]):
        logger.warning(
            "%s is rotated, sheared or mirrored. %s cannot hold that: the labels have "
            "its voxel size only; NIfTI (.nii.gz) keeps all.",
            volume.name,
            path.name,
        )
    with whole_or_nothing(path, overwrite=overwrite) as temporary:
        saver(temporary, NewLabels(path.name, labels, volume, prompts, owners))


def _format_of(kind: Kind) -> tuple[Callable[..., Contents], Saver]:
    """Return the functions that open and save files of a kind."""
    if kind == "npz":
        from napari_biomedparse.io.formats.npz import open_npz, save_npz

        return open_npz, save_npz
    if kind == "tiff":
        from napari_biomedparse.io.formats.tiff import open_tiff, save_tiff

        return open_tiff, save_tiff
    if kind == "nifti":
        from napari_biomedparse.io.formats.nifti import open_nifti, save_nifti

        return open_nifti, save_nifti
    from napari_biomedparse.io.formats.ome_labels import save_zarr
    from napari_biomedparse.io.formats.zarr import open_zarr

    return open_zarr, save_zarr


def _find_saver(path: Path) -> Saver:
    for kind, suffixes in FORMATS.items():
        if path.name.lower().endswith(suffixes):
            if kind == "nifti":
                from napari_biomedparse.io.formats.nifti import require_nibabel

                require_nibabel(OptionError)
            return _format_of(kind)[1]
    raise OptionError(
        f"{path.name} has no extension of a format for labels; choose one of "
        f"{', '.join(SUFFIXES)}."
    )


def _refusal(path: Path) -> str:
    if re.match(r"[a-z][a-z0-9+.-]+:/", str(path)) and not path.exists():
        return (
            f"{path} is an address, and only files on this machine are read; download "
            "it first."
        )
    if not path.exists():
        return f"{path} does not exist; check the name."
    if not path.is_dir() and not path.is_file():
        return f"{path} is a device or pipe, not a file; choose a file or folder."
    if path.is_dir():
        return (
            f"{path} is a folder without Zarr data, TIFF slices or DICOM files; "
            f"supported formats are {_KNOWN}."
        )
    if path.stat().st_size == 0:
        return f"{path} is empty; copy it again from its source."
    try:
        with path.open("rb") as file:
            head = file.read(352)
    except OSError as error:
        return f"{path} cannot be read ({error.strerror}); check its permissions."
    if head.startswith(b"version https://git-lfs"):
        return f"{path} is a Git LFS pointer and not the file; run: git lfs pull"
    if head[:4] in (b"\x5c\1\0\0", b"\0\0\1\x5c") and head[344:347] in (b"n+1", b"ni1"):
        return (
            f"{path} is the header of a pair of files (.hdr, .img); convert them to "
            "one .nii file, for example with nibabel."
            if head[344:347] == b"ni1"
            else f"{path} is NIfTI, but not named so; let its name end in .nii."
        )
    kinds = [kind for magic, kind in _FOREIGN.items() if head.startswith(magic)]
    found = f"is {kinds[0]}, which is" if kinds else "is"
    return f"{path} {found} not in a supported format; supported formats are {_KNOWN}."


def _choose_time(volume: Volume, time: int | None) -> int:
    count = volume.shape[volume.axes.index("t")]
    if time is None and count == 1:
        return 0
    if time is not None and 0 <= time < count:
        return time
    found = "none was chosen" if time is None else f"{time} is not one of them"
    raise VolumeError(
        f"{volume.name} has {count} time points and {found}; choose 0 to {count - 1}."
    )
