"""The command `teach`: corrected slices to a small file that finds better."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from napari_biomedparse.cli._options import takes_options, to_number
from napari_biomedparse.cli._runs import model_named
from napari_biomedparse.cli._show import out, say
from napari_biomedparse.data.options import SegmentOptions
from napari_biomedparse.errors import OptionError
from napari_biomedparse.io.durable import check_place


@takes_options(SegmentOptions, common=("modality",), without=("slices", "region"))
def teach(
    volume: Path,
    labels: Path,
    *,
    prompt: list[str],
    output: Path,
    corrected: str | None = None,
    model: str | None = None,
    channel: str | None = None,
    options: SegmentOptions,
    device: str = "auto",
    overwrite: bool = False,
) -> None:
    """Learn from a few corrected slices what the prompts mean in a volume.

    The network itself does not change, and where a prompt gains nothing on corrected
    slices that are left out, its text alone stays.

    Parameters
    ----------
    volume : IN
        The volume.
    labels : LABELS
        Labels of its shape: the first prompt has label 1, the second 2, and so on.
    output : OUT.taught.safetensors
        File to write, for the option --model of the other commands.
    corrected : N,N,...
        Numbers of the corrected slices, from 0; all voxels of them count. By default
        those with a label.
    """
    from napari_biomedparse.io.files import open_volume
    from napari_biomedparse.learning.teach import teach as learn

    check_place(output, overwrite=overwrite, inputs=[volume, labels])
    with model_named(model) as name:
        taught = learn(
            open_volume(
                volume,
                channel=None if channel is None else to_number(channel),
                axes=options.axes,
            ),
            labels,
            prompt,
            name,
            options,
            corrected=None if corrected is None else _numbers(corrected),
            device=device,
        )
    taught.save(output, overwrite=overwrite)
    shown = Table("prompt", "Dice, text alone", "Dice, taught", "kept")
    for one in taught.lessons:
        scores = f"{one.dice_text:.3f}", f"{one.dice_taught:.3f}"
        shown.add_row(one.text, *scores, "taught" if one.helps else "text alone")
    out.print(shown)
    say(
        f"Dice on corrected slices left out; {len(taught.slices)} corrected slices of "
        f"{taught.volume}. Use it with --model {output}"
    )


def _numbers(text: str) -> list[int]:
    """Parse "3,7,12"."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise OptionError(
            f"{text!r} is not a list of slices; give numbers such as 3,7,12."
        ) from error
