"""The command `recognize`: what is in an image of a known kind."""

from __future__ import annotations

from itertools import compress
from pathlib import Path

from rich.table import Table

from napari_biomedparse.cli._show import out, say
from napari_biomedparse.data.prompts import PromptSet, parse_prompts
from napari_biomedparse.data.results import NO_TABLE
from napari_biomedparse.data.text import csv_text
from napari_biomedparse.errors import OptionError
from napari_biomedparse.io.durable import check_place, write_durably, written
from napari_biomedparse.io.files import check_output, save_labels

HEADERS = ("label", "target", "p_value", "outcome", "pixels")


def recognize(
    image: Path,
    *,
    kind: str,
    model: str = "v1",
    output: Path | None = None,
    csv: Path | None = None,
    threshold: float = 0.05,
    table: Path | None = None,
    device: str = "auto",
    precision: str = "auto",
    overwrite: bool = False,
) -> None:
    """Look for all targets of a kind of image with BiomedParse v1.

    Parameters
    ----------
    image : FILE
        A picture, or a file of one slice.
    kind : KIND
        Kind of image, such as 'X-Ray-Chest' or 'Pathology'; a wrong one lists all.
    model : NAME|FILE
        v1 (downloaded on first use) or its weights file.
    output : FILE
        Labels to write (.tif, .npz, .nii.gz, .zarr), in the grid of the image.
    csv : OUT.csv
        Table to write: target, p-value, why it was dropped, and number of pixels.
    threshold
        Lowest p-value of a mask that is kept; 0 keeps all.
    table : FILE.json
        Table of targets in place of the authors'.
    precision : auto|float32|bfloat16|float16
        What the network computes with; see segment.
    """
    from napari_biomedparse.pipeline.recognize import recognize as look

    inputs = [image, table, model]
    if output is not None:
        check_output(output, overwrite=overwrite, inputs=inputs)
        if csv is not None and csv.resolve() == output.resolve():
            raise OptionError(f"{csv} is to be labels and table; choose two names.")
    if csv is not None:
        check_place(csv, overwrite=overwrite, inputs=inputs)
    how = {"device": device, "precision": precision}
    found = look(image, kind, model, threshold=threshold, table=table, **how)
    prompts = parse_prompts(list(found.targets)).prompts
    if output is not None:
        kept = tuple(compress(prompts, found.found))
        save_labels(
            output,
            found.labels,
            volume=found.volume,
            prompts=PromptSet(kept) if kept else None,
            overwrite=overwrite,
        )
    rows = [
        (
            prompt.id,
            prompt.text,
            NO_TABLE if p is None else f"{p:.4f}",
            outcome,
            int((found.labels == prompt.id).sum()),
        )
        for prompt, p, outcome in zip(
            prompts, found.p_values, found.outcomes, strict=True
        )
    ]
    if csv is not None:
        with written(csv):
            write_durably(csv, csv_text(list(HEADERS), rows))
    shown = Table(*HEADERS)
    for row in rows:
        shown.add_row(*map(str, row))
    out.print(shown)
    say(f"{sum(found.found)} of {len(rows)} targets of {kind} found by {model}.")
