"""The command `measure`: label images to a table of their objects."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from napari_biomedparse.cli._options import to_number, warn_renamed
from napari_biomedparse.cli._show import say
from napari_biomedparse.data.volume import Volume, as_one_slice, without_singles
from napari_biomedparse.io import open_image, open_volume
from napari_biomedparse.io.durable import check_place, temporary_array
from napari_biomedparse.io.files import open_labels
from napari_biomedparse.io.formats.units import with_voxel_size


def measure(
    labels: Path,
    *,
    image: Path,
    output: Path,
    instances: bool = False,
    objects: Annotated[bool, typer.Option("--objects", hidden=True)] = False,
    channel: str | None = None,
    axes: str | None = None,
    voxel_size: str | None = None,
    overwrite: bool = False,
) -> None:
    """Measure the size, position, intensity and shape of each object (CSV table).

    Parameters
    ----------
    labels : LABELS
        The labels, as written by segment.
    image
        The volume that was segmented.
    output : OUT.csv
        The table to write; OUT_prompts.csv gets the sums.
    instances
        Each label value is one object, as after segment --instances. By default each
        connected component of a label is one.
    """
    from napari_biomedparse.labels.measure import components_of, measure_objects
    from napari_biomedparse.report.objects import save_tables, sums_path

    for place in (output, sums_path(output)):
        check_place(place, overwrite=overwrite, inputs=[labels, image])
    if objects:
        warn_renamed("--objects", "--instances")
    volume = _open(image, None if channel is None else to_number(channel), axes)
    if voxel_size is not None:
        volume = with_voxel_size(volume, voxel_size)
    opened = open_labels(labels)
    found, prompts = opened.volume.data, opened.names
    if not (instances or objects):
        found, prompts = components_of(found, prompts, temporary_array)
    table = measure_objects(found, volume, prompts=prompts)
    if opened.owners is not None and (instances or objects):
        opened.owners.add_to(table)
    files = save_tables(table, output, overwrite=overwrite)
    names = " and ".join(map(str, files))
    say(f"{len(table)} objects, in {table.attrs['unit']}: {names}")


def _open(image: Path, channel: int | str | None, axes: str | None) -> Volume:
    """Open an image with all its channels, unless one is chosen."""
    volume = without_singles(open_image(image, axes))
    if channel is not None or "c" not in volume.axes or "t" in volume.axes:
        return open_volume(image, channel=channel, axes=axes)
    return as_one_slice(volume) if len(volume.axes) == 3 else volume
