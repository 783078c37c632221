"""The command `measure`: label images to a table of their objects."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from napari_biomedparse.cli._options import Channel, to_number, to_path, warn_renamed
from napari_biomedparse.cli._show import say
from napari_biomedparse.errors import OutputError
from napari_biomedparse.io import open_volume
from napari_biomedparse.io.files import open_labels, read_labels


def measure(
    labels: Annotated[
        Path,
        typer.Argument(metavar="LABELS", help="The labels, as written by segment."),
    ],
    image: Annotated[
        Path,
        typer.Option("--image", "-i", help="The volume that was segmented."),
    ],
    output: Annotated[Path, to_path("OUT.csv", "The table to write.")],
    instances: Annotated[
        bool,
        typer.Option(
            "--instances",
            help="Each label value is one object, as after segment --instances. By "
            "default each connected component of a label is one.",
        ),
    ] = False,
    objects: Annotated[bool, typer.Option("--objects", hidden=True)] = False,
    channel: Channel = None,
) -> None:
    """Measure the size, position, intensity and shape of each object (CSV table)."""
    from napari_biomedparse.labels.measure import components_of, measure_objects

    if objects:
        warn_renamed("--objects", "--instances")
    number = None if channel is None else to_number(channel)
    volume = open_volume(image, channel=number)
    opened = open_labels(labels)
    found, prompts = read_labels(opened), dict(opened.texts)
    if not (instances or objects):
        found, prompts = components_of(found, prompts)
    table = measure_objects(found, volume, prompts=prompts)
    try:
        table.to_csv(output, index=False)
    except OSError as error:
        raise OutputError(
            f"{output} cannot be written ({error.strerror}); choose another path."
        ) from error
    say(f"{len(table)} objects, in {table.attrs['unit']}: {output}")
