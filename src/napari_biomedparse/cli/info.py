"""The command `info`: what is in a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from napari_biomedparse.cli._show import out, say
from napari_biomedparse.io import open_file

if TYPE_CHECKING:
    from napari_biomedparse.data.volume import Volume


def info(file: Path, *, axes: str | None = None) -> None:
    """Show what is in a file: images, existing labels and prompts.

    Parameters
    ----------
    file : FILE
        A challenge .npz; an OME-TIFF, ImageJ TIFF, LSM or plain TIFF (.tif, .tiff);
        NIfTI (.nii, .nii.gz); DICOM; an OME-Zarr or Zarr folder (.zarr); or a folder or
        quoted pattern of TIFF or DICOM files that are the slices of one volume.
    """
    contents = open_file(file, axes)
    table = Table("", "name", "axes", "type", "voxel size")
    for image in contents.images:
        table.add_row("image", *described(image))
    for labels in contents.labels:
        table.add_row("labels", *described(labels.volume))
    out.print(table)
    for image in contents.images:
        if image.channel_names:
            say("Channels: " + ", ".join(image.channel_names))
    if contents.prompts is None:
        say("The file contains no prompts; give some with -p.")
        return
    prompts = Table("label", "prompt")
    for one in contents.prompts.prompts:
        prompts.add_row(str(one.id), one.text)
    out.print(prompts)


def described(volume: Volume) -> tuple[str, str, str, str]:
    """Return name, axes with sizes, type and voxel size of an image."""
    sizes = zip(volume.axes, volume.shape, strict=True)
    return (
        volume.name,
        " ".join(f"{axis}:{size}" for axis, size in sizes),
        str(volume.dtype),
        _voxel_size(volume) or "unknown",
    )


def _voxel_size(volume: Volume) -> str:
    steps: dict[str, list[str]] = {}
    for axis, step, unit in zip(volume.axes, volume.spacing, volume.units, strict=True):
        if unit != "pixel":
            steps.setdefault(unit, []).append(f"{axis} {step:.4g}")
    return "; ".join(f"{', '.join(sizes)} {unit}" for unit, sizes in steps.items())
