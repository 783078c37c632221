"""The command `measure`: label images to a table of their objects."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from napari_biomedparse.cli._options import (
    Channel,
    Overwrite,
    to_number,
    to_path,
    warn_renamed,
)
from napari_biomedparse.cli._show import say
from napari_biomedparse.io import open_volume
from napari_biomedparse.io.durable import check_place, write_durably, written
from napari_biomedparse.io.files import open_labels, read_labels
from napari_biomedparse.io.text import csv_text


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
    overwrite: Overwrite = False,
) -> None:
    """Measure the size, position, intensity and shape of each object (CSV table)."""
    from napari_biomedparse.labels.measure import components_of, measure_objects

    check_place(output, overwrite=overwrite, inputs=[labels, image])
    if objects:
        warn_renamed("--objects", "--instances")
    number = None if channel is None else to_number(channel)
    volume = open_volume(image, channel=number)
    opened = open_labels(labels)
    found, prompts = read_labels(opened), dict(opened.texts)
    if not (instances or objects):
        found, prompts = components_of(found, prompts)
    table = measure_objects(found, volume, prompts=prompts)
    with written(output):
        write_durably(output, csv_text(table.columns, table.itertuples(index=False)))
    say(f"{len(table)} objects, in {table.attrs['unit']}: {output}")
