"""The command `measure`: objects to a table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from napari_biomedparse.cli._show import out, told_in_one_line
from napari_biomedparse.errors import FormatError, OutputError
from napari_biomedparse.io import open_file, open_volume

if TYPE_CHECKING:
    import numpy.typing as npt


def measure(
    labels: Annotated[
        Path,
        typer.Argument(metavar="LABELS", help="The labels, as `segment` wrote them."),
    ],
    image: Annotated[
        Path,
        typer.Option("--image", "-i", help="The volume that was segmented."),
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="OUT.csv", help="Where the table goes."),
    ],
    objects: Annotated[
        bool,
        typer.Option(
            "--objects",
            help="Each label value is an object already, as after `segment "
            "--instances`; otherwise each connected piece of a label is one.",
        ),
    ] = False,
    channel: Annotated[
        str | None, typer.Option(help="Channel to measure the intensity of.")
    ] = None,
) -> None:
    """Measure each object: size, place, brightness and shape, as a CSV table."""
    with told_in_one_line():
        from napari_biomedparse.labels.measure import components_of, measure_objects

        volume = open_volume(image, channel=channel)
        found, prompts = _labels(labels)
        if not objects:
            found, prompts = components_of(found, prompts)
        table = measure_objects(found, volume, prompts=prompts)
        try:
            table.to_csv(output, index=False)
        except OSError as error:
            raise OutputError(
                f"{output} cannot be written ({error.strerror}); choose another place."
            ) from error
        out.print(f"{len(table)} objects, in {table.attrs['unit']}: {output}")


def _labels(path: Path) -> tuple[npt.NDArray[Any], dict[int, str]]:
    """Read integer labels and what they stand for."""
    contents = open_file(path)
    texts: dict[int, str] = {}
    if contents.labels:
        volume, texts = contents.labels[0].volume, dict(contents.labels[0].texts)
    else:
        volume = contents.images[0]
    if not np.issubdtype(volume.dtype, np.integer):
        raise FormatError(
            f"{path} holds {volume.dtype} values and no labels; give the file that "
            "`segment` wrote."
        )
    return np.asarray(volume.data), texts
