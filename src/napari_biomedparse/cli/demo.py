"""The command `demo`: a sample and the built-in model, without any download."""

from __future__ import annotations

import math
from pathlib import Path

from rich.table import Table

from napari_biomedparse.cli._show import err, out, say
from napari_biomedparse.errors import OptionError


def demo(
    *,
    sample: str = "em",
    output: Path = Path("napari-biomedparse-demo"),
    window: bool = True,
    overwrite: bool = False,
) -> None:
    """Segment a synthetic sample with the small built-in model.

    Nothing is downloaded. Without a display the results are written to files.

    Parameters
    ----------
    sample
        Which sample: em or light-sheet.
    output : FOLDER
        Folder for labels, a picture and a table if no window can be opened.
    window
        Open napari, if there is a display.
    """
    # scipy, which samples are made with, takes a while to import
    from napari_biomedparse.samples import sample_em, sample_light_sheet
    from napari_biomedparse.viewer.samples import can_open_a_window, open_demo

    samples = {"em": sample_em, "light-sheet": sample_light_sheet}
    if sample not in samples:
        raise OptionError(f"There is no sample {sample!r}; choose em or light-sheet.")
    if window and can_open_a_window():
        open_demo(sample)
        return
    from napari_biomedparse.cli._demo import run_demo

    with err.status("Segmenting the sample with the demo model"):
        found = run_demo(samples[sample](), output, overwrite=overwrite)
    table = Table("label", "prompt", "existence", "voxels", "objects", "Dice")
    for label, prompt, existence, voxels, objects, dice in found.itertuples(
        index=False
    ):
        overlap = "absent" if math.isnan(dice) else f"{dice:.2f}"
        scores = f"{existence:.2f}", f"{voxels:,}", str(objects), overlap
        table.add_row(str(label), prompt, *scores)
    out.print(table)
    folder = output.absolute()
    say(f"Labels (OME-Zarr), a picture and this table are in {folder}")
